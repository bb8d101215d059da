package systemd

import (
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/godbus/dbus/v5"
)

// property is one of a unit, as org.freedesktop.systemd1(5) has it.
type property struct {
	Name  string
	Value dbus.Variant
}

// limits are the properties that say the same as values in files of a v2 group. systemd
// would undo what it does not know of whenever it applies its own (daemon-reload).
func limits(files iter.Seq2[string, string]) []property {
	numbers := map[string]string{
		"memory.max": "MemoryMax", "memory.high": "MemoryHigh", "memory.low": "MemoryLow", "memory.min": "MemoryMin",
		"memory.swap.max": "MemorySwapMax", "pids.max": "TasksMax", "cpu.weight": "CPUWeight", "io.weight": "IOWeight",
	}
	var list []property
	for file, value := range files {
		switch file {
		case "cpu.max":
			list = append(list, quota(value)...)
		case "cpuset.cpus":
			list = appendSet(list, "AllowedCPUs", value)
		case "cpuset.mems":
			list = appendSet(list, "AllowedMemoryNodes", value)
		default:
			name, ok := numbers[file]
			if n, err := number(value); ok && err == nil {
				list = append(list, property{name, dbus.MakeVariant(n)})
			}
		}
	}
	return list
}

// number is a limit; none is the largest.
func number(value string) (uint64, error) {
	if value == "max" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(value, 10, 64)
}

// quota is "QUOTA [PERIOD]" of cpu.max in microseconds. systemd counts in hundredths of a
// processor, of which it gets the next one above.
func quota(value string) []property {
	var period uint64 = 100_000
	text, given, hasPeriod := strings.Cut(value, " ")
	q, err := number(text)
	if hasPeriod && err == nil {
		period, err = strconv.ParseUint(given, 10, 64)
	}
	if err != nil || period == 0 {
		return nil
	}
	perSecond := q
	if q != math.MaxUint64 {
		const percent = 10_000 // of a second
		perSecond = (q*1_000_000/period + percent - 1) / percent * percent
	}
	list := []property{{"CPUQuotaPerSecUSec", dbus.MakeVariant(perSecond)}}
	if hasPeriod {
		list = append(list, property{"CPUQuotaPeriodUSec", dbus.MakeVariant(period)})
	}
	return list
}

// appendSet adds a set of processors or memory nodes: bits, the lowest first.
func appendSet(list []property, name, value string) []property {
	const most = 1 << 16
	var bits []byte
	for part := range strings.SplitSeq(value, ",") {
		first, last, ok := strings.Cut(strings.TrimSpace(part), "-")
		if !ok {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, e := strconv.Atoi(last)
		if err != nil || e != nil || from < 0 || to >= most {
			return list // the kernel refuses it, too
		}
		for n := from; n <= to; n++ {
			for len(bits) <= n/8 {
				bits = append(bits, 0)
			}
			bits[n/8] |= 1 << (n % 8)
		}
	}
	return append(list, property{name, dbus.MakeVariant(bits)})
}

// annotated are the properties that annotations of a bundle ask for, as runc takes them:
// "org.systemd.property.NAME" with a value in the text format of GVariant. A name that ends
// in Sec is one in seconds of a property that ends in USec.
func annotated(annotations map[string]string) ([]property, error) {
	var list []property
	for key, text := range annotations {
		name, ok := strings.CutPrefix(key, "org.systemd.property.")
		if !ok {
			continue
		}
		value, err := parseValue(text)
		if err != nil || !propertyName(name) {
			return nil, fmt.Errorf("annotation %s=%s: no property of systemd: %w", key, text, errdefs.ErrInvalidArgument)
		}
		if base, ok := strings.CutSuffix(name, "Sec"); ok && !strings.HasSuffix(name, "USec") {
			n, err := microseconds(value)
			if err != nil {
				return nil, fmt.Errorf("annotation %s=%s: %w", key, text, err)
			}
			name, value = base+"USec", n
		}
		list = append(list, property{name, dbus.MakeVariant(value)})
	}
	return list, nil
}

// parseValue reads what units have of the text format of GVariant: "true", "'text'",
// "['text', 'text']", "7", "0.5" and "uint64 7".
func parseValue(text string) (any, error) {
	text = strings.TrimSpace(text)
	switch {
	case text == "true" || text == "false":
		return text == "true", nil
	case strings.HasPrefix(text, "["):
		return parseList(text[1:])
	case strings.HasPrefix(text, "'") || strings.HasPrefix(text, `"`):
		value, rest, err := parseQuoted(text)
		if rest != "" {
			err = errdefs.ErrInvalidArgument
		}
		return value, err
	}
	kind, number, typed := strings.Cut(text, " ")
	if !typed {
		if kind, number = "int32", text; strings.ContainsAny(text, ".e") {
			kind = "double"
		}
	}
	number = strings.TrimSpace(number)
	switch kind {
	case "int32":
		n, err := strconv.ParseInt(number, 0, 32)
		return int32(n), err
	case "uint32":
		n, err := strconv.ParseUint(number, 0, 32)
		return uint32(n), err
	case "int64":
		return strconv.ParseInt(number, 0, 64)
	case "uint64":
		return strconv.ParseUint(number, 0, 64)
	case "double":
		return strconv.ParseFloat(number, 64)
	}
	return nil, errdefs.ErrInvalidArgument
}

// parseList reads texts up to the bracket that ends their list, and the text.
func parseList(text string) (list []string, err error) {
	for {
		value, rest, err := parseQuoted(strings.TrimSpace(text))
		if err != nil {
			return nil, err
		}
		list = append(list, value)
		rest = strings.TrimSpace(rest)
		if rest == "]" {
			return list, nil
		}
		var more bool
		if text, more = strings.CutPrefix(rest, ","); !more {
			return nil, errdefs.ErrInvalidArgument
		}
	}
}

// parseQuoted reads a text in quotes, of either kind.
func parseQuoted(text string) (value, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(text) && (text[0] == '\'' || text[0] == '"'); i++ {
		switch {
		case text[i] == text[0]:
			return b.String(), text[i+1:], nil
		case text[i] == '\\' && i+1 < len(text):
			i++
		}
		b.WriteByte(text[i])
	}
	return "", "", errdefs.ErrInvalidArgument
}

func propertyName(name string) bool {
	for _, r := range name {
		if (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') {
			return false
		}
	}
	return len(name) >= 3 && name[0] >= 'A' && name[0] <= 'Z'
}

func microseconds(seconds any) (uint64, error) {
	switch n := seconds.(type) {
	case float64:
		if n >= 0 && n < 1e12 {
			return uint64(n * 1e6), nil
		}
	default:
		if n, err := strconv.ParseUint(fmt.Sprint(n), 10, 43); err == nil {
			return n * 1e6, nil
		}
	}
	return 0, fmt.Errorf("not a number of seconds: %w", errdefs.ErrInvalidArgument)
}
