package op

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/runner/keeper"
)

// The test binary is its own keeper: it executes itself from a sealed memfd.
func TestMain(m *testing.M) {
	if os.Args[0] == "teu-keeper" {
		os.Exit(keeper.Main(os.Args[1:]))
	}
	os.Exit(m.Run())
}

var sealed = sync.OnceValues(func() (*keeper.Binary, error) {
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, err
	}
	return keeper.Seal(elf)
})

// execEnv returns an Env whose commands run in real containers, and a root with busybox in it.
func execEnv(t *testing.T) (*Env, Result) {
	t.Helper()
	e := newEnv(t)
	e.Executor = &Containers{Keeper: sealed, Warn: func(s string) { t.Log(s) }}
	m, err := e.prepare(t.Context(), console(), Result{})
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	plant(t, m.snap.Upper, "d755 0:0 /bin", "d1777 0:0 /tmp", "d755 0:0 /etc", "d755 0:0 /dev", "d755 0:0 /proc", "d755 0:0 /sys",
		"f644 0:0 /etc/passwd root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n",
		"f644 0:0 /etc/group root:x:0:\nann:x:1001:\naudio:x:29:ann\n")
	if err := os.WriteFile(filepath.Join(m.snap.Upper, "bin/busybox"), busybox, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("busybox", filepath.Join(m.snap.Upper, "bin/sh")); err != nil {
		t.Fatal(err)
	}
	plant(t, m.snap.Upper)
	r, err := m.commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return e, r
}

// command is a RUN of a shell script, without network, on input 0.
func command(script string, mounts ...*pb.Mount) *pb.ExecOp {
	return &pb.ExecOp{
		Meta:    &pb.Meta{Args: []string{"/bin/sh", "-c", "alias ls='busybox ls'; " + script}, Cwd: "/", Env: []string{"PATH=/bin", "A=B"}},
		Network: pb.NetMode_NONE,
		Mounts:  append([]*pb.Mount{{Dest: "/", Input: 0, Output: 0}}, mounts...),
	}
}

// run runs o and returns its outputs and what it said.
func run(ctx context.Context, t *testing.T, e *Env, o *pb.ExecOp, inputs ...Result) ([]Result, string, error) {
	t.Helper()
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Exec{Exec: o}}, len(inputs)))
	if err != nil {
		return nil, "", err
	}
	var mu sync.Mutex
	var said bytes.Buffer
	c := solver.NewConsole("", "", func(ev solver.Event) {
		mu.Lock()
		defer mu.Unlock()
		said.Write(ev.Data)
	})
	out, err := op.Run(ctx, c, inputs)
	return out, said.String(), err
}

// changed lists the top layer of r.
func changed(t *testing.T, e *Env, r Result) []string {
	t.Helper()
	return contents(t, e, Result{Layers: r.Layers[len(r.Layers)-1:]})
}

func TestRun(t *testing.T) {
	e, base := execEnv(t)
	o := command(`busybox id; busybox pwd; echo $A $SECRET; busybox hostname; busybox cat /etc/hosts; echo hello >/work/new; busybox rm /etc/group`)
	o.Meta.User, o.Meta.Cwd = "0", "/work"
	o.Meta.ExtraHosts = []*pb.HostIP{{Host: "other", IP: "10.1.2.3"}}
	out, said, err := run(t.Context(), t, e, o, base)
	if err != nil {
		t.Fatalf("%v\n%s", err, said)
	}
	for _, want := range []string{"uid=0(root)", "/work\n", "B\n", "buildkitsandbox\n", "10.1.2.3\tother"} {
		if !strings.Contains(said, want) {
			t.Errorf("it said %q, want %q in it", said, want)
		}
	}
	files := contents(t, e, out[0])
	if !slices.Contains(files, "f644 0:0 /work/new hello\n") {
		t.Errorf("the new file is missing: %q", files)
	}
	for _, f := range files {
		for _, not := range []string{"/etc/group", "/etc/hosts", "/etc/resolv.conf"} {
			if strings.Contains(f, not) {
				t.Errorf("%s is there", f)
			}
		}
	}
	if n := len(out[0].Layers); n != 2 {
		t.Errorf("%d layers, want 2", n)
	}
}

