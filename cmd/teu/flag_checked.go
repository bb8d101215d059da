package main

import (
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner"
)

// checked is the value of a flag that refuses what is wrong while the command line is read, so that
// the error names the flag as docker's does: invalid argument "x" for "-m, --memory" flag: ...
type checked struct {
	pflag.Value
	check func(text string) error
}

func (c checked) Set(text string) error {
	if err := c.check(text); err != nil {
		return err
	}
	return c.Value.Set(text)
}

// check makes a flag checked.
func check(f *pflag.FlagSet, name string, check func(text string) error) {
	flag := f.Lookup(name)
	flag.Value = checked{flag.Value, check}
}

func checkSize(text string) error {
	_, err := units.RAMInBytes(text)
	return err
}

// checkSwap takes -1 too, which is no limit.
func checkSwap(text string) error {
	if text == "-1" {
		return nil
	}
	return checkSize(text)
}

// nanoCPUs are the billionths of a processor that --cpus says: 1.5, or a fraction.
func nanoCPUs(text string) (int64, error) {
	n, ok := new(big.Rat).SetString(text)
	if !ok {
		return 0, fmt.Errorf("failed to parse %s as a rational number", text)
	}
	if n.Mul(n, big.NewRat(1e9, 1)); !n.IsInt() || !n.Num().IsInt64() {
		return 0, errors.New("value is too precise")
	}
	return n.Num().Int64(), nil
}

func checkCPUs(text string) error {
	if len(text) > 32 { // 1e999999999 would take the memory of the machine
		return fmt.Errorf("failed to parse %s as a rational number", text)
	}
	if _, exponent, ok := strings.Cut(strings.ToLower(text), "e"); ok {
		if n, err := strconv.Atoi(exponent); err != nil || n < -9 || n > 9 {
			return fmt.Errorf("failed to parse %s as a rational number", text)
		}
	}
	_, err := nanoCPUs(text)
	return err
}

// umaskOf reads --umask, which is octal with or without a zero before it.
func umaskOf(text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 8, 32)
	if err == nil && n > 0o777 {
		err = fmt.Errorf("invalid umask %#o: it is a number from 0 to 0777", n)
	}
	return uint32(n), err
}

func checkUmask(text string) error {
	_, err := umaskOf(text)
	return err
}

func checkUlimit(text string) error {
	_, err := units.ParseUlimit(text)
	return err
}

func checkDeviceRule(text string) error {
	_, err := parseDeviceRule(text)
	return err
}

// checkWeight understands PATH:WEIGHT, deviceRate's forms with 10 to 1000.
func checkWeight(text string) error {
	_, value, err := cutDevice(text)
	if err != nil {
		return err
	}
	if n, err := strconv.ParseUint(value, 10, 16); err != nil || n > 0 && (n < 10 || n > 1000) {
		return fmt.Errorf("invalid weight for device: %s", text)
	}
	return nil
}

func checkBytesRate(text string) error {
	_, value, err := cutDevice(text)
	if err != nil {
		return err
	}
	if n, err := units.RAMInBytes(value); err != nil || n < 0 {
		return fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>[<unit>]. Number must be a positive integer. Unit is optional and can be kb, mb, or gb", text)
	}
	return nil
}

func checkCountRate(text string) error {
	_, value, err := cutDevice(text)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(value, 10, 64); err != nil {
		return fmt.Errorf("invalid rate for device: %s. The correct format is <device-path>:<number>. Number must be a positive integer", text)
	}
	return nil
}

// cutDevice splits PATH:VALUE.
func cutDevice(text string) (device, value string, err error) {
	device, value, ok := strings.Cut(text, ":")
	switch {
	case !ok || device == "":
		return "", "", fmt.Errorf("bad format: %s", text)
	case !strings.HasPrefix(device, "/dev/"):
		return "", "", fmt.Errorf("bad format for device path: %s", text)
	}
	return device, value, nil
}

