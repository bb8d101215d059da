package oci

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/test/privilege"
)

// A link in the place of a directory of the kernel must not decide where its filesystem
// appears: the start fails, or everything is as if there were no link.
func TestLinksInPlaceOfKernelDirectories(t *testing.T) {
	b := newBundle(t)
	for _, dir := range []string{"proc", "sys", "dev"} {
		for _, target := range []string{"/x", "/", ".", "..", "/../../../.." + b.host, b.host, "/proc/self/root", "/proc/1/cwd", "loop"} {
			b.symlink(target, dir)
			r := b.run(b.spec("cat /proc/sys/kernel/core_pattern; ls /dev/null /sys/kernel; cat "+b.host+"/secret", nil))
			if r.err == nil {
				t.Errorf("%s -> %s: started: %+v", dir, target, r)
			}
			if !errors.Is(r.err, unix.ELOOP) {
				t.Errorf("%s -> %s: %v", dir, target, r.err)
			}
		}
		if err := os.Remove(filepath.Join(b.root, dir)); err != nil {
			t.Fatal(err)
		}
	}
}

// Links on the way to the target of a mount are followed inside the root, and what is
// missing is made there.
func TestLinksOnTheWayToMounts(t *testing.T) {
	b := newBundle(t)
	data := b.dir + "/data"
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	file := b.dir + "/file"
	if err := os.WriteFile(file, []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.symlink(b.host, "l")
	b.symlink("../../../../../../"+b.host+"/secret", "f")
	b.symlink("../run/resolve/stub.conf", "etc/resolv.conf")
	b.want("cat /l/deep/file "+b.host+"/deep/file /f "+b.host+"/secret /etc/resolv.conf; ls /run/resolve", "text\ntext\ntext\ntext\ntext\nstub.conf\n", func(o *spec.Options) {
		o.Mounts = []spec.Mount{
			{Source: file, Target: "/l/deep/file"}, {Source: file, Target: "/f"}, {Source: file, Target: "/etc/resolv.conf"},
			{Source: data, Target: "/l/dir"},
		}
	})
	b.symlink("/", "top")
	b.symlink("/proc/self/root", "self")
	for _, target := range []string{"/top", "/top/.", "/self", "/l/../../top"} {
		if r := b.run(b.spec("true", func(o *spec.Options) { o.Mounts = []spec.Mount{{Source: data, Target: target}} })); r.err == nil && target != "/l/../../top" {
			t.Errorf("mounted on %s, which is the root", target)
		}
	}
}

// What covers masked files is the host's null device, whatever the image has in its place.
func TestNullDeviceOfTheImageIsNotUsed(t *testing.T) {
	b := newBundle(t)
	b.mkdir("dev")
	b.symlink("/proc/sys/kernel/core_pattern", "dev/null")
	b.symlink("/proc/sys/kernel/core_pattern", "dev/console")
	b.want("stat -c %t:%T /proc/keys; stat -c %t:%T /dev/null; echo x > /proc/keys; [ -s /proc/keys ] || echo empty", "1:3\n1:3\nempty\n", nil)
	b.want("stat -c %t:%T /dev/console", "88:0\n", func(o *spec.Options) { o.TTY = true })
}

// Of the host's devices that a container has, and of its /dev/null over what is masked, neither
// the owner nor the mode can be changed.
func TestNodesOfTheHostStayAsTheyAre(t *testing.T) {
	b := newBundle(t)
	state := func() string {
		var st unix.Stat_t
		if err := unix.Stat("/dev/null", &st); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
	}
	before := state()
	t.Cleanup(func() { // the host must not suffer from a failure
		os.Chown("/dev/null", 0, 0)
		os.Chmod("/dev/null", 0o666)
	})
	const script = "exec 2>/dev/null; busybox chmod 604 /proc/keys && echo chmod; busybox chown 0:5 /proc/keys && echo chown; echo x >/proc/keys && echo written"
	b.want(script, "written\n", nil)
	s := b.spec("exec 2>/dev/null; busybox chmod 604 /dev/null && echo chmod; busybox chown 0:5 /dev/null && echo chown; echo x >/dev/null && echo written", nil)
	all := []specs.LinuxIDMapping{{Size: 1<<32 - 1}}
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings, s.Linux.GIDMappings = all, all
	if r := b.run(s); r.err != nil || r.out != "written\n" {
		t.Errorf("with a user namespace: %+v", r)
	}
	if after := state(); after != before {
		t.Errorf("/dev/null of the host has changed from %s to %s", before, after)
	}
}

// No working directory leads to a file of the starter (CVE-2024-21626).
func TestWorkingDirectoryStaysInside(t *testing.T) {
	b := newBundle(t)
	// A descriptor that the starter forgot to mark: it must not get in either.
	leak, err := unix.Open(b.host, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	dirs := []string{"/proc/1/cwd", "/proc/self/cwd", "/proc/self/root", "/proc/1/task/1/cwd", "/proc/thread-self/cwd"}
	for n := range 40 {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", n), fmt.Sprintf("/proc/self/fd/%d/../..", n))
	}
	b.symlink("/proc/self/fd/"+fmt.Sprint(leak), "link")
	b.symlink(b.host, "made")
	for _, dir := range append(dirs, "/link", "/link/x", "/made/sub", "/a/../../../../.."+b.host) {
		r := b.run(b.spec("pwd -P; ls; cat secret ../secret ../../host/secret", func(o *spec.Options) { o.WorkingDir = dir }))
		if r.err == nil && (!strings.HasPrefix(r.out, "/") || strings.Contains(r.out, "host secret") || strings.Contains(r.out, "unreachable")) {
			t.Errorf("%s: %q", dir, r.out)
		}
	}
	b.want("cd /proc/self/fd; for i in *; do [ -e $i ] && echo $i; done; true", "0\n1\n2\n", nil)
	if r := b.run(b.spec("", func(o *spec.Options) { o.WorkingDir = "/etc/passwd" })); r.err == nil {
		t.Error("a file is a working directory")
	}
}

// Devices are made in the filesystem that was mounted for them.
func TestDevicesDoNotFollowTheImage(t *testing.T) {
	b := newBundle(t)
	s := b.spec("stat -c %t:%T /dev/null; ls -l /dev | grep -c .", nil)
	for i, m := range s.Mounts { // a spec without a filesystem on /dev
		if m.Destination == "/dev" {
			s.Mounts = append(s.Mounts[:i], s.Mounts[i+1:]...)
			break
		}
	}
	b.symlink(b.host, "dev")
	if r := b.run(s); r.err == nil {
		t.Errorf("started with /dev being a link: %+v", r)
	}
	os.Remove(b.root + "/dev")
	b.mkdir("dev")
	b.symlink(b.host+"/secret", "dev/null")
	if r := b.run(s); r.err != nil || !strings.HasPrefix(r.out, "1:3\n") {
		t.Errorf("%+v", r)
	}
}

// Two containers share a volume; one of them swaps the target of the other's mount for a
// link while it starts (CVE-2021-30465, CVE-2024-45310).
func TestMountTargetSwappedWhileStarting(t *testing.T) {
	b := newBundle(t)
	volume, data := b.dir+"/volume", b.dir+"/data"
	for _, d := range []string{volume + "/dir", data} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(data+"/mine", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(b.host, volume+"/link"); err != nil {
		t.Fatal(err)
	}
	before := b.hostState()
	stop, done := make(chan bool), make(chan bool)
	var turns atomic.Int64
	go exchange(volume+"/dir", volume+"/link", &turns, stop, done)
	s := b.spec("cat /volume/dir/secret "+b.host+"/secret /volume/link/secret; find / -name secret -xdev", func(o *spec.Options) {
		o.Mounts = []spec.Mount{{Source: volume, Target: "/volume"}, {Source: data, Target: "/volume/dir/new/place"}, {Source: data, Target: "/volume/dir"}}
	})
	started := 0
	for begin := time.Now(); time.Since(begin) < 3*time.Second || (started == 0 || turns.Load() < 10000) && time.Since(begin) < time.Minute; {
		c, out, err := b.start(s, Options{})
		r := finish(t, c, out, err)
		if err == nil {
			started++
			if strings.Contains(r.out, "host secret") {
				t.Fatalf("the container read the host: %q", r.out)
			}
		}
	}
	close(stop)
	if <-done; turns.Load() < 10000 || started == 0 {
		t.Errorf("%d exchanges, %d starts", turns.Load(), started)
	}
	if after := b.hostState(); after != before {
		t.Errorf("the host has changed from\n%s\nto\n%s", before, after)
	}
}

// The ID -1, which means no change to the kernel, is not root's.
func TestNoUserIsNotRoot(t *testing.T) {
	b := newBundle(t)
	for _, u := range []specs.User{{UID: ^uint32(0)}, {GID: ^uint32(0)}, {UID: 5, GID: 5, AdditionalGids: []uint32{1, ^uint32(0)}}} {
		s := b.spec("id", nil)
		s.Process.User = u
		if r := b.run(s); !errors.Is(r.err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %+v", u, r)
		}
		if _, err := CompileExec(b.spec("true", nil), s.Process, ExecOptions{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("exec by %+v: %v", u, err)
		}
	}
	s := b.spec("id -u; id -g", nil)
	s.Process.User = specs.User{UID: ^uint32(1), GID: ^uint32(1)}
	if r := b.run(s); r.err != nil || r.out != "4294967294\n4294967294\n" {
		t.Errorf("the greatest: %+v", r)
	}
}

// Nothing but procfs is mounted on /proc, or in it: neither by the name nor by links.
func TestMountsInProc(t *testing.T) {
	b := newBundle(t)
	data := b.dir + "/data"
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	file := b.dir + "/file"
	if err := os.WriteFile(file, []byte("text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	b.symlink("/proc", "l")
	b.symlink("../proc/sys", "etc/sys")
	for _, m := range []specs.Mount{
		{Destination: "/proc", Type: "tmpfs"}, {Destination: "/proc/", Type: "bind", Source: data}, {Destination: "/bin/../proc", Type: "bind", Source: data},
		{Destination: "/proc/sys", Type: "tmpfs"}, {Destination: "/proc/self/attr", Type: "bind", Source: data}, {Destination: "proc/1", Type: "tmpfs"},
		{Destination: "/proc/keys", Type: "bind", Source: file}, {Destination: "/proc/sys/kernel/core_pattern", Type: "bind", Source: file},
		{Destination: "/l", Type: "tmpfs"}, {Destination: "/l/sys", Type: "bind", Source: data}, {Destination: "/l/keys", Type: "bind", Source: file},
		{Destination: "/etc/sys", Type: "tmpfs"}, {Destination: "/etc/sys/kernel", Type: "tmpfs"}, {Destination: "/l/meminfo", Type: "bind", Source: file},
	} {
		s := b.spec("true", nil)
		s.Mounts = append(s.Mounts, m)
		if r := b.run(s); r.err == nil || !errors.Is(r.err, errdefs.ErrInvalidArgument) && !errors.Is(r.err, unix.EPERM) {
			t.Errorf("%s on %s: %v", m.Type, m.Destination, r.err)
		}
	}
	b.want("cat /proc/meminfo; stat -f -c %T /host; cat /host/sys/kernel/ostype", "text\nproc\nLinux\n", func(o *spec.Options) {
		o.Mounts = []spec.Mount{{Source: file, Target: "/proc/meminfo"}, {Source: "/proc", Target: "/host"}}
	})
}

// A namespace that is given by a path may be the host's. Then its names and sysctls are too.
func TestPathToTheHostsNamespace(t *testing.T) {
	b := newBundle(t)
	for _, tt := range []struct {
		kind        specs.LinuxNamespaceType
		file        string
		name, value string
	}{
		{specs.NetworkNamespace, "net", "net.ipv4.ip_default_ttl", "65"},
		{specs.IPCNamespace, "ipc", "kernel.msgmax", "9999"},
		{specs.IPCNamespace, "ipc", "fs.mqueue.msg_max", "11"},
		{specs.UTSNamespace, "uts", "kernel.domainname", "evil"},
		{specs.UTSNamespace, "uts", "", ""},
	} {
		for _, path := range []string{"/proc/self/ns/", fmt.Sprintf("/proc/%d/ns/", os.Getpid()), "/proc/thread-self/../../ns/", b.dir + "/ns/"} {
			s := b.spec("true", nil)
			for i, ns := range s.Linux.Namespaces {
				if ns.Type == tt.kind {
					s.Linux.Namespaces[i].Path = path + tt.file
				}
			}
			s.Hostname = ""
			if tt.name == "" {
				s.Hostname = "evil"
			} else {
				s.Linux.Sysctl = map[string]string{tt.name: tt.value}
			}
			os.Symlink("/proc/self/ns", b.dir+"/ns")
			if _, err := Compile(s, Rootfs{Path: b.root}, Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("%s %s of %s: %v", tt.kind, tt.name, path, err)
			}
		}
	}
}

// A container with much power over itself still has no way to the host's tree.
func TestOldRootIsGone(t *testing.T) {
	b := newBundle(t)
	b.want("cd /..; cat ."+b.host+"/secret 2>/dev/null || echo gone; mkdir /tmp/o; mount -t tmpfs t /tmp/o; cd /tmp/o; cat /../../../.."+b.host+"/secret 2>/dev/null || echo gone; grep -c "+b.dir+" /proc/mounts; ls /proc/1/root/../ | grep -c '^host$'",
		"gone\ngone\n0\n0\n", func(o *spec.Options) {
			o.CapAdd, o.Seccomp = []string{"SYS_ADMIN"}, "unconfined"
			o.Args[2] = o.Args[2] + " || true"
		})
}

// TestOurNamespace: what is ours is the thread's, not that of the main thread, which goes into namespaces too.
func TestOurNamespace(t *testing.T) {
	privilege.NeedRoot(t)
	runtime.LockOSThread()
	host, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer host.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	is := func(path string) bool { return isOurs(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: path}) }
	theirs, own := is(fmt.Sprintf("/proc/self/fd/%d", host.Fd())), is("/proc/thread-self/ns/net")
	if err := unix.Setns(int(host.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err) // the thread ends with the test
	}
	runtime.UnlockOSThread()
	if theirs || !own {
		t.Errorf("the host's: %v, its own: %v", theirs, own)
	}
}

// While containers start, their image exchanges what they mount on, mask and make devices in for
// links to the host (CVE-2025-31133, CVE-2025-52565, CVE-2025-52881, CVE-2019-19921).
func TestImageSwappedWhileStarting(t *testing.T) {
	b := newBundle(t)
	if err := os.MkdirAll(b.host+"/sys/kernel", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"null", "console", "hidden", "sys/kernel/domainname"} {
		if err := os.WriteFile(filepath.Join(b.host, file), []byte("host secret\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"proc", "sys", "dev/pts", "etc/hide", "run/sub"} {
		b.mkdir(dir)
	}
	b.write("dev/null", "", 0o666)
	b.write("dev/console", "", 0o666)
	b.write("etc/hidden", "not masked\n", 0o644)
	up := "/../../../../../../../.."
	for path, target := range map[string]string{
		"proc": b.host, "sys": "/proc/self/root" + b.host, "dev": b.host, "dev/pts": up + b.host, "dev/null": "/proc/sys/kernel/core_pattern",
		"dev/console": up + b.host + "/console", "etc/hidden": up + b.host + "/hidden", "etc/hide": b.host, "run/sub": "/proc/self/fd", "run": b.host,
	} {
		b.symlink(target, path+".link")
	}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	before := b.hostState()
	for _, withDev := range []bool{true, false} {
		for _, path := range []string{"proc", "sys", "dev", "dev/pts", "dev/null", "dev/console", "etc/hidden", "etc/hide", "run/sub", "run"} {
			s := b.spec(`cat /etc/hidden; ls /etc/hide; cat /proc/sys/kernel/domainname; stat -c %F:%t:%T /dev/null; echo x >/dev/null; stat -f -c %T /proc /sys`, func(o *spec.Options) {
				o.TTY = path == "dev/console" && withDev
			})
			s.Mounts = append(s.Mounts, specs.Mount{Type: "tmpfs", Destination: "/run/sub/deep"})
			s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/etc/hidden", "/etc/hide", "/proc/kcore")
			s.Linux.ReadonlyPaths = append(s.Linux.ReadonlyPaths, "/run/sub")
			s.Linux.Sysctl = map[string]string{"kernel.domainname": "own"}
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/run/sub/null", Type: "c", Major: 1, Minor: 3})
			if !withDev {
				s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return strings.HasPrefix(m.Destination, "/dev") })
			}
			stop, done := make(chan bool), make(chan bool)
			var turns atomic.Int64
			go exchange(filepath.Join(b.root, path), filepath.Join(b.root, path+".link"), &turns, stop, done)
			started := 0
			for begin := time.Now(); time.Since(begin) < 150*time.Millisecond || (started == 0 || turns.Load() < 100) && time.Since(begin) < time.Minute; {
				c, out, err := b.start(s, Options{})
				r := finish(t, c, out, err)
				if err != nil {
					continue
				}
				started++
				// A directory may be exchanged with what is mounted on it: then the container has no /proc.
				whole := path == "proc" || path == "sys" || strings.Contains(r.out, "own\n") && strings.Contains(r.out, "proc\nsysfs\n")
				if strings.Contains(r.out, "host secret") || !whole {
					t.Errorf("%s: the container saw %q", path, r.out)
				}
			}
			close(stop)
			if <-done; started == 0 || turns.Load() < 100 {
				t.Errorf("%s: %d starts, %d exchanges", path, started, turns.Load())
			}
		}
	}
	if after := b.hostState(); after != before {
		t.Errorf("the host has changed from\n%s\nto\n%s", before, after)
	}
	if now, err := os.ReadFile("/proc/sys/kernel/core_pattern"); err != nil || string(now) != string(pattern) {
		t.Errorf("core_pattern is %q, %v, it was %q", now, err, pattern)
	}
}

// exchange swaps two paths until it is told to stop, counts how often, and leaves them as they were.
func exchange(x, y string, turns *atomic.Int64, stop <-chan bool, done chan<- bool) {
	defer close(done)
	for {
		select {
		case <-stop:
			if turns.Load()%2 == 1 {
				unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE)
			}
			return
		default:
			unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE)
			turns.Add(1)
		}
	}
}

// A profile that forbids everything forbids the start too: it fails, and nothing stays that asks again and again to be ended.
func TestSeccompForbidsTheEnd(t *testing.T) {
	b := newBundle(t)
	s := b.spec("true", nil)
	s.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	p, err := Compile(s, Rootfs{Path: b.root}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	begun, err := launch.Begin(p, []*os.File{null, null, null})
	if err != nil {
		t.Fatal(err)
	}
	var late atomic.Bool
	timer := time.AfterFunc(10*time.Second, func() {
		late.Store(true)
		launch.SignalPIDFD(begun.PIDFD(), unix.SIGKILL)
	})
	defer timer.Stop()
	c, err := begun.Follow()
	if err == nil {
		var exit launch.Exit
		if exit, err = c.Wait(); err == nil && exit.Code == 0 {
			t.Errorf("it ended with %+v", exit)
		}
	}
	if late.Load() {
		t.Errorf("it did not end: %v", err)
	}
}