func TestRunAsUserByName(t *testing.T) {
	e, base := execEnv(t)
	o := command(`busybox id -u; busybox id -G; echo x >/tmp/mine`)
	o.Meta.User = "ann"
	out, said, err := run(t.Context(), t, e, o, base)
	if err != nil || said != "1000\n1001 29\n" {
		t.Fatalf("it said %q, %v", said, err)
	}
	if got := changed(t, e, out[0]); !slices.Contains(got, "f644 1000:1001 /tmp/mine x\n") {
		t.Errorf("got %q", got)
	}
}

func TestExitCodes(t *testing.T) {
	e, base := execEnv(t)
	for _, c := range []struct {
		name  string
		args  []string
		valid []int32
		want  int // 0: success
	}{
		{"failure", []string{"/bin/sh", "-c", "exit 7"}, nil, 7},
		{"allowed", []string{"/bin/sh", "-c", "exit 7"}, []int32{3, 7}, 0},
		{"success not allowed", []string{"/bin/sh", "-c", "exit 0"}, []int32{3}, -1},
		{"not found", []string{"/no/such"}, nil, 127},
		{"not executable", []string{"/etc/passwd"}, nil, 126},
	} {
		o := command("")
		o.Meta.Args, o.Meta.ValidExitCodes = c.args, c.valid
		_, _, err := run(t.Context(), t, e, o, base)
		var exit *ExitError
		switch {
		case c.want == 0:
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		case !errors.As(err, &exit):
			t.Errorf("%s: got %v, want an exit code", c.name, err)
		case c.want > 0 && exit.Code != c.want:
			t.Errorf("%s: got %v, want %d", c.name, err, c.want)
		}
	}
	var left []string
	err := e.Store.Snapshots.Walk(t.Context(), snapshotIDs(&left))
	if err != nil || len(left) > 0 {
		t.Errorf("snapshots left: %q, %v", left, err)
	}
}

func TestMounts(t *testing.T) {
	e, base := execEnv(t)
	other := state(t, e, "d755 0:0 /sub", "f644 0:0 /sub/f F", "f644 0:0 /sneaky S", "l 0:0 /abs /sub")
	e.Secrets = secretMap{"s": "sesame"}
	for _, c := range []struct {
		name   string
		script string
		mount  *pb.Mount
		says   string
		err    string
	}{
		{"read-only", "busybox cat /m/sub/f; echo x >/m/new", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Readonly: true}, "Read-only", "exit code: 1"},
		{"writes are dropped", "echo x >/m/new; busybox cat /m/new", &pb.Mount{Dest: "/m", Input: 1, Output: -1}, "x\n", ""},
		{"a directory of it", "ls /m", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "/sub", Readonly: true}, "f\n", ""},
		{"a file of it", "busybox cat /m", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "sub/f", Readonly: true}, "F", ""},
		{"through an absolute link", "ls /m", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "/abs", Readonly: true}, "f\n", ""},
		{"nothing there", "", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "/none", Readonly: true}, "", "no such file"},
		{"relative target", "ls /dir/m/sub", &pb.Mount{Dest: "m", Input: 1, Output: -1, Readonly: true}, "f\n", ""},
		{"tmpfs", "busybox df /m | busybox grep -c tmpfs; echo x >/m/x", &pb.Mount{Dest: "/m", Input: -1, Output: -1, MountType: pb.MountType_TMPFS, TmpfsOpt: &pb.TmpfsOpt{Size: 1 << 20}}, "1\n", ""},
		{"secret", "busybox stat -c %a:%u /m; busybox cat /m", &pb.Mount{Dest: "/m", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s", Uid: 5, Mode: 0o400}}, "400:5\nsesame", ""},
		{"secret that may be missing", "ls -d /m", &pb.Mount{Dest: "/m", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "no", Optional: true}}, "No such file", "exit code: 1"},
		{"secret that is missing", "", &pb.Mount{Dest: "/m", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "no"}}, "", "secret no: not found"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := command(c.script, c.mount)
			o.Meta.Cwd = "/dir"
			out, said, err := run(t.Context(), t, e, o, base, other)
			if !strings.Contains(said, c.says) {
				t.Errorf("it said %q, want %q", said, c.says)
			}
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range changed(t, e, out[0]) {
				if strings.HasSuffix(f, "/m") || strings.Contains(f, "sesame") {
					t.Errorf("the mount left %q", f)
				}
			}
			wantContents(t, e, other, "l 0:0 /abs /sub", "f644 0:0 /sneaky S", "d755 0:0 /sub", "f644 0:0 /sub/f F")
		})
	}
}