// checkLabel refuses labels without a name, and names with a space in them (docker/cli
// opts.ValidateLabel).
func checkLabel(label string) error {
	name, _, _ := strings.Cut(label, "=")
	name = strings.TrimLeft(name, " \t")
	if name == "" {
		return fmt.Errorf("invalid label '%s': empty name", label)
	}
	if strings.ContainsAny(name, " \t") {
		return fmt.Errorf("label '%s' contains whitespaces", name)
	}
	return nil
}

func checkEnv(text string) error {
	if text == "" || text[0] == '=' {
		return fmt.Errorf("invalid environment variable: %s", text)
	}
	return nil
}

func checkAttach(stream string) error {
	if !slices.Contains([]string{"stdin", "stdout", "stderr"}, strings.ToLower(stream)) {
		return errors.New("valid streams are STDIN, STDOUT and STDERR")
	}
	return nil
}

func checkSysctl(text string) error {
	if !isContainersSysctl(text) {
		return fmt.Errorf("sysctl '%s' is not allowed", text)
	}
	return nil
}

func checkLink(text string) error {
	switch {
	case text == "":
		return errors.New("empty string specified for links")
	case strings.Count(text, ":") > 1:
		return fmt.Errorf("bad format for links: %s", text)
	}
	return nil
}

// extraHost is NAME:ADDRESS of --add-host, which may be NAME=ADDRESS and have the address in brackets.
func extraHost(text string) string {
	if i := strings.IndexAny(text, ":="); i > 0 {
		return text[:i] + ":" + strings.Trim(text[i+1:], "[]")
	}
	return text
}

func checkAddHost(text string) error { return clientError(runner.CheckExtraHost(extraHost(text))) }

// checkDNS takes the address of a name server. A zone is the container's affair, which has none.
func checkDNS(text string) error {
	if a, err := netip.ParseAddr(strings.TrimSpace(text)); err != nil || a.Zone() != "" {
		return fmt.Errorf("IP address is not correctly formatted: %s", text)
	}
	return nil
}

// checkSearch takes a domain that is searched; a dot is none.
func checkSearch(text string) error {
	name := strings.TrimSpace(text)
	if name == "." {
		return nil
	}
	bad := fmt.Errorf("%s is not a valid domain", text)
	letters := false
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return bad
		}
		for _, c := range []byte(label) {
			letter := 'a' <= c|0x20 && c|0x20 <= 'z'
			if letters = letters || letter; !letter && c != '-' && (c < '0' || c > '9') {
				return bad
			}
		}
	}
	if !letters || len(name) > 255 {
		return bad
	}
	return nil
}

// checkIP takes an address of either kind, as docker's flags do; which kind it has to be the engine says.
func checkIP(text string) error {
	if text == "" {
		return nil
	}
	if a, err := netip.ParseAddr(strings.TrimSpace(text)); err != nil || a.Zone() != "" {
		return fmt.Errorf("failed to parse IP: %q", text)
	}
	return nil
}

// checkDevice takes HOST[:CONTAINER[:MODE]] or HOST:MODE (docker/cli validateDevice).
func checkDevice(text string) error {
	parts := strings.Split(text, ":")
	inside := parts[min(1, len(parts)-1)]
	switch {
	case len(parts) > 3 || parts[0] == "":
		return fmt.Errorf("bad format for path: %s", text)
	case len(parts) == 3 && !isDeviceMode(parts[2]):
		return fmt.Errorf("bad mode specified: %s", parts[2])
	case len(parts) == 2 && isDeviceMode(parts[1]):
		inside = parts[0]
	}
	if !path.IsAbs(inside) {
		return fmt.Errorf("%s is not an absolute path", inside)
	}
	return nil
}

// isDeviceMode says whether a word is of r, w and m, each once at the most.
func isDeviceMode(mode string) bool {
	return mode != "" && strings.Trim(mode, "rwm") == "" &&
		strings.Count(mode, "r") < 2 && strings.Count(mode, "w") < 2 && strings.Count(mode, "m") < 2
}
