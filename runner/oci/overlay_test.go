package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/runner/spec"
	"github.com/teu-dev/teu/test/privilege"
)

func (b *bundle) overlay() mount.Overlay {
	b.t.Helper()
	o := mount.Overlay{Lowers: []string{b.dir + "/top", b.root}, Upper: b.dir + "/upper", Work: b.dir + "/work"}
	for _, d := range []string{b.dir + "/top", o.Upper, o.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := os.WriteFile(b.dir+"/top/layer", []byte("top\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
	return o
}

func (b *bundle) runRootfs(s *specs.Spec, r Rootfs, o Options) result {
	b.t.Helper()
	p, err := Compile(s, r, o)
	if err != nil {
		return result{err: err}
	}
	c, out, err := startProgram(b.t, p)
	return finish(b.t, c, out, err)
}

func TestOverlayRoot(t *testing.T) {
	b := newBundle(t)
	long := b.dir + "/" + strings.Repeat("l", 200) + "/" + strings.Repeat("m", 100)
	if err := os.MkdirAll(long, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(long+"/far", []byte("far\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, old := range []bool{false, true} {
		full := b.overlay()
		full.Lowers = append([]string{long}, full.Lowers...)
		single := mount.Overlay{Lowers: []string{b.root}}
		b.mkdir("proc")
		b.mkdir("sys")
		b.mkdir("dev")
		for _, tt := range []struct {
			name, script, want string
			o                  mount.Overlay
		}{
			{"with upper", "cat /layer /far; echo mine > /file && cat /file; grep -c '^overlay / overlay' /proc/mounts", "top\nfar\nmine\n1\n", full},
			{"one lower", "exec 2>/dev/null; echo x > /file || echo refused; ls / | grep -c bin", "refused\n1\n", single},
		} {
			r := b.runRootfs(b.spec(tt.script, nil), Rootfs{Overlay: tt.o}, Options{oldKernel: old})
			if r.err != nil || r.out != tt.want {
				t.Errorf("%s, old kernel %v: got %q, %v, want %q", tt.name, old, r.out, r.err, tt.want)
			}
		}
		if got, err := os.ReadFile(full.Upper + "/file"); err != nil || string(got) != "mine\n" {
			t.Errorf("upper: %q, %v", got, err)
		}
		os.Remove(full.Upper + "/file")
	}
}

// A build gives a RUN the trees of other stages and single files, as mounts of their own.
func TestDetachedAndOverlayMounts(t *testing.T) {
	b := newBundle(t)
	o := b.overlay()
	detached, err := o.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer detached.Close()
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.host+"/secret", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "secret")
	defer file.Close()
	s := b.spec("cat /stage/layer /run/secret /other/layer; echo x > /run/secret || echo refused; echo x > /stage/written", nil)
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/stage", Type: "bind", Options: []string{"rbind"}},
		specs.Mount{Destination: "/run/secret", Type: "bind", Options: []string{"ro"}},
		specs.Mount{Destination: "/other", Type: "overlay", Options: []string{"lowerdir=" + b.dir + "/top:" + b.root, "ro"}})
	p, err := Compile(s, Rootfs{Path: b.root}, Options{Detached: map[string]Detached{"/stage": {Slot: 3}, "/run/secret/": {Slot: 4, File: true}}})
	if err != nil {
		t.Fatal(err)
	}
	c, out, err := startProgram(t, p, detached, file)
	r := finish(t, c, out, err)
	if want := "top\nhost secret\ntop\n"; r.err != nil || !strings.HasPrefix(r.out, want) || !strings.HasSuffix(r.out, "refused\n") {
		t.Errorf("got %q, %v", r.out, r.err)
	}
	if _, err := os.Stat(o.Upper + "/written"); err != nil {
		t.Error(err)
	}
}

func (b *bundle) group(r *specs.LinuxResources) *cgroup.Group {
	b.t.Helper()
	h, err := cgroup.Detect()
	if err != nil {
		b.t.Fatal(err)
	}
	path := fmt.Sprintf("teu-test-%d/%s", os.Getpid(), b.t.Name())
	g, _, err := h.Create(path, r)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx), h.Open(filepath.Dir(path)).Remove(ctx)); err != nil {
			b.t.Error(err)
		}
	})
	return g
}

