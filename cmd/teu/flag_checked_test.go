package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/runner"
)

// parseCreate reads the flags of create.
func parseCreate(args ...string) (runner.Options, error) {
	var c containerFlags
	f := pflag.NewFlagSet("create", pflag.ContinueOnError)
	f.SetOutput(io.Discard)
	c.add(f)
	if err := f.Parse(args); err != nil {
		return runner.Options{}, err
	}
	return c.options(f, "box", nil)
}

// What is refused, in the words of docker 29. The engine's refusals end create with 1, the command's with 125.
func TestWrongFlags(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, test := range []struct {
		args   []string
		want   string
		engine bool
	}{
		{[]string{"-m", "abc"}, `invalid argument "abc" for "-m, --memory" flag: invalid size: 'abc'`, false},
		{[]string{"-m", ""}, `invalid argument "" for "-m, --memory" flag: invalid size: ''`, false},
		{[]string{"--memory-swap", "-2"}, `invalid argument "-2" for "--memory-swap" flag: invalid size: '-2'`, false},
		{[]string{"--shm-size", ""}, `invalid argument "" for "--shm-size" flag: invalid size: ''`, false},
		{[]string{"--kernel-memory", "x"}, `invalid argument "x" for "--kernel-memory" flag: invalid size: 'x'`, false},
		{[]string{"--cpus", "abc"}, `invalid argument "abc" for "--cpus" flag: failed to parse abc as a rational number`, false},
		{[]string{"--cpus", "1e999999999"}, `invalid argument "1e999999999" for "--cpus" flag: failed to parse 1e999999999 as a rational number`, false},
		{[]string{"--cpus", "1000000"}, "range of CPUs is from 0.01", true},
		{[]string{"--cpu-shares", "-1"}, "invalid CPU shares (-1): value must be a positive integer", true},
		{[]string{"--blkio-weight-device", "/dev/null:5"}, `invalid argument "/dev/null:5" for "--blkio-weight-device" flag: invalid weight for device: /dev/null:5`, false},
		{[]string{"--device-read-bps", "/dev/null:-1"}, `for "--device-read-bps" flag: invalid rate for device: /dev/null:-1. The correct format is <device-path>:<number>[<unit>]. Number`, false},
		{[]string{"--device-write-iops", "/dev/null:1mb"}, "The correct format is <device-path>:<number>. Number must be a positive integer", false},
		{[]string{"--ulimit", "nofile=2:1"}, `invalid argument "nofile=2:1" for "--ulimit" flag: ulimit soft limit must be less than or equal to hard limit: 2 > 1`, false},
		{[]string{"-p", "[::1%lo]:80:80"}, "invalid IP address: ::1%lo", false},
		{[]string{"--expose", "x"}, "invalid range format for --expose: invalid start port 'x': invalid syntax", false},
		{[]string{"--expose", "1-65536"}, "invalid range format for --expose: invalid end port '65536': value out of range", false},
		{[]string{"--expose", "82-80"}, "invalid range format for --expose: invalid port range: 82-80", false},
		{[]string{"--expose", ""}, "invalid range format for --expose: invalid port range: value is empty", false},
		{[]string{"--env-file", "nosuch"}, "--env-file: open nosuch: no such file or directory", false},
		{[]string{"-l", "a b=1"}, `invalid argument "a b=1" for "-l, --label" flag: label 'a b' contains whitespaces`, false},
		{[]string{"--add-host", "h"}, `invalid argument "h" for "--add-host" flag: bad format for add-host: "h"`, false},
		{[]string{"--dns", "fe80::1%lo"}, `invalid argument "fe80::1%lo" for "--dns" flag: IP address is not correctly formatted: fe80::1%lo`, false},
		{[]string{"--dns-search", "a..b"}, `invalid argument "a..b" for "--dns-search" flag: a..b is not a valid domain`, false},
		{[]string{"--dns-search", "x_y"}, `invalid argument "x_y" for "--dns-search" flag: x_y is not a valid domain`, false},
		{[]string{"--device", "null"}, "null is not an absolute path", false},
		{[]string{"--device", "/dev/null:/dev/x:rr"}, "bad mode specified: rr", false},
		{[]string{"--device-cgroup-rule", "c 1:3 rwmr"}, `invalid argument "c 1:3 rwmr" for "--device-cgroup-rule" flag: invalid device cgroup format 'c 1:3 rwmr'`, false},
		{[]string{"--security-opt", "writable-cgroups"}, `invalid --security-opt: "writable-cgroups"`, false},
		{[]string{"--security-opt", "nosuch=1"}, `invalid --security-opt 2: "nosuch=1"`, true},
		{[]string{"--security-opt", "seccomp=nosuch"}, "opening seccomp profile (nosuch) failed: open nosuch: no such file or directory", false},
		{[]string{"--restart", ":3"}, "invalid restart policy format: no policy provided before colon", false},
		{[]string{"--log-opt", "nosuch=1"}, "unknown log opt 'nosuch' for json-file log driver", true},
		{[]string{"--stop-signal", "x"}, "invalid signal: x", true},
		{[]string{"--runtime", "nosuch"}, "unknown or invalid runtime name: nosuch", true},
		{[]string{"--pid", "private"}, "--pid: invalid PID mode", false},
		{[]string{"--uts", "x"}, "--uts: invalid UTS mode", false},
		{[]string{"--cgroupns", "x"}, "--cgroupns: invalid CGROUP mode", false},
		{[]string{"--network", ""}, "no name set for network", false},
		{[]string{"--network", "name=n,nosuch=1"}, `invalid argument "name=n,nosuch=1" for "--network" flag: invalid field key nosuch`, false},
		{[]string{"--network", "name=n,gw-priority=x"}, `for "--network" flag: invalid gw-priority (x): invalid syntax`, false},
		{[]string{"--network", "name=n,ip=x"}, `for "--network" flag: ParseAddr("x"): unable to parse IP`, false},
		{[]string{"--ip", "x"}, `invalid argument "x" for "--ip" flag: failed to parse IP: "x"`, false},
		{[]string{"--link", ""}, `invalid argument "" for "--link" flag: empty string specified for links`, false},
		{[]string{"--network-alias", "a"}, "network-scoped aliases are only supported for user-defined networks", false},
		{[]string{"-v", "/a:"}, "invalid spec: /a:: empty section between colons", false},
		{[]string{"-v", "/a:/b:x"}, "invalid mode: x", true},
		{[]string{"--mount", "type=bind,dst=/b"}, `invalid mount config for type "bind": field Source must not be empty`, true},
		{[]string{"--mount", "type=bind,src=dir,dst=/b"}, `invalid mount config for type "bind": invalid mount path: 'dir' mount path must be absolute`, true},
		{[]string{"--mount", "type=volume"}, `invalid mount config for type "volume": field Target must not be empty`, true},
		{[]string{"--mount", "type=bind,src=/a,dst=/b,bind-propagation=x"}, `invalid mount config for type "bind": invalid propagation mode: x`, true},
		{[]string{"--mount", "type=x,dst=/b"}, `invalid mount config for type "x": mount type unknown`, true},
		{[]string{"--mount", ""}, `invalid argument "" for "--mount" flag: value is empty`, false},
		{[]string{"--mount", "type=bind,src=,dst=/b"}, `for "--mount" flag: invalid value for 'src': value is empty`, false},
		{[]string{"--mount", "type=bind, src=/a,dst=/b"}, `for "--mount" flag: invalid option 'src' in ' src=/a': option should not have whitespace`, false},
		{[]string{"--mount", "type=bind,src=/a,dst=/b,ro=x"}, `invalid value for 'ro': invalid boolean value ("x"): must be one of "true", "1", "false", or "0"`, false},
		{[]string{"--mount", "type=bind,src=/a,dst=/b,nosuch=1"}, `for "--mount" flag: unknown option 'nosuch' in 'nosuch=1'`, false},
	} {
		_, err := parseCreate(test.args...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%q: got %v, want %s", test.args, err, test.want)
		} else if errdefs.IsInvalidArgument(err) != test.engine {
			t.Errorf("%q: the engine's error: %v, want %v", test.args, !test.engine, test.engine)
		}
	}
}