func TestMountsAreOutputs(t *testing.T) {
	e, base := execEnv(t)
	other := state(t, e, "f644 0:0 /f F")
	o := command("echo G >/rw/g; busybox cat /ro/f", &pb.Mount{Dest: "/rw", Input: 1, Output: 1}, &pb.Mount{Dest: "/ro", Input: 1, Output: 2, Readonly: true},
		&pb.Mount{Dest: "/new", Input: -1, Output: 3})
	out, said, err := run(t.Context(), t, e, o, base, other)
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	wantContents(t, e, out[1], "f644 0:0 /f F", "f644 0:0 /g G\n")
	if len(out[2].Layers) != 1 || out[2].Layers[0].ID != other.Layers[0].ID {
		t.Errorf("read-only output is %+v, not its input", out[2])
	}
	wantContents(t, e, out[3])
}

func TestSecretEnvironmentAndProxy(t *testing.T) {
	e, base := execEnv(t)
	e.Secrets = secretMap{"s": "sesame"}
	o := command("echo $S,$N,$HTTP_PROXY,$http_proxy")
	o.Secretenv = []*pb.SecretEnv{{ID: "s", Name: "S"}, {ID: "none", Name: "N", Optional: true}}
	o.Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "p:1"}
	_, said, err := run(t.Context(), t, e, o, base)
	if err != nil || said != "sesame,,p:1,p:1\n" {
		t.Errorf("it said %q, %v", said, err)
	}
	o.Secretenv = []*pb.SecretEnv{{ID: "none", Name: "N"}}
	if _, _, err := run(t.Context(), t, e, o, base); !errdefs.IsNotFound(err) {
		t.Errorf("missing secret: %v", err)
	}
}

func cacheOf(id string, sharing pb.CacheSharingOpt) *pb.Mount {
	return &pb.Mount{Dest: "/c", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: id, Sharing: sharing}}
}

// TestCacheMountLookedAt: steps have one directory together, also while somebody looks whether it is used.
func TestCacheMountLookedAt(t *testing.T) {
	e := newEnv(t)
	key, err := e.cacheKey(t.Context(), console(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	var looks errgroup.Group
	looks.Go(func() error {
		for {
			select {
			case <-over:
				return nil
			default:
			}
			if err := e.Measure(t.Context(), &CacheMount{Key: key}); err != nil {
				return err
			}
		}
	})
	for range 600 {
		dir, err := e.openCache(t.Context(), console(), key, &pb.CacheOpt{ID: "x", Sharing: pb.CacheSharingOpt_SHARED}, nil, false)
		if err != nil {
			t.Error(err)
			break
		}
		if err := dir.close(); err != nil {
			t.Error(err)
		}
	}
	close(over)
	if err := looks.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(e.cacheRoot(), key, "1")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is another directory: %v", err)
	}
}

func TestCacheMountsLast(t *testing.T) {
	e, base := execEnv(t)
	for _, sharing := range []pb.CacheSharingOpt{pb.CacheSharingOpt_SHARED, pb.CacheSharingOpt_PRIVATE, pb.CacheSharingOpt_LOCKED} {
		id := "/" + sharing.String()
		for i, want := range []string{"1\n", "1\n2\n"} {
			out, said, err := run(t.Context(), t, e, command(fmt.Sprintf("echo %d >>/c/log; busybox cat /c/log", i+1), cacheOf(id, sharing)), base)
			if err != nil || said != want {
				t.Errorf("%s: it said %q, %v, want %q", sharing, said, err, want)
				continue
			}
			if got := changed(t, e, out[0]); len(got) != 0 {
				t.Errorf("%s: the cache is in the layer: %q", sharing, got)
			}
		}
	}
	mounts, err := e.CacheMounts()
	if err != nil || len(mounts) != 3 {
		t.Fatalf("got %v, %v", mounts, err)
	}
	for _, m := range mounts {
		if err := e.RemoveCacheMount(m.Key); err != nil {
			t.Fatal(err)
		}
	}
	_, said, err := run(t.Context(), t, e, command("ls /c", cacheOf("/SHARED", pb.CacheSharingOpt_SHARED)), base)
	if err != nil || said != "" {
		t.Errorf("removed cache: %q, %v", said, err)
	}
}

// What a killed step was filling goes with the cache mount.
func TestCacheMountOfAKilledStep(t *testing.T) {
	e, base := execEnv(t)
	if _, _, err := run(t.Context(), t, e, command("echo 1 >/c/log", cacheOf("/c", pb.CacheSharingOpt_SHARED)), base); err != nil {
		t.Fatal(err)
	}
	mounts, err := e.CacheMounts()
	if err != nil || len(mounts) != 1 {
		t.Fatalf("got %v, %v", mounts, err)
	}
	dir := filepath.Join(e.cacheRoot(), mounts[0].Key)
	if err := os.Rename(filepath.Join(dir, "0"), filepath.Join(dir, "0.new-x")); err != nil {
		t.Fatal(err)
	}
	if mounts, err := e.CacheMounts(); err != nil || len(mounts) != 1 {
		t.Errorf("got %v, %v: it takes room all the same", mounts, err)
	}
	if err := e.RemoveCacheMount(mounts[0].Key); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "0.new-x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what a killed step left is there: %v", err)
	}
}