func TestContainerCgroup(t *testing.T) {
	b := newBundle(t)
	limit := int64(32 << 20)
	s := b.spec("cat /proc/self/cgroup | grep -c teu; cat /proc/self/cgroup | grep -E 'memory|^0::' | grep -c ':/$'; ls /sys/fs/cgroup | grep -c .; "+
		"mkdir /sys/fs/cgroup/memory/x 2>/dev/null || echo refused; cat /sys/fs/cgroup/memory*/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; "+
		"(: < /dev/zero) && echo zero; mknod /tmp/sda b 8 0 && (: < /tmp/sda) 2>/dev/null && echo disk; x=$(head -c 100000000 /dev/zero | tr '\\000' x); echo alive",
		func(o *spec.Options) {
			o.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
		})
	g := b.group(s.Linux.Resources)
	r := b.runRootfs(s, Rootfs{Path: b.root}, Options{CgroupProcs: g.Procs(), CgroupDir: g.V2Dir()})
	lines := strings.Split(strings.TrimSpace(r.out), "\n")
	if r.err != nil || len(lines) < 5 || lines[0] != "0" || lines[1] == "0" || lines[2] == "0" || lines[3] != "refused" || lines[4] != "33554432" {
		t.Fatalf("%+v", r)
	}
	if strings.Contains(r.out, "disk") || !strings.Contains(r.out, "zero") || strings.Contains(r.out, "alive") {
		t.Errorf("devices or memory are not limited: %q", r.out)
	}
	if stats, err := g.Stats(); err != nil || stats.OOMKills == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
	// An exec is in the same group.
	s = b.spec("exec sleep 1000", nil)
	p, err := Compile(s, Rootfs{Path: b.root}, Options{CgroupProcs: g.Procs(), CgroupDir: g.V2Dir()})
	if err != nil {
		t.Fatal(err)
	}
	c, out, err := startProgram(t, p)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	process, err := spec.NewExec(s, spec.ExecOptions{Args: []string{"sh", "-c", "grep :memory: /proc/self/cgroup || cat /proc/self/cgroup; P=/sys/fs/cgroup/memory/cgroup.procs; [ -e $P ] || P=/sys/fs/cgroup/cgroup.procs; [ $(wc -l < $P) -gt 1 ] && echo both"}})
	if err != nil {
		t.Fatal(err)
	}
	if p, err = CompileExec(s, process, ExecOptions{CgroupProcs: g.Procs(), CgroupDir: g.V2Dir()}); err != nil {
		t.Fatal(err)
	}
	e, text, err := startProgram(t, p, c.PIDFD)
	if got := finish(t, e, text, err); got.err != nil || !strings.HasSuffix(got.out, ":/\nboth\n") {
		t.Errorf("%+v", got)
	}
	if err := c.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if exit, err := c.Wait(); err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// Namespaces of another container are joined by path.
func TestSharedNamespaces(t *testing.T) {
	b := newBundle(t)
	r := b.running(nil)
	path := func(kind string) string { return fmt.Sprintf("/proc/%d/ns/%s", r.init.PID, kind) }
	// The PID, and with it the running container, is the other's.
	b.want("readlink /proc/1/exe; for n in pid net ipc uts; do [ $(readlink /proc/1/ns/$n) = $(readlink /proc/self/ns/$n) ] || echo other $n; done; [ $(readlink /proc/1/ns/mnt) = $(readlink /proc/self/ns/mnt) ] || echo other mnt; hostname",
		"/bin/busybox\nother mnt\nbox\n", func(o *spec.Options) {
			o.PIDNS, o.NetNS, o.IPCNS, o.UTSNS = path("pid"), path("net"), path("ipc"), path("uts")
			o.CapAdd = []string{"SYS_PTRACE"} // to read the links of the other's
		})
	b.want("[ $$ -gt 1 ] && echo host", "host\n", func(o *spec.Options) { o.PIDNS = "host" })
}

// A path that leads to another namespace than was meant is not followed: the number of the
// process may be another's by then.
func TestExpectedNamespace(t *testing.T) {
	b := newBundle(t)
	r := b.running(nil)
	path := fmt.Sprintf("/proc/%d/ns/pid", r.init.PID)
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	s := b.spec("echo in", func(o *spec.Options) { o.PIDNS = path })
	for inode, want := range map[uint64]error{st.Ino: nil, st.Ino + 1: unix.ESRCH} {
		got := b.runRootfs(s, Rootfs{Path: b.root}, Options{Expected: map[string]uint64{path: inode}})
		if !errors.Is(got.err, want) || want == nil && got.out != "in\n" {
			t.Errorf("inode %d of %d: got %+v, want %v", inode, st.Ino, got, want)
		}
	}
}

func BenchmarkStart(bench *testing.B) {
	privilege.NeedRoot(bench)
	dir := bench.TempDir()
	for _, d := range []string{"bin", "proc", "sys", "dev"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			bench.Fatal(err)
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		bench.Fatal(err)
	}
	if err := os.WriteFile(dir+"/bin/true", busybox, 0o755); err != nil {
		bench.Fatal(err)
	}
	s, _, err := spec.New(ocispec.ImageConfig{}, spec.Options{Args: []string{"/bin/true"}})
	if err != nil {
		bench.Fatal(err)
	}
	p, err := Compile(s, Rootfs{Path: dir}, Options{})
	if err != nil {
		bench.Fatal(err)
	}
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		bench.Fatal(err)
	}
	defer null.Close()
	for bench.Loop() {
		c, err := launch.Start(p, []*os.File{null, null, null})
		if err != nil {
			bench.Fatal(err)
		}
		if exit, err := c.Wait(); err != nil || exit.Code != 0 {
			bench.Fatal(exit, err)
		}
	}
}