// What docker takes, however odd, and what it makes of it.
func TestOddFlags(t *testing.T) {
	t.Setenv("FROM_HERE", "1")
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte("\ufeffA=1\n\t# no line\nNOT_HERE\n  FROM_HERE\nB=x y \n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o, err := parseCreate("--env-file", file, "-e", "NOT_HERE", "--dns", " 1.1.1.1 ", "--dns-search", "example.com.", "--dns-search", ".",
		"--mac-address", "02-42-AC-11-00-02", "-w", "/a/../b", "-p", "80:80/", "--expose", "81/", "--cpus", "3/8", "--restart", "on-failure:", "--pull", "",
		"--memory-swap", "-1", "--device", "/dev/null:rw")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"A=1", "FROM_HERE=1", "B=x y ", "NOT_HERE"}, slices.DeleteFunc(o.Env, func(kv string) bool {
		return strings.Contains(strings.ToLower(kv), "proxy")
	})); diff != "" {
		t.Errorf("variables: %s", diff)
	}
	if diff := cmp.Diff([]string{"1.1.1.1", "example.com", ".", "02:42:ac:11:00:02", "/b", "tcp", "81/tcp", "on-failure", "rw"},
		[]string{o.DNS[0], o.DNSSearch[0], o.DNSSearch[1], o.MacAddress, o.WorkingDir, o.Ports[0].Protocol, o.Expose[0], o.Restart.Name, o.Devices[0].Access}); diff != "" {
		t.Error(diff)
	}
	if q := o.Resources.CPU.Quota; q == nil || *q != 37500 {
		t.Errorf("quota of 3/8: %v", q)
	}
}