func TestCacheMountBeginsWithItsBase(t *testing.T) {
	e, base := execEnv(t)
	of := func() Result { return state(t, e, "d711 7:8 /cache") } // what uid=, gid= and mode= make
	m := cacheOf("/c", pb.CacheSharingOpt_SHARED)
	m.Input, m.Selector = 1, "/cache"
	for _, want := range []string{"711:7:8\n", "711:7:8\nx\n"} {
		_, said, err := run(t.Context(), t, e, command("busybox stat -c %a:%u:%g /c; ls /c; echo >/c/x", m), base, of())
		if err != nil || said != want {
			t.Errorf("it said %q, %v, want %q", said, err, want)
		}
	}
	// Another base is another cache.
	_, said, err := run(t.Context(), t, e, command("ls /c", m), base, state(t, e, "d700 7:8 /cache"))
	if err != nil || said != "" {
		t.Errorf("another base: %q, %v", said, err)
	}
}

func TestNoCacheEmptiesCacheMounts(t *testing.T) {
	e, base := execEnv(t)
	o := command("echo x >>/c/log; busybox cat /c/log", cacheOf("/c", pb.CacheSharingOpt_SHARED))
	for i, want := range []string{"x\n", "x\nx\n", "x\n", "x\nx\n"} {
		v := vertex(&pb.Op{Op: &pb.Op_Exec{Exec: o}}, 1)
		v.Metadata.IgnoreCache = i == 2
		op, err := e.Op(v)
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		c := solver.NewConsole("", "", func(ev solver.Event) { said.Write(ev.Data) })
		if _, err := op.Run(t.Context(), c, []Result{base}); err != nil {
			t.Fatal(err)
		}
		if said.String() != want {
			t.Errorf("run %d said %q, want %q", i, said.String(), want)
		}
	}
}