// A mount beside the hierarchies has its place although their directory is read-only: podman's for
// a systemd in a container.
func TestMountBesideHierarchies(t *testing.T) {
	b := newBundle(t)
	if h, err := cgroup.Detect(); err != nil || h.Mode() != cgroup.V1 {
		t.Skip("no hierarchies of cgroup v1", err)
	}
	s := b.spec("cat /sys/fs/cgroup/systemd/secret; mkdir /sys/fs/cgroup/x 2>/dev/null || echo read-only", nil)
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup/systemd", Type: "bind", Source: b.host, Options: []string{"bind", "rprivate"}})
	if r := b.run(s); r.err != nil || r.out != "host secret\nread-only\n" {
		t.Errorf("%q, %v", r.out, r.err)
	}
}

// Controllers that share a hierarchy are found by the name of each.
func TestNamesOfControllers(t *testing.T) {
	b := newBundle(t)
	h, err := cgroup.Detect()
	if err != nil || h.Mode() != cgroup.V1 {
		t.Skip("no hierarchies of cgroup v1", err)
	}
	for _, own := range []string{"", "host"} {
		var r result
		onOwnThread(func() {
			both, pids := b.dir+"/pids,other", "/sys/fs/cgroup/pids"
			r.err = errors.Join(os.MkdirAll(both, 0o755), unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
				unix.Mount(pids, both, "", unix.MS_BIND, ""), unix.Unmount(pids, unix.MNT_DETACH))
			if r.err != nil {
				return
			}
			s := b.spec("cd /sys/fs/cgroup; for f in pids other; do readlink $f; ls $f/cgroup.procs; done", func(o *spec.Options) { o.CgroupNS = own })
			if own != "" {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro"}})
			}
			r = b.run(s)
		})
		if r.err != nil || r.out != "pids,other\npids/cgroup.procs\npids,other\nother/cgroup.procs\n" {
			t.Errorf("%q: %q, %v", own, r.out, r.err)
		}
	}
}

// onOwnThread calls f on a thread that ends with it. The main thread would not, and its mounts are /proc/self's.
func onOwnThread(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			onOwnThread(f)
			return
		}
		f()
	}()
	<-done
}
