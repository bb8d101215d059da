package bundle

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/test/privilege"
)

// The test binary is also the keeper.
func TestMain(m *testing.M) {
	if os.Args[0] == "teu-keeper" {
		os.Exit(keeper.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// place is a store beside a bundle with busybox in it.
type place struct {
	*Store
	bundle string
	out    *os.File
	notify bool
}

func newPlace(t *testing.T) *place {
	t.Helper()
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "teu-bundle-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, d := range []string{"b/rootfs/bin", "b/rootfs/proc", "b/rootfs/dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/b/rootfs/bin/busybox", busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields("sh cat chmod cut env grep hostname id ionice ls readlink sleep touch tr tty uniq wc") {
		if err := os.Symlink("busybox", dir+"/b/rootfs/bin/"+applet); err != nil {
			t.Fatal(err)
		}
	}
	out, err := os.Create(dir + "/out")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	p := &place{bundle: dir + "/b", out: out}
	p.Store = Open(dir+"/oci", sync.OnceValues(func() (*keeper.Binary, error) {
		elf, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return nil, err
		}
		return keeper.Seal(elf)
	}))
	t.Cleanup(func() {
		all, err := p.All()
		if err != nil {
			t.Error(err)
		}
		for _, c := range all {
			if _, err := c.Delete(context.Background(), DeleteOptions{Force: true}); err != nil {
				t.Error(err)
			}
		}
	})
	return p
}

func (p *place) stdio() Stdio {
	return Stdio{Files: [3]*os.File{p.out, p.out, p.out}}
}

// create makes a container that runs a script of the shell.
func (p *place) create(t *testing.T, id, script string, change func(*specs.Spec)) (*Container, error) {
	t.Helper()
	s := &specs.Spec{
		Version: specs.Version,
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"sh", "-c", script}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
			{Type: specs.IPCNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.UTSNamespace}}},
	}
	if change != nil {
		change(s)
	}
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	b = bytes.ReplaceAll(b, []byte(`["EMPTY"]`), []byte(`[]`)) // which specs-go leaves out
	if err := os.WriteFile(p.bundle+"/config.json", b, 0o644); err != nil {
		t.Fatal(err)
	}
	c, _, err := p.Create(t.Context(), id, p.bundle, CreateOptions{Notify: p.notify, Stdio: p.stdio()})
	return c, err
}

func (p *place) output(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantStatus(t *testing.T, c *Container, want Status) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	got, err := c.Status()
	for got != want && err == nil && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
		got, err = c.Status()
	}
	if got != want || err != nil {
		t.Fatalf("status %q, %v, want %q", got, err, want)
	}
}

