package oci

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/test/privilege"
)

// bundle is a root filesystem with busybox beside a host directory that must not change.
type bundle struct {
	t    *testing.T
	dir  string // holds root and host
	root string
	host string // the sentinel
}

func newBundle(t *testing.T) *bundle {
	t.Helper()
	privilege.NeedRoot(t)
	// Not below /tmp: the container's own /tmp is not what is tested.
	dir, err := os.MkdirTemp("/dev/shm", "teu-oci-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bundle{t: t, dir: dir, root: dir + "/root", host: dir + "/host"}
	for _, d := range []string{"bin", "etc", "tmp", "root", "home"} {
		b.mkdir(d)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	b.write("bin/busybox", string(busybox), 0o755)
	for _, name := range []string{"sh", "cat", "ls", "id", "mount", "sleep", "stat", "hostname", "tty", "mkdir", "touch",
		"readlink", "env", "true", "dd", "grep", "ps", "test", "echo", "wc", "mknod", "head", "stty", "kill", "chroot", "umount", "pwd"} {
		b.symlink("busybox", "bin/"+name)
	}
	b.write("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n", 0o644)
	b.write("etc/group", "root:x:0:\nwheel:x:10:root,ann\nann:x:1001:\naudio:x:29:ann\n", 0o644)
	if err := os.Mkdir(b.host, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.host+"/secret", []byte("host secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bundle) mkdir(path string) {
	b.t.Helper()
	if err := os.MkdirAll(filepath.Join(b.root, path), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) write(path, text string, mode os.FileMode) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.root, path), []byte(text), mode); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bundle) symlink(target, path string) {
	b.t.Helper()
	os.Remove(filepath.Join(b.root, path))
	if err := os.Symlink(target, filepath.Join(b.root, path)); err != nil {
		b.t.Fatal(err)
	}
}

// hostState lists the sentinel with inodes, modes and times.
func (b *bundle) hostState() string {
	b.t.Helper()
	out, err := exec.Command("find", b.host, "-printf", "%p %i %m %U %G %s %T@ %C@ %l\n").Output()
	if err != nil {
		b.t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		// Other tests mount at the same time, in temporary places of their own.
		if f := strings.Fields(line); strings.Count(f[4], "/") <= 2 || strings.Contains(line, b.dir) {
			out = append(out, line...)
		}
	}
	return string(out)
}

// spec makes a spec for a shell command.
func (b *bundle) spec(script string, change func(o *spec.Options)) *specs.Spec {
	b.t.Helper()
	root, err := rootfs.Open(b.root)
	if err != nil {
		b.t.Fatal(err)
	}
	defer root.Close()
	o := spec.Options{Args: []string{"/bin/sh", "-c", script}, Hostname: "box", Files: root}
	if change != nil {
		change(&o)
	}
	s, _, err := spec.New(ocispec.ImageConfig{}, o)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// result is what a container did.
type result struct {
	out  string
	exit launch.Exit
	err  error
}

// start compiles and starts s; the container's output goes to the returned file.
func (b *bundle) start(s *specs.Spec, o Options) (*launch.Child, *os.File, error) {
	b.t.Helper()
	p, err := Compile(s, Rootfs{Path: b.root}, o)
	if err != nil {
		return nil, nil, err
	}
	if data, err := p.MarshalBinary(); err != nil || (&launch.Program{}).UnmarshalBinary(data) != nil {
		b.t.Fatal("program does not survive being kept:", err)
	}
	return startProgram(b.t, p)
}

func startProgram(t *testing.T, p *launch.Program, more ...*os.File) (*launch.Child, *os.File, error) {
	t.Helper()
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c, err := launch.Start(p, append([]*os.File{null, w, w}, more...))
	w.Close()
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	if c.Console != nil {
		r.Close()
		return c, c.Console, nil
	}
	return c, r, nil
}

// finish reads the output and waits, and kills what does not end.
func finish(t *testing.T, c *launch.Child, out *os.File, err error) result {
	t.Helper()
	if err != nil {
		return result{err: err}
	}
	defer out.Close()
	timer := time.AfterFunc(30*time.Second, func() { c.Signal(unix.SIGKILL) })
	defer timer.Stop()
	text, err := io.ReadAll(out)
	if err != nil && !errors.Is(err, unix.EIO) { // a terminal whose other side is closed
		t.Fatal(err)
	}
	exit, err := c.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return result{out: string(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n"))), exit: exit}
}

// run runs a container to its end and checks that the host is as it was.
func (b *bundle) run(s *specs.Spec) result {
	b.t.Helper()
	before := b.hostState()
	c, out, err := b.start(s, Options{})
	r := finish(b.t, c, out, err)
	if after := b.hostState(); after != before {
		b.t.Errorf("the host has changed from\n%s\nto\n%s", before, after)
	}
	return r
}

// sh runs a script and returns what it prints; it must succeed.
func (b *bundle) sh(script string, change func(o *spec.Options)) string {
	b.t.Helper()
	r := b.run(b.spec(script, change))
	if r.err != nil || r.exit.Code != 0 {
		b.t.Fatalf("%s: exit %+v, error %v, output %q", script, r.exit, r.err, r.out)
	}
	return r.out
}

func (b *bundle) want(script, want string, change func(o *spec.Options)) {
	b.t.Helper()
	if got := b.sh(script, change); got != want {
		b.t.Errorf("%s: got %q, want %q", script, got, want)
	}
}

func TestContainer(t *testing.T) {
	b := newBundle(t)
	b.want("echo $$; hostname; pwd; id", "1\nbox\n/\nuid=0(root) gid=0(root) groups=0(root),10(wheel)\n", nil)
	b.want("cd /proc/1/fd; for i in *; do [ -e $i ] && echo $i; done; cat /proc/1/status | grep -E '^(NoNewPrivs|Seccomp:|CapInh|CapAmb|CapPrm|CapBnd|Groups)'",
		"0\n1\n2\nGroups:\t0 10 \nCapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2\n", nil)
	b.want("cat /sys/class/net/lo/operstate; ls /sys/class/net; umask; cat /proc/self/oom_score_adj", "unknown\nlo\n0022\n100\n",
		func(o *spec.Options) { v := 100; o.OOMScoreAdj = &v })
	b.want("set -- /proc/[0-9]*; echo $#; cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "1\n0\n", nil)
	b.want("grep NOFILE /proc/1/limits; grep 'open files' /proc/1/limits | { read a b c d e; echo $d; }", "1024\n",
		nil)
}

func TestContainerAsUser(t *testing.T) {
	b := newBundle(t)
	as := func(user string) func(o *spec.Options) { return func(o *spec.Options) { o.User = user } }
	b.want("id; echo $HOME; grep -E '^Cap|^Groups' /proc/self/status",
		"uid=1000(ann) gid=1001(ann) groups=10(wheel),29(audio),1001(ann)\n/home/ann\n"+
			"Groups:\t10 29 1001 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n", as("ann"))
	b.want("id -u; id -g; id -G; echo $HOME", "77\n88\n88\n/\n", as("77:88"))
	b.want("echo x > /dev/stdout; echo y >/proc/self/fd/1", "x\ny\n", as("ann"))
	b.want("pwd", "/root/private\n", func(o *spec.Options) { o.User, o.WorkingDir = "ann", "/root/private" })
	if err := os.Chmod(b.root+"/root", 0o700); err != nil {
		t.Fatal(err)
	}
	b.want("pwd", "/root/private\n", func(o *spec.Options) { o.User, o.WorkingDir = "ann", "/root/private" })
}

func TestContainerMounts(t *testing.T) {
	b := newBundle(t)
	if err := os.WriteFile(b.dir+"/file", []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(b.dir+"/data/sub", 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := func(o *spec.Options) {
		o.Mounts = []spec.Mount{
			{Source: b.dir + "/data", Target: "/data"},
			{Source: b.dir + "/data", Target: "/read", ReadOnly: true},
			{Source: b.dir + "/file", Target: "/new/dir/file", ReadOnly: true},
			{Type: "tmpfs", Target: "/scratch", Options: []string{"size=1m", "mode=0700"}},
		}
	}
	b.want("echo hi > /data/x; cat /read/x /new/dir/file; echo no > /read/y || echo refused; echo no > /new/dir/file || echo refused", "hi\ntext\nrefused\nrefused\n", func(o *spec.Options) {
		mounts(o)
		o.Args[2] += " 2>/dev/null"
		o.Args[2] = "exec 2>/dev/null; " + o.Args[2]
	})
	b.want("stat -c %a /scratch; grep ' /scratch ' /proc/mounts | { read a b c d; echo ${d%%,relatime*}; }; dd if=/dev/zero of=/scratch/f bs=1M count=2 2>/dev/null || echo full",
		"700\nrw,nosuid,nodev,noexec\nfull\n", mounts)
	b.want("grep -E ' (/|/dev|/proc|/sys|/dev/pts|/dev/shm|/dev/mqueue) ' /proc/mounts | while read a b c d e; do echo $b $c; done",
		"/ tmpfs\n/proc proc\n/dev tmpfs\n/dev/pts devpts\n/sys sysfs\n/dev/mqueue mqueue\n/dev/shm tmpfs\n", nil)
	b.want("for i in null zero full random urandom tty; do [ -c /dev/$i ] || echo no $i; done; readlink /dev/fd; readlink /dev/ptmx; echo x > /dev/null; test -s /dev/null || echo ok",
		"/proc/self/fd\npts/ptmx\nok\n", nil)
	b.want("exec 2>&1; touch /x || true; touch /tmp/y || true; echo z > /dev/shm/z && cat /dev/shm/z",
		"touch: /x: Read-only file system\ntouch: /tmp/y: Read-only file system\nz\n", func(o *spec.Options) { o.ReadOnly = true })
	if _, err := os.Stat(b.dir + "/data/x"); err != nil {
		t.Error("the container's file is not in the bind source:", err)
	}
}

func TestContainerMasks(t *testing.T) {
	b := newBundle(t)
	b.want(`exec 2>/dev/null
		cat /proc/kcore /proc/keys /proc/timer_list | wc -c
		ls /sys/firmware /proc/scsi | grep -v : | grep -c .
		echo 1 > /proc/sysrq-trigger || echo sysrq refused
		echo x > /proc/sys/kernel/core_pattern || echo core_pattern refused
		echo 1 > /proc/irq/default_smp_affinity || echo irq refused
		mkdir /sys/x || echo sys refused
		touch /proc/acpi/x || touch /sys/firmware/x || echo mask refused
		umount /proc/kcore || echo umount refused
		mount -o remount,rw /proc/sys || echo remount refused`,
		"0\n0\nsysrq refused\ncore_pattern refused\nirq refused\nsys refused\nmask refused\numount refused\nremount refused\n", nil)
	b.want("stat -c '%t:%T' /proc/keys; grep -c -E ' (/proc/keys|/proc/sys|/sys/firmware) ' /proc/mounts", "1:3\n3\n", nil)
}

// What is masked is also masked below a path that is made read-only, by its name or that of a link of the image.
func TestMasksBelowReadOnlyPaths(t *testing.T) {
	b := newBundle(t)
	b.mkdir("some")
	b.symlink("/proc", "some/link")
	b.mkdir("nested")
	const look = "exec 2>/dev/null; cat /proc/keys | wc -c; echo x >/dev/shm/x || echo refused; ls /dev/shm; ls /sys/firmware /nested/sys/kernel | grep -v : | grep -c ."
	for _, list := range [][]string{{"/proc", "/sys", "/dev", "/nested"}, {"/some/link", "/dev/shm", "/sys/"}, {"/dev", "/some/link", "/sys"}} {
		s := b.spec(look, func(o *spec.Options) {
			o.MaskedPaths, o.ReadonlyPaths = []string{"/proc/keys", "/dev/shm", "/sys/firmware", "/nested/sys/kernel"}, list
		})
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/nested/sys", Type: "sysfs", Source: "sysfs", Options: []string{"ro"}})
		if r := b.run(s); r.err != nil || r.out != "0\nrefused\n0\n" {
			t.Errorf("%v: %+v", list, r)
		}
	}
	b.want("ls /proc/1/fd | wc -l", "0\n", func(o *spec.Options) {
		o.MaskedPaths, o.ReadonlyPaths = []string{"/dev/fd"}, []string{} // a link of /dev
	})
	b.symlink("/some/..", "some/root")
	for name, set := range map[string]func(*spec.Options){
		"read-only": func(o *spec.Options) { o.ReadonlyPaths = []string{"/some/root"} },
		"masked":    func(o *spec.Options) { o.MaskedPaths = []string{"/some/root"} },
	} {
		if r := b.run(b.spec("true", set)); !errors.Is(r.err, unix.ELOOP) {
			t.Errorf("a link to the root, %s: %+v, want ELOOP", name, r)
		}
	}
}

func TestContainerTerminal(t *testing.T) {
	b := newBundle(t)
	s := b.spec("tty; stty size; stat -c %t:%T /dev/console; test -t 0 && test -t 2 && echo terminal; ps -o pid,tty | grep -c 136,0 ; [ /dev/console -ef /dev/pts/0 ] || echo other node; echo $TERM",
		func(o *spec.Options) { o.TTY = true })
	s.Process.ConsoleSize = &specs.Box{Height: 33, Width: 111}
	r := b.run(s)
	if want := "/dev/pts/0\n33 111\n88:0\nterminal\n"; !strings.HasPrefix(r.out, want) || r.err != nil {
		t.Errorf("got %+v, want %q first", r, want)
	}
	b.want("tty; echo hi > /dev/tty; echo hi > /dev/console; stat -c %u /dev/pts/0", "/dev/pts/0\nhi\nhi\n1000\n", func(o *spec.Options) { o.TTY, o.User = true, "ann" })
}

func TestContainerExitCodes(t *testing.T) {
	b := newBundle(t)
	b.write("etc/script", "#!/no/such/interpreter\n", 0o755)
	b.write("etc/data", "\x00\x01\x02", 0o755)
	for _, tt := range []struct {
		name string
		args []string
		code int
		err  error
	}{
		{"exit code", []string{"sh", "-c", "exit 42"}, 42, nil},
		{"signal", []string{"sh", "-c", "kill -9 $$; sleep 1"}, 0, nil}, // init ignores signals from inside
		{"found by PATH", []string{"true"}, 0, nil},
		{"not in PATH", []string{"nosuch"}, 127, unix.ENOENT},
		{"no such file", []string{"/no/such"}, 127, unix.ENOENT},
		{"no such interpreter", []string{"/etc/script"}, 127, unix.ENOENT},
		{"below a file", []string{"/etc/passwd/x"}, 127, unix.ENOTDIR},
		{"not executable", []string{"/etc/passwd"}, 126, unix.EACCES},
		{"directory", []string{"/etc"}, 126, unix.EACCES},
		{"no program", []string{"/etc/data"}, 126, unix.ENOEXEC},
	} {
		r := b.run(b.spec("", func(o *spec.Options) { o.Args = tt.args }))
		var step *launch.StepError
		if tt.err == nil {
			if r.err != nil || r.exit.Code != tt.code {
				t.Errorf("%s: %+v, want code %d", tt.name, r, tt.code)
			}
		} else if !errors.As(r.err, &step) || step.ExitCode() != tt.code || (!errors.Is(r.err, tt.err) && tt.err != unix.ENOTDIR) {
			t.Errorf("%s: %v, want %v and code %d", tt.name, r.err, tt.err, tt.code)
		}
	}
}

func TestContainerOptions(t *testing.T) {
	b := newBundle(t)
	b.want("cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax", "77\n9000\n", func(o *spec.Options) {
		o.Sysctls = map[string]string{"net.core.somaxconn": "77", "kernel/msgmax": "9000"}
	})
	for name, value := range map[string]string{"kernel.core_pattern": "|/bin/x", "kernel.msgmax": "1\nx", "net.../x": "1", "net/../kernel/core_pattern": "x",
		"kernel.shm_rmid_forced+kernel.core_pattern": "1", "vm.swappiness": "1", "": "1", "net": "1"} {
		if _, err := Compile(b.spec("true", func(o *spec.Options) { o.Sysctls = map[string]string{name: value} }), Rootfs{Path: b.root}, Options{}); err == nil {
			t.Errorf("sysctl %q=%q is accepted", name, value)
		}
	}
	b.want("grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status", "CapEff:\t0000000000200000\nNoNewPrivs:\t1\nSeccomp:\t2\n", func(o *spec.Options) {
		o.CapDrop, o.CapAdd, o.NoNewPrivileges = []string{"ALL"}, []string{"sys_admin"}, true
	})
	b.want("ulimit -n; ulimit -Hn; ulimit -c", "500\n600\n0\n", func(o *spec.Options) {
		o.Rlimits = []specs.POSIXRlimit{{Type: "nofile", Soft: 500, Hard: 600}, {Type: "core"}}
	})
	b.want("grep -c Seccomp:.0 /proc/self/status; mount -t tmpfs x /tmp && echo mounted; stat -c %a /proc/keys; [ -c /dev/kmsg ] && echo kmsg; test -w /proc/sys/kernel/core_pattern && echo writable",
		"1\nmounted\n444\nkmsg\nwritable\n", func(o *spec.Options) { o.Privileged = true })
	b.want("stat -c '%a %t:%T' /dev/mine; head -c 3 /dev/mine | wc -c", "666 1:5\n3\n", func(o *spec.Options) {
		o.Devices = []spec.Device{{Source: "/dev/zero", Target: "/dev/mine"}}
	})
	b.want("hostname; readlink /proc/self/ns/net", hostname(t)+"\n"+network(t)+"\n", func(o *spec.Options) { o.UTSNS, o.NetNS = "host", "host" })
}

func hostname(t *testing.T) string {
	t.Helper()
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// network is the network namespace of this process.
func network(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestHoldSignals wants an init that holds signals back to find all of them blocked, and
// other commands none.
func TestHoldSignals(t *testing.T) {
	b := newBundle(t)
	for hold, want := range map[bool]string{true: "SigBlk:\tfffffffffffbfeff\n", false: "SigBlk:\t0000000000000000\n"} {
		c, out, err := b.start(b.spec("", func(o *spec.Options) { o.Args = []string{"/bin/grep", "SigBlk", "/proc/self/status"} }), Options{HoldSignals: hold})
		if r := finish(t, c, out, err); r.err != nil || r.out != want {
			t.Errorf("held %v: %q, %v, want %q", hold, r.out, r.err, want)
		}
	}
}