func TestCacheSharing(t *testing.T) {
	for _, c := range []struct {
		sharing  pb.CacheSharingOpt
		together bool // two steps hold a directory at the same time
		same     bool // the same
	}{
		{pb.CacheSharingOpt_SHARED, true, true},
		{pb.CacheSharingOpt_PRIVATE, true, false},
		{pb.CacheSharingOpt_LOCKED, false, false},
	} {
		e := newEnv(t)
		key, err := e.cacheKey(t.Context(), console(), "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		opt := &pb.CacheOpt{ID: "x", Sharing: c.sharing}
		one, err := e.openCache(t.Context(), console(), key, opt, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		patience := time.Minute
		if !c.together {
			patience = 300 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		two, err := e.openCache(ctx, console(), key, opt, nil, false)
		cancel()
		if got := err == nil; got != c.together {
			t.Errorf("%s: together %v (%v), want %v", c.sharing, got, err, c.together)
		}
		if err == nil {
			a, _ := one.Stat("/")
			b, _ := two.Stat("/")
			if got := os.SameFile(a, b); got != c.same {
				t.Errorf("%s: the same %v, want %v", c.sharing, got, c.same)
			}
			if err := two.close(); err != nil {
				t.Error(err)
			}
		}
		if err := one.close(); err != nil {
			t.Error(err)
		}
	}
}

// TestHostileCacheMounts: neither the ID (CVE-2024-9675) nor links in the directory
// (CVE-2024-23651) lead out of it.
func TestHostileCacheMounts(t *testing.T) {
	e, base := execEnv(t)
	host := t.TempDir()
	if err := os.WriteFile(filepath.Join(host, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"../../../../../../" + host, host, "a/../../..", "..", ".", ""} {
		if _, _, err := run(t.Context(), t, e, command("echo x >/c/x; busybox test ! -e /c/secret", cacheOf(id, pb.CacheSharingOpt_SHARED)), base); err != nil {
			t.Errorf("id %q: %v", id, err)
		}
	}
	plain := cacheOf("evil", pb.CacheSharingOpt_SHARED)
	if _, _, err := run(t.Context(), t, e, command("busybox ln -s "+host+" /c/sub; busybox ln -s ../../../../../../../../.. /c/up", plain), base); err != nil {
		t.Fatal(err)
	}
	for _, sel := range []string{"sub", "up" + host, "up/etc"} {
		m := cacheOf("evil", pb.CacheSharingOpt_SHARED)
		m.Selector = sel
		out, said, err := run(t.Context(), t, e, command("busybox cat /c/secret /c/passwd; echo x >/c/mine", m), base)
		if err == nil && strings.Contains(said, "secret") || strings.Contains(said, "root:") {
			t.Errorf("selector %q: %q, %v", sel, said, out)
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 1 {
		t.Errorf("the host's directory holds %v, %v", entries, err)
	}
}

// TestMountStubsAreRemovedOnlyInTheRoot: a command that replaces a mount point by a link must
// not have something removed elsewhere (CVE-2024-23652).
func TestMountStubsAreRemovedOnlyInTheRoot(t *testing.T) {
	e, base := execEnv(t)
	host := t.TempDir() // empty: what the remover looks for
	target := filepath.Join(host, "empty")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	m := &pb.Mount{Dest: "/stub/inner", Input: -1, Output: -1, MountType: pb.MountType_TMPFS}
	o := command("busybox umount /stub/inner; busybox mv /stub /old; busybox ln -s "+host+" /stub; busybox mkdir -p "+target+"; busybox true", m)
	o.Meta.RemoveMountStubsRecursive = true
	o.Security = pb.SecurityMode_INSECURE
	e.Entitlements = []string{"security.insecure"}
	if _, said, err := run(t.Context(), t, e, o, base); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if _, err := os.Stat(target); err != nil {
		t.Errorf("removed on the host: %v", err)
	}
}

// The same whatever the command could do to the way to a mount point, or leave in its place.
func TestStubsBehindLinks(t *testing.T) {
	dir, host := t.TempDir(), t.TempDir()
	if err := errors.Join(os.Mkdir(host+"/empty", 0o755), os.WriteFile(host+"/file", nil, 0o644),
		os.Symlink(host, dir+"/absolute"), os.Symlink("../"+filepath.Base(host), dir+"/relative"),
		os.Symlink(host+"/empty", dir+"/last"), os.WriteFile(dir+"/full", []byte("x"), 0o644)); err != nil {
		t.Fatal(err)
	}
	upper, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer upper.Close()
	for _, p := range []string{"absolute/empty", "absolute/file", "relative/empty", "relative/file", "last", "full", "full/x",
		"../" + filepath.Base(host) + "/empty", host + "/file", "missing/x"} {
		if err := removeStub(upper, p); err != nil && !errors.Is(err, unix.EXDEV) {
			t.Errorf("%s: %v", p, err)
		}
	}
	for _, p := range []string{host + "/empty", host + "/file", dir + "/last", dir + "/full"} {
		if _, err := os.Lstat(p); err != nil {
			t.Errorf("removed: %v", err)
		}
	}
}

func TestMountStubs(t *testing.T) {
	e, base := execEnv(t)
	base = stateOn(t, e, base, "d755 0:0 /there", "d755 0:0 /empty-before")
	tmpfs := func(dest string) *pb.Mount {
		return &pb.Mount{Dest: dest, Input: -1, Output: -1, MountType: pb.MountType_TMPFS}
	}
	o := command("busybox true", tmpfs("/a/b/c"), tmpfs("/there/x"), tmpfs("/empty-before"))
	for recursive, gone := range map[bool][]string{false: {"/a/b/c", "/there/x"}, true: {"/a", "/there/x"}} {
		o.Meta.RemoveMountStubsRecursive = recursive
		out, _, err := run(t.Context(), t, e, o, base)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.View(t.Context(), console(), out[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range gone {
			if _, err := v.Dir.Lstat(p); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("recursive %v: %s is there: %v", recursive, p, err)
			}
		}
		if _, err := v.Dir.Lstat("/empty-before"); err != nil {
			t.Errorf("what was there before is gone: %v", err)
		}
		if fi, err := v.Dir.Lstat("/there"); err != nil || !fi.ModTime().Equal(longAgo) {
			t.Errorf("recursive %v: the time of the directory changed: %v, %v", recursive, fi.ModTime(), err)
		}
		v.Close()
	}
}

func TestEntitlements(t *testing.T) {
	e := newEnv(t)
	host, insecure := command(""), command("")
	host.Network = pb.NetMode_HOST
	insecure.Security = pb.SecurityMode_INSECURE
	for name, o := range map[string]*pb.ExecOp{"network.host": host, "security.insecure": insecure} {
		v := vertex(&pb.Op{Op: &pb.Op_Exec{Exec: o}}, 1)
		e.Entitlements = nil
		if _, err := e.Op(v); !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: got %v, want permission denied", name, err)
		}
		e.Entitlements = []string{name}
		if _, err := e.Op(v); err != nil {
			t.Errorf("%s allowed: %v", name, err)
		}
	}
}

func TestCancelEndsEverything(t *testing.T) {
	e, base := execEnv(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	o := command(strings.ReplaceAll("(busybox sleep N &); echo started; busybox sleep N", "N", longSleep()))
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Exec{Exec: o}}, 1))
	if err != nil {
		t.Fatal(err)
	}
	c := solver.NewConsole("", "", func(ev solver.Event) {
		if bytes.Contains(ev.Data, []byte("started")) {
			cancel()
		}
	})
	if _, err := op.Run(ctx, c, []Result{base}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	if pids := sleeping(t); len(pids) > 0 {
		t.Errorf("still running: %v", pids)
	}
	var left []string
	if err := e.Store.Snapshots.Walk(t.Context(), snapshotIDs(&left)); err != nil || len(left) > 0 {
		t.Errorf("snapshots left: %q, %v", left, err)
	}
}

// longSleep is how long processes of TestCancelEndsEverything sleep, and nothing else on this machine.
func longSleep() string { return fmt.Sprint("1234.", os.Getpid()) }

// sleeping returns the processes of TestCancelEndsEverything.
func sleeping(t *testing.T) (pids []string) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dirs {
		if line, err := os.ReadFile(d); err == nil && bytes.Contains(line, []byte("sleep\x00"+longSleep()+"\x00")) {
			pids = append(pids, d)
		}
	}
	return pids
}

func TestLayerOfACommandIsWhatItChanged(t *testing.T) {
	e, base := execEnv(t)
	out, said, err := run(t.Context(), t, e, command("busybox rm /etc/passwd; busybox mkdir /n; busybox chmod 700 /tmp"), base)
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	top := e.Store.Layers.Path(out[0].Layers[1].ID)
	var names []string
	filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if p != top {
			names = append(names, strings.TrimPrefix(p, top))
		}
		return err
	})
	want := []string{"/etc", "/etc/passwd", "/n", "/tmp"}
	if !slices.Equal(names, want) {
		t.Errorf("the layer holds %q, want %q", names, want)
	}
}

type secretMap map[string]string

func (s secretMap) Secret(_ context.Context, id string) ([]byte, error) {
	if v, ok := s[id]; ok {
		return []byte(v), nil
	}
	return nil, errdefs.ErrNotFound
}
