package launch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// String prints the plan as strace would print its execution: one operation a line with
// its number, results that are used later as rN, notes as headings.
func (p *Program) String() string {
	used := make([]bool, len(p.ops))
	for i := range p.ops {
		o := &p.ops[i]
		for k := range o.args {
			if o.kinds[k] == argResult {
				used[o.args[k]] = true
			}
		}
		for _, c := range []int32{o.when, o.unless} {
			if c != 0 {
				used[c-1] = true
			}
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "clone(%s)\n", flagNames(p.opts.CloneFlags, cloneFlags))
	note := uint32(0)
	for i := range p.ops {
		o := &p.ops[i]
		if o.note != note {
			note = o.note
			fmt.Fprintf(&b, "# %s\n", p.notes[note])
		}
		result := ""
		if used[i] {
			result = fmt.Sprintf("r%d = ", i)
		}
		fmt.Fprintf(&b, "%4d  %s%s%s\n", i, result, p.call(o), o.condition())
	}
	return b.String()
}

func (o *op) condition() string {
	var s []string
	if o.when != 0 {
		s = append(s, fmt.Sprintf("if r%d", o.when-1))
	}
	if o.unless != 0 {
		s = append(s, fmt.Sprintf("unless r%d", o.unless-1))
	}
	for _, e := range o.ignore {
		switch {
		case unix.Errno(e) == AnyError:
			s = append(s, "may fail")
		case e != 0:
			s = append(s, unix.ErrnoName(unix.Errno(e))+" ok")
		}
	}
	if len(s) == 0 {
		return ""
	}
	return "  [" + strings.Join(s, ", ") + "]"
}

func (p *Program) call(o *op) string {
	sig := signatureOf(o.nr)
	args := make([]string, 0, 6)
	for k, kind := range strings.Split(sig.args, ",") {
		if kind != "" && k < len(o.args) {
			args = append(args, p.arg(o, k, kind))
		}
	}
	return sig.name + "(" + strings.Join(args, ", ") + ")"
}

// arg prints one argument; kind is a word of the signatures.
func (p *Program) arg(o *op, k int, kind string) string {
	v := o.args[k]
	switch o.kinds[k] {
	case argResult:
		return fmt.Sprintf("r%d", v)
	case argData:
		return p.pointed(o, v, kind)
	}
	switch kind {
	case "fd":
		if int32(v) == unix.AT_FDCWD {
			return "AT_FDCWD"
		}
		return strconv.Itoa(int(int32(v)))
	case "int":
		return strconv.FormatInt(int64(v), 10)
	case "oct":
		return "0" + strconv.FormatUint(v, 8)
	case "errno":
		return unix.ErrnoName(unix.Errno(v))
	case "prctl":
		for _, f := range prctlNames() {
			if f.bits == v {
				return f.name
			}
		}
	}
	if names, ok := flagSets(kind); ok {
		return flagNames(v, names)
	}
	if v == 0 {
		return "0"
	}
	return "0x" + strconv.FormatUint(v, 16)
}

func (p *Program) pointed(o *op, at uint64, kind string) string {
	switch kind {
	case "str":
		return quote(p.str(at))
	case "buf":
		if n := o.args[2]; o.kinds[2] == argInt && n <= uint64(len(p.data))-at {
			return quote(string(p.data[at : at+n]))
		}
	case "strs":
		return p.strs(at)
	case "how":
		if at+24 <= uint64(len(p.data)) {
			flags, resolve := binary.NativeEndian.Uint64(p.data[at:]), binary.NativeEndian.Uint64(p.data[at+16:])
			return "{" + flagNames(flags, openFlags) + ", " + flagNames(resolve, resolveFlags) + "}"
		}
	case "attr":
		if at+32 <= uint64(len(p.data)) {
			set, clr := binary.NativeEndian.Uint64(p.data[at:]), binary.NativeEndian.Uint64(p.data[at+8:])
			return fmt.Sprintf("{set %s, clear %s, propagation %s}", flagNames(set, mountAttrs), flagNames(clr, mountAttrs),
				flagNames(binary.NativeEndian.Uint64(p.data[at+16:]), mountFlags))
		}
	}
	return fmt.Sprintf("&%d", at)
}

func (p *Program) str(at uint64) string {
	s := p.data[at:]
	if n := bytes.IndexByte(s, 0); n >= 0 {
		s = s[:n]
	}
	return string(s)
}

// strs prints an array of strings by the pointers that will be written into it.
func (p *Program) strs(at uint64) string {
	to := map[uint64]uint32{}
	for _, r := range p.relocs {
		to[uint64(r.at)] = r.to
	}
	var list []string
	for ; ; at += 8 {
		s, ok := to[at]
		if !ok {
			return "[" + strings.Join(list, ", ") + "]"
		}
		list = append(list, quote(p.str(uint64(s))))
	}
}

func quote(s string) string {
	if len(s) > 200 {
		return strconv.Quote(s[:200]) + "..."
	}
	return strconv.Quote(s)
}