func TestLife(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "echo began; read x </proc/1/fd/nothing; while :; do :; done", nil)
	if err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateCreated)
	if out := p.output(t); out != "" {
		t.Errorf("before start: %q", out)
	}
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.Init.PID))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", c.Init.PID, fd.Name()))
		// What made the root is closed: nothing is left but a procfs, the socket and the FIFO.
		known := to == "/" || to == "/proc" || strings.HasPrefix(to, "socket:") || strings.HasSuffix(to, "/a/exec.fifo")
		if n, _ := strconv.Atoi(fd.Name()); n > 2 && !known {
			t.Errorf("the waiting process has %s: %s", fd.Name(), to)
		}
	}
	if _, err := p.create(t, "a", "true", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("create again: %v", err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateRunning)
	if err := c.Start(t.Context()); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start again: %v", err)
	}
	if _, err := c.Delete(t.Context(), DeleteOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("delete of a running container: %v", err)
	}
	for range 1000 { // else it may be frozen and killed before it wrote anything
		if p.output(t) != "" {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := c.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, Paused)
	if err := c.Resume(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateRunning)
	if err := c.Kill(unix.SIGKILL, KillOptions{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Get("a"); !errdefs.IsNotFound(err) {
		t.Errorf("after delete: %v", err)
	}
	if !strings.HasPrefix(p.output(t), "began\n") {
		t.Errorf("output %q", p.output(t))
	}
}

// The command a container starts is that of the time of its creation.
func TestLaterChanges(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "echo first", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.create(t, "b", "echo second", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if got := p.output(t); got != "first\n" {
		t.Errorf("output %q", got)
	}
}

// What fails is told by whom it fails for, and a failed create leaves nothing.
func TestFailures(t *testing.T) {
	p := newPlace(t)
	if _, err := p.create(t, "a", "", func(s *specs.Spec) { s.Process.Args = []string{"nosuch"} }); err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("create of a missing command: %v", err)
	}
	if _, err := p.create(t, "a", "", func(s *specs.Spec) { s.Linux.MountLabel = "x" }); !errdefs.IsNotImplemented(err) {
		t.Errorf("create with what teu cannot do: %v", err)
	}
	if all, err := p.All(); len(all) != 0 || err != nil {
		t.Errorf("left: %v, %v", all, err)
	}
}

// A command that nobody can execute is told by create, in runc's words, by which podman and
// docker choose between the exit codes 126 and 127.
func TestCommands(t *testing.T) {
	p := newPlace(t)
	for command, want := range map[string]string{
		"nosuch":         `exec: "nosuch": executable file not found in $PATH`,
		"/nosuch":        `exec: "/nosuch": no such file or directory`,
		"/proc":          `exec: "/proc": permission denied`,
		"/proc/1/status": `exec: "/proc/1/status": permission denied`,
		"status":         `exec: "status": permission denied`,
	} {
		_, err := p.create(t, "a", "", func(s *specs.Spec) {
			s.Process.Args, s.Process.Env = []string{command}, []string{"PATH=/nowhere:/proc/1"}
		})
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("create: %v, want %s", err, want)
		}
	}
	// A directory and a file without the right are passed over, as by execvp(3).
	if err := errors.Join(os.MkdirAll(p.bundle+"/rootfs/a/sh", 0o755), os.Mkdir(p.bundle+"/rootfs/b", 0o755),
		os.WriteFile(p.bundle+"/rootfs/b/sh", nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	c, err := p.create(t, "a", "echo found", func(s *specs.Spec) { s.Process.Env = []string{"PATH=/a:/b:/bin"} })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if got := p.output(t); got != "found\n" {
		t.Errorf("output %q", got)
	}
}

// What the host's limits or files do to a container is told so that it can be mended.
func TestReasons(t *testing.T) {
	p := newPlace(t)
	_, err := p.create(t, "a", "", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/bin", Type: "bind", Source: "/etc/passwd", Options: []string{"bind"}})
	})
	if err == nil || !strings.Contains(err.Error(), "placing /bin: move_mount: invalid argument (a directory on a file, or a file on a directory?)") {
		t.Errorf("a file on a directory: %v", err)
	}
	c, err := p.create(t, "a", "", func(s *specs.Spec) {
		limit := int64(4096)
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	})
	if err == nil {
		wantStatus(t, c, specs.StateStopped)
		err = c.Start(t.Context())
	}
	if err == nil || !strings.Contains(err.Error(), "memory limit too low?") {
		t.Errorf("a page of memory: %v", err)
	}
}

// A command that is not the first of a PID namespace gets the time to install its handler, too.
func TestSignalToYoungProcess(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "sleep 0.05; trap 'echo handled; exit' USR1; while :; do sleep 0.01; done", func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.PIDNamespace })
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(unix.SIGUSR1, KillOptions{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if out := p.output(t); out != "handled\n" {
		t.Errorf("output %q", out)
	}
}

// A container that waits for its start has no handlers, and SIGTERM ends it all the same.
func TestTermBeforeStart(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "true", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, sig := range []unix.Signal{0, unix.SIGWINCH} {
		if err := c.Kill(sig, KillOptions{}); err != nil {
			t.Error(err)
		}
		wantStatus(t, c, specs.StateCreated)
	}
	if err := c.Kill(unix.SIGTERM, KillOptions{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
}

// A start whose container has died must not wait for it.
func TestStartOfDead(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "true", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Kill(unix.SIGKILL, KillOptions{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if err := c.Start(t.Context()); err == nil {
		t.Error("no error")
	}
}

func TestExec(t *testing.T) {
	p := newPlace(t)
	c, err := p.create(t, "a", "while :; do :; done", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	o := ExecOptions{Stdio: p.stdio()}
	o.Extra = []*os.File{w}
	o.PIDFile = p.bundle + "/pid"
	id, err := c.Exec(&specs.Process{Args: []string{"sh", "-c", "echo kept >&3"}, Cwd: "/", Env: []string{"PATH=/bin"}}, o)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); string(got) != "kept\n" || err != nil {
		t.Errorf("through descriptor 3: %q, %v", got, err)
	}
	if b, err := os.ReadFile(o.PIDFile); string(b) != fmt.Sprint(id.PID) || err != nil {
		t.Errorf("pid file %q, %v, want %d", b, err, id.PID)
	}
	_, err = c.Exec(&specs.Process{Args: []string{"nosuch"}, Cwd: "/"}, ExecOptions{Stdio: p.stdio()})
	if err == nil || !strings.Contains(err.Error(), "executable file not found in $PATH") {
		t.Errorf("missing command: %v", err)
	}
}

func TestIDs(t *testing.T) {
	s := Open(t.TempDir(), nil)
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a b", "a\x00", strings.Repeat("x", 300)} {
		if _, err := s.Get(id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if _, err := s.Get("a_B-1.2+3"); !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// Without a PID namespace the others do not end with the first process: SIGKILL is for all,
// also when the first has ended.
func TestKillWithoutPIDNamespace(t *testing.T) {
	p := newPlace(t)
	for _, script := range []string{"sleep 1000 & sleep 1001 & sleep 1002", "sleep 1000 & sleep 1001 &"} {
		c, err := p.create(t, "a", script, func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] })
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		pids, err := c.Pids()
		for range 1000 {
			if len(pids) >= 2 || err != nil {
				break
			}
			time.Sleep(5 * time.Millisecond)
			pids, err = c.Pids()
		}
		if err != nil || len(pids) < 2 {
			t.Fatalf("processes %v, %v", pids, err)
		}
		if err := c.Kill(unix.SIGKILL, KillOptions{}); err != nil {
			t.Error(err)
		}
		if pids, err := c.Pids(); len(pids) > 0 || err != nil {
			t.Errorf("left: %v, %v", pids, err)
		}
		if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
}

// A control group that a container has left may be given to another, whose processes are not the first one's.
func TestGroupOfAnother(t *testing.T) {
	p := newPlace(t)
	path := fmt.Sprintf("/teu-twice-%d", os.Getpid())
	begin := func(id, script string) *Container {
		c, err := p.create(t, id, script, func(s *specs.Spec) { s.Linux.CgroupsPath = path })
		if err == nil {
			err = c.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	first := begin("first", "true")
	wantStatus(t, first, specs.StateStopped)
	second := begin("second", "sleep 1000")
	if err := first.Kill(unix.SIGKILL, KillOptions{All: true}); err != nil {
		t.Error(err)
	}
	if _, err := first.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	if status, err := second.Status(); status != specs.StateRunning || err != nil {
		t.Errorf("after the first was deleted, the second is %s, %v", status, err)
	}
	if pids, err := second.Pids(); len(pids) != 1 || err != nil {
		t.Errorf("the second has processes %v, %v", pids, err)
	}
	if _, err := second.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
		t.Error(err)
	}
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range h.Open(path).Procs() {
		if _, err := os.Stat(file); err == nil {
			t.Errorf("%s is left", file)
		}
	}
}

// A process that joins a frozen control group would never come to its start.
func TestFrozenGroup(t *testing.T) {
	p := newPlace(t)
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/teu-frozen-%d", os.Getpid())
	g, _, err := h.Create(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer g.Remove(context.Background())
	if err := g.Freeze(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	for _, at := range []string{path, path + "/below"} {
		_, err := p.create(t, "a", "true", func(s *specs.Spec) { s.Linux.CgroupsPath = at })
		if err == nil || !strings.Contains(err.Error(), "frozen") {
			t.Errorf("%s: %v", at, err)
		}
	}
	if frozen, err := g.Frozen(); !frozen || err != nil {
		t.Errorf("the group is frozen no more: %v", err)
	}
	if err := g.Freeze(t.Context(), false); err != nil {
		t.Error(err)
	}
}

// A bundle without rules for devices gets those every container has, and not the host's.
func TestDevicesWithoutRules(t *testing.T) {
	h, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if h.Mode() == cgroup.None {
		t.Skip("no control groups here")
	}
	deny := specs.LinuxDeviceCgroup{Allow: false, Type: "c", Access: "r"}
	for name, r := range map[string]*specs.LinuxResources{"none": nil, "empty": {}, "one": {Devices: []specs.LinuxDeviceCgroup{deny}}} {
		p := newPlace(t)
		const script = `for d in 1:5 10:200 10:229 7:128; do busybox mknod /dev/x c ${d%:*} ${d#*:} &&
{ busybox head -c 0 /dev/x 2>&1 | grep -q 'not permitted' && echo $d denied; busybox rm /dev/x; }; done; echo done`
		c, err := p.create(t, "a", script, func(s *specs.Spec) {
			caps := []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE"}
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"})
			s.Linux.Resources = r
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantStatus(t, c, specs.StateStopped)
		if got, want := p.output(t), "10:229 denied\n7:128 denied\ndone\n"; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

// A directory without a record is left of a process that was killed: it keeps no ID from being used again.
func TestLeftDirectory(t *testing.T) {
	p := newPlace(t)
	dir := filepath.Join(p.root, "a")
	if err := os.MkdirAll(filepath.Join(dir, notifyDir), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{fifoName, notifyDir + "/" + notifySocket} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	unlock, err := statefile.Lock(t.Context(), filepath.Join(dir, lockName), statefile.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.create(t, "a", "true", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("while somebody makes it: %v", err)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	c, err := p.create(t, "a", "true", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.create(t, "a", "true", nil); !errdefs.IsAlreadyExists(err) {
		t.Errorf("one that exists: %v", err)
	}
	if _, err := c.Delete(t.Context(), DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}
