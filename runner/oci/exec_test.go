package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
)

// running is a container that waits to be ended.
type running struct {
	*bundle
	spec *specs.Spec
	init *launch.Child
}

func (b *bundle) running(change func(o *spec.Options)) *running {
	b.t.Helper()
	s := b.spec("", change)
	s.Process.Args = []string{"sleep", "1000"} // no shell that has yet to become it
	c, out, err := b.start(s, Options{})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		c.Signal(unix.SIGKILL)
		c.Wait()
		out.Close()
	})
	return &running{b, s, c}
}

func (r *running) exec(o spec.ExecOptions) result {
	r.t.Helper()
	root, err := rootfs.Open(r.root)
	if err != nil {
		r.t.Fatal(err)
	}
	defer root.Close()
	o.Files = root
	p, err := spec.NewExec(r.spec, o)
	if err != nil {
		return result{err: err}
	}
	program, err := CompileExec(r.spec, p, ExecOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	c, out, err := startProgram(r.t, program, r.init.PIDFD)
	return finish(r.t, c, out, err)
}

func (r *running) wantExec(script, want string, o spec.ExecOptions) {
	r.t.Helper()
	o.Args = []string{"/bin/sh", "-c", script}
	if got := r.exec(o); got.err != nil || got.out != want {
		r.t.Errorf("%s: got %q, %v, want %q", script, got.out, got.err, want)
	}
}

// The working directory may be one that only a process of the PID namespace has.
func TestExecInOwnDirectory(t *testing.T) {
	newBundle(t).running(nil).wantExec("readlink ns/mnt | grep -c mnt; [ $(basename $(pwd -P)) = $$ ] && echo own", "1\nown\n", spec.ExecOptions{WorkingDir: "/proc/self"})
}

func TestExec(t *testing.T) {
	r := newBundle(t).running(func(o *spec.Options) { o.Env, o.WorkingDir = []string{"A=1"}, "/tmp" })
	r.wantExec("hostname; pwd; id; echo $A $B $HOME; [ $$ -gt 1 ] && cat /proc/1/cmdline", "box\n/tmp\nuid=0(root) gid=0(root) groups=0(root),10(wheel)\n1 2 /root\nsleep\x001000\x00",
		spec.ExecOptions{Env: []string{"B=2"}})
	r.wantExec("for n in mnt pid ipc uts net cgroup; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo other $n; done", "", spec.ExecOptions{})
	r.wantExec("cd /proc/self/fd; for i in *; do [ -e $i ] && echo $i; done; grep -E '^(Cap|Seccomp:|Groups)' /proc/self/status", "0\n1\n2\nGroups:\t0 10 \n"+
		"CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nSeccomp:\t2\n", spec.ExecOptions{})
	r.wantExec("id; echo $HOME; pwd; grep -E '^Cap[IPE]' /proc/self/status; echo x > /dev/stdout", "uid=1000(ann) gid=1001(ann) groups=10(wheel),29(audio),1001(ann)\n/home/ann\n/etc\n"+
		"CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nx\n", spec.ExecOptions{User: "ann", WorkingDir: "/etc"})
	r.wantExec("grep CapInh /proc/self/status; mount -t tmpfs x /tmp 2>/dev/null || echo seccomp", "CapInh:\t0000000000000000\nseccomp\n", spec.ExecOptions{Privileged: true})
	if got := r.exec(spec.ExecOptions{Args: []string{"sh", "-c", "exit 9"}}); got.err != nil || got.exit.Code != 9 {
		t.Errorf("%+v", got)
	}
	for name, want := range map[string]int{"nosuch": 127, "/etc/passwd": 126} {
		var step *launch.StepError
		if got := r.exec(spec.ExecOptions{Args: []string{name}}); !errors.As(got.err, &step) || step.ExitCode() != want {
			t.Errorf("%s: %+v, want code %d", name, got, want)
		}
	}
}

func TestExecTerminal(t *testing.T) {
	r := newBundle(t).running(nil)
	r.wantExec("tty; test -t 0 && test -t 1 && echo terminal; echo hi > /dev/tty; ps -o pid,sid,args >/dev/null; stat -c %u /dev/pts/0", "/dev/pts/0\nterminal\nhi\n1000\n",
		spec.ExecOptions{TTY: true, User: "ann"})
}

// What the container puts in the place of its devpts is not opened.
func TestExecTerminalOfAnImpostor(t *testing.T) {
	b := newBundle(t)
	r := b.running(func(o *spec.Options) {
		o.CapAdd, o.Seccomp = []string{"SYS_ADMIN"}, "unconfined"
	})
	r.wantExec("mount -t tmpfs t /dev/pts && mknod /dev/pts/ptmx c 1 3 && echo made", "made\n", spec.ExecOptions{})
	if got := r.exec(spec.ExecOptions{Args: []string{"true"}, TTY: true}); !errors.Is(got.err, unix.ENODEV) {
		t.Errorf("%+v", got)
	}
}

func TestExecWorkingDirectoryStaysInside(t *testing.T) {
	b := newBundle(t)
	leak, err := unix.Open(b.host, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	r := b.running(nil)
	before := b.hostState()
	for n := range 40 {
		dir := fmt.Sprintf("/proc/self/fd/%d", n)
		got := r.exec(spec.ExecOptions{Args: []string{"sh", "-c", "pwd -P; ls; cat secret ../secret"}, WorkingDir: dir})
		if got.err == nil && (!strings.HasPrefix(got.out, "/") || strings.Contains(got.out, "secret\n")) {
			t.Errorf("%s: %+v", dir, got)
		}
	}
	if after := b.hostState(); after != before {
		t.Errorf("the host has changed from\n%s\nto\n%s", before, after)
	}
}

// An exec that fails leaves no process behind, and neither does a start.
func TestFailureLeavesNothing(t *testing.T) {
	b := newBundle(t)
	r := b.running(nil)
	for range 20 {
		if got := r.exec(spec.ExecOptions{Args: []string{"/no/such"}}); got.err == nil {
			t.Fatal("started")
		}
		if got := b.run(b.spec("", func(o *spec.Options) { o.Args = []string{"/no/such"} })); got.err == nil {
			t.Fatal("started")
		}
	}
	procs, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	var children []string
	for _, p := range procs {
		text, _ := os.ReadFile(p)
		children = append(children, strings.Fields(string(text))...)
	}
	if len(children) != 1 {
		t.Errorf("children %v, want only the container", children)
	}
}
