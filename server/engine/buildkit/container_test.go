package buildkit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/secrets"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	controlapi "github.com/moby/buildkit/api/services/control"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/test/privilege"
)

// serveDir tells the test binary to be a server that listens on a socket in this directory.
const serveDir = "TEU_TEST_SERVE_BUILDKIT"

// The test binary is its own keeper, and a server that can be killed.
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

// newExecFixture is a fixture whose builds run commands.
func newExecFixture(t *testing.T) *fixture {
	t.Helper()
	privilege.NeedRoot(t)
	f := newFixture(t)
	f.executor = &op.Containers{Keeper: sealed, Warn: func(s string) { t.Log(s) }}
	return f
}

// boxes is a filesystem with busybox.
func boxes(t *testing.T) llb.State {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("busybox-static is needed: %v", err)
	}
	return llb.Scratch().File(llb.Mkdir("/bin", 0o755).Mkdir("/etc", 0o755).Mkdir("/tmp", 0o777).Mkfile("/bin/busybox", 0o755, busybox).
		Mkfile("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\n")).
		Mkfile("/etc/group", 0o644, []byte("root:x:0:\nann:x:1001:\n")))
}

// sh are the arguments of a script whose commands are busybox's.
func sh(script string) []string { return []string{"/bin/busybox", "sh", "-c", script} }

// solved lets g solve a state.
func solved(ctx context.Context, t *testing.T, g gateway.Client, st llb.State) gateway.Reference {
	t.Helper()
	def, err := st.Marshal(ctx)
	if err != nil {
		t.Fatal(err)
	}
	r, err := g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
	if err != nil {
		t.Fatal(err)
	}
	return r.Ref
}

// printer takes what a process prints, and can be asked while it does.
type printer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (p *printer) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.Write(b)
}

func (p *printer) Close() error { return nil }

func (p *printer) String() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.buf.String()
}

// await waits until the process has printed text.
func (p *printer) await(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(p.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q did not come, but %q", text, p.String())
		}
	}
}

// ran runs a process to its end, and returns what it printed.
func ran(ctx context.Context, c gateway.Container, r gateway.StartRequest) (string, error) {
	var out printer
	r.Stdout = &out
	p, err := c.Start(ctx, r)
	if err != nil {
		return "", err
	}
	err = p.Wait()
	return out.String(), err
}

// TestContainer: a client has a container of mounts, and processes in it.
func TestContainer(t *testing.T) {
	f := newExecFixture(t)
	offered := service(func(g *grpc.Server) { secrets.RegisterSecretsServer(g, &offers{}) })
	_, err := f.client(t).Build(t.Context(), client.SolveOpt{Session: []session.Attachable{offered}}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		root := solved(ctx, t, g, boxes(t).File(llb.Mkfile("/before", 0o644, []byte("made"))))
		data := solved(ctx, t, g, llb.Scratch().File(llb.Mkdir("/in", 0o755).Mkfile("/in/file", 0o640, []byte("data"))))
		c, err := g.NewContainer(ctx, gateway.NewContainerRequest{
			Hostname: "boxed", NetMode: pb.NetMode_NONE, ExtraHosts: []*pb.HostIP{{Host: "near", IP: "10.1.2.3"}},
			Mounts: []gateway.Mount{
				{Dest: "/", Ref: root},
				{Dest: "/data", Selector: "in", Ref: data, Readonly: true},
				{Dest: "/mem", MountType: pb.MountType_TMPFS},
				{Dest: "/run/token", MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "token", Mode: 0o400}},
				{Dest: "/kept", MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "kept"}},
			},
		})
		if err != nil {
			return nil, err
		}
		read := func(mount int, name string) string {
			b, err := c.ReadFile(ctx, gateway.ReadContainerRequest{MountIndex: mount, ReadRequest: gateway.ReadRequest{Filename: name}})
			if err != nil {
				return "error: " + err.Error()
			}
			return string(b)
		}
		if got := read(0, "/before"); got != "made" {
			t.Errorf("the root before the first process: %q", got)
		}
		if got := read(1, "/file"); got != "data" {
			t.Errorf("a mount: %q", got)
		}
		in, typed := io.Pipe()
		var shell printer
		first, err := c.Start(ctx, gateway.StartRequest{Args: sh("while read line; do eval \"$line\"; done; exit 3"), Stdin: in, Stdout: &shell, Stderr: &shell})
		if err != nil {
			return nil, err
		}
		say := func(line string) { fmt.Fprintln(typed, line) }
		say("echo first is $$; echo changed >/before; echo m >/mem/f; echo c >/kept/f")
		shell.await(t, "first is 1\n")

		for _, c2 := range []struct {
			name, want string
			req        gateway.StartRequest
		}{
			{"its container", "first\n", gateway.StartRequest{Args: sh("busybox grep -q changed /before && echo first"), Env: []string{"PATH=/bin"}}},
			{"its environment", "A=b\nHOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nTOKEN=hush\n", gateway.StartRequest{
				Args: []string{"/bin/busybox", "sh", "-c", "unset PWD SHLVL; /bin/busybox env | /bin/busybox sort"}, Env: []string{"A=b"}, SecretEnv: []*pb.SecretEnv{{ID: "token", Name: "TOKEN"}},
			}},
			{"its user", "1000 1001 /tmp\n", gateway.StartRequest{Args: sh("echo $(/bin/busybox id -u) $(/bin/busybox id -g) $(pwd)"), User: "ann", Cwd: "/tmp"}},
			{"its host", "boxed 10.1.2.3\n", gateway.StartRequest{Args: sh("echo $(/bin/busybox hostname) $(/bin/busybox awk '$2==\"near\"{print $1}' /etc/hosts)")}},
			{"its mounts", "data hush m c\n", gateway.StartRequest{Args: sh("echo $(/bin/busybox cat /data/file /run/token) $(/bin/busybox cat /mem/f /kept/f)")}},
			{"what it may", "refused\n", gateway.StartRequest{Args: sh("echo x >/data/file || echo refused")}},
		} {
			c2.req.Stderr = &shell
			if got, err := ran(ctx, c, c2.req); err != nil || strings.ReplaceAll(got, "datahush", "data hush") != c2.want {
				t.Errorf("%s: %q, %v, want %q", c2.name, got, err, c2.want)
			}
		}
		if got := read(0, "/before") + read(2, "/f") + read(4, "/f"); got != "changed\nm\nc\n" {
			t.Errorf("files while it runs: %q", got)
		}
		if got := read(0, "/../../etc/shadow"); !strings.Contains(got, "no such file") {
			t.Errorf("outside: %q", got)
		}
		if list, err := c.ReadDir(ctx, gateway.ReadDirContainerRequest{MountIndex: 1, ReadDirRequest: gateway.ReadDirRequest{Path: "/"}}); err != nil || len(list) != 1 || list[0].Path != "file" {
			t.Errorf("a directory: %v, %v", list, err)
		}
		if st, err := c.StatFile(ctx, gateway.StatContainerRequest{MountIndex: 1, StatRequest: gateway.StatRequest{Path: "/file"}}); err != nil || st.Size != 4 || st.Mode != 0o640 {
			t.Errorf("a file: %v, %v", st, err)
		}
		if got := read(9, "/f"); !strings.Contains(got, "mount 9 of 5") {
			t.Errorf("a mount that is not there: %q", got)
		}

		exits := func(name string, err error, code uint32) {
			t.Helper()
			var exit *gwpb.ExitError
			if !errors.As(err, &exit) || exit.ExitCode != code {
				t.Errorf("%s: %v, want exit code %d", name, err, code)
			}
		}
		_, err = ran(ctx, c, gateway.StartRequest{Args: sh("exit 7")})
		exits("a failure", err, 7)
		_, err = ran(ctx, c, gateway.StartRequest{Args: []string{"/no/such"}})
		exits("no program", err, 127)
		if _, err = ran(ctx, c, gateway.StartRequest{Args: sh("exit 0"), User: "nobody-there"}); err == nil {
			t.Error("a user that is not there")
		}
		p, err := c.Start(ctx, gateway.StartRequest{Args: []string{"/bin/busybox", "sleep", "60"}})
		if err != nil {
			return nil, err
		}
		if err := p.Signal(ctx, unix.SIGTERM); err != nil {
			t.Error(err)
		}
		exits("a signal", p.Wait(), 143)

		var screen printer
		keys, pressed := io.Pipe()
		p, err = c.Start(ctx, gateway.StartRequest{Args: sh("echo ready; read a; /bin/busybox stty size; echo got $a $TERM; exit 9"), Tty: true, Stdin: keys, Stdout: &screen})
		if err != nil {
			return nil, err
		}
		screen.await(t, "ready\r\n")
		if err := p.Resize(ctx, gateway.WinSize{Rows: 12, Cols: 34}); err != nil {
			t.Error(err)
		}
		fmt.Fprint(pressed, "key\r")
		screen.await(t, "12 34\r\ngot key xterm\r\n")
		exits("a terminal", p.Wait(), 9)

		typed.Close()
		exits("the first process", first.Wait(), 3)
		if got := read(0, "/before") + read(4, "/f"); got != "changed\nc\n" {
			t.Errorf("files after it: %q", got)
		}
		if _, err := ran(ctx, c, gateway.StartRequest{Args: sh("true")}); err == nil || !strings.Contains(err.Error(), "the container has ended") {
			t.Errorf("a process after the first: %v", err)
		}
		if err := c.Release(ctx); err != nil {
			t.Error(err)
		}
		if _, err := ran(ctx, c, gateway.StartRequest{Args: sh("true")}); err == nil || !strings.Contains(err.Error(), "not found") {
			t.Errorf("a process of a container that is gone: %v", err)
		}
		return gateway.NewResult(), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.leftNothing(t)
}

// leftNothing holds that no build has left a snapshot.
func (f *fixture) leftNothing(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"snapshots/build-*", "build/tmp/*"} {
		if left, _ := filepath.Glob(filepath.Join(f.store.Root(), dir)); len(left) > 0 {
			t.Errorf("left behind: %q", left)
		}
	}
}

// TestFailedState: a command that failed tells what it found and what it left, for containers.
func TestFailedState(t *testing.T) {
	f := newExecFixture(t)
	_, err := f.client(t).Build(t.Context(), client.SolveOpt{}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		root := boxes(t)
		failing := root.Run(llb.Args(sh("echo left >/left; echo mine >/own/f; exit 5")), llb.Network(llb.NetModeNone),
			llb.AddMount("/own", llb.Scratch().File(llb.Mkfile("/had", 0o644, nil))), llb.WithCustomName("the step")).Root()
		def, err := failing.Marshal(ctx)
		if err != nil {
			return nil, err
		}
		_, err = g.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB(), Evaluate: true})
		var failed *bkerrdefs.SolveError
		if !errors.As(err, &failed) {
			t.Fatalf("got %v", err)
		}
		mounts := failed.Op.GetExec().GetMounts()
		if len(mounts) != 2 || len(failed.InputIDs) != 2 || len(failed.MountIDs) != 2 || failed.Description["llb.customname"] != "the step" {
			t.Fatalf("got %v", failed.Solve)
		}
		for name, c := range map[string]struct {
			ids  []string
			want string
		}{"before": {failed.InputIDs, "had\n"}, "after": {failed.MountIDs, "left\nf\nhad\n"}} {
			box, err := g.NewContainer(ctx, gateway.NewContainerRequest{
				NetMode: pb.NetMode_NONE, Mounts: []gateway.Mount{{Dest: "/", ResultID: c.ids[0]}, {Dest: "/own", ResultID: c.ids[1]}},
			})
			if err != nil {
				return nil, err
			}
			if got, err := ran(ctx, box, gateway.StartRequest{Args: sh("/bin/busybox cat /left; /bin/busybox ls /own")}); err != nil || got != c.want {
				t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
			}
			if err := box.Release(ctx); err != nil {
				t.Error(err)
			}
		}
		return gateway.NewResult(), nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.leftNothing(t)
}

// unique is how long to sleep, as nothing else on this machine does.
func unique(n int) string { return fmt.Sprintf("%d.%d", 4321+n, os.Getpid()) }

// running returns the processes that sleep for so long.
func running(text string) (pids []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && bytes.Contains(line, []byte("sleep\x00"+text+"\x00")) {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}

// awaitSleep waits until there are so many.
func awaitSleep(t *testing.T, text string, want int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); len(running(text)) != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("processes %v, want %d", running(text), want)
		}
	}
}

// sleepers starts two processes in a container of a client, and waits until stop.
func sleepers(t *testing.T, text string, stop <-chan struct{}) func(context.Context, gateway.Client) (*gateway.Result, error) {
	return func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		c, err := g.NewContainer(ctx, gateway.NewContainerRequest{NetMode: pb.NetMode_NONE, Mounts: []gateway.Mount{{Dest: "/", Ref: solved(ctx, t, g, boxes(t))}}})
		if err != nil {
			return nil, err
		}
		for range 2 {
			// Neither end is ever closed: what a client holds open holds nothing up.
			in, _ := io.Pipe()
			if _, err := c.Start(ctx, gateway.StartRequest{Args: []string{"/bin/busybox", "sleep", text}, Stdin: in, Stdout: &printer{}}); err != nil {
				return nil, err
			}
		}
		select {
		case <-stop:
		case <-ctx.Done():
		}
		return gateway.NewResult(), nil
	}
}

// TestContainersEnd: what a client has started ends with its build, however that ends.
func TestContainersEnd(t *testing.T) {
	f := newExecFixture(t)
	for name, text := range map[string]string{"done": unique(1), "cancelled": unique(2), "gone": unique(3)} {
		t.Run(name, func(t *testing.T) {
			c := f.client(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stop, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				_, err := c.Build(ctx, client.SolveOpt{}, "", sleepers(t, text, stop), nil)
				ended <- err
			}()
			awaitSleep(t, text, 2)
			switch name {
			case "done":
				close(stop)
			case "cancelled":
				cancel()
			case "gone":
				c.Close()
			}
			awaitSleep(t, text, 0)
			if name == "gone" {
				close(stop)
			}
			if err := <-ended; (err == nil) != (name == "done") {
				t.Error(err)
			}
			for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
				if left, _ := filepath.Glob(filepath.Join(f.store.Root(), "snapshots/build-*")); len(left) == 0 {
					break
				} else if time.Now().After(end) {
					t.Fatalf("left behind: %q", left)
				}
			}
		})
	}
}

// TestServerKilled: what clients have started ends with the server, and who comes next takes its groups away.
func TestServerKilled(t *testing.T) {
	privilege.NeedRoot(t)
	if dir := os.Getenv(serveDir); dir != "" {
		f := newExecFixture(t)
		l, err := net.Listen("unix", filepath.Join(dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		for {
			conn, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			go f.Serve(context.Background(), conn)
		}
	}
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestServerKilled$")
	cmd.Env = append(os.Environ(), serveDir+"="+dir, "TMPDIR="+dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(dir + "/s"); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatal("the server did not start")
		}
	}
	c, err := client.New(t.Context(), "unix://"+dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	text := unique(4)
	stop, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := c.Build(t.Context(), client.SolveOpt{}, "", sleepers(t, text, stop), nil)
		ended <- err
	}()
	awaitSleep(t, text, 2)
	pid := cmd.Process.Pid
	cmd.Process.Kill()
	cmd.Wait()
	awaitSleep(t, text, 0)
	close(stop)
	if err := <-ended; err == nil {
		t.Error("the build of a server that is gone went well")
	}
	groups := func() (list []string) {
		for _, pattern := range []string{"/sys/fs/cgroup/teu/build-%d-*", "/sys/fs/cgroup/*/teu/build-%d-*"} {
			dirs, _ := filepath.Glob(fmt.Sprintf(pattern, pid))
			list = append(list, dirs...)
		}
		return list
	}
	if len(groups()) == 0 {
		t.Error("the container had no group")
	}
	old := time.Now().Add(-time.Hour)
	for _, dir := range groups() { // young ones are left alone
		if err := os.Chtimes(dir, old, old); err != nil {
			t.Fatal(err)
		}
	}
	for end := time.Now().Add(time.Minute); len(groups()) > 0; time.Sleep(20 * time.Millisecond) {
		if err := (&op.Containers{}).Sweep(t.Context()); err != nil {
			t.Error(err)
		}
		if time.Now().After(end) {
			t.Fatalf("left behind: %q", groups())
		}
	}
	if mounts, err := os.ReadFile("/proc/self/mounts"); err != nil || bytes.Contains(mounts, []byte(dir)) {
		t.Errorf("left behind: a mount below %s, %v", dir, err)
	}
}

// A raw is a client that says what it likes in a conversation.
type raw struct {
	gwpb.LLBBridgeClient
	ctx    context.Context
	solved chan error
}

func newRaw(t *testing.T, f *fixture, ref string) *raw {
	t.Helper()
	cc := f.connect(t)
	r := &raw{LLBBridgeClient: gwpb.NewLLBBridgeClient(cc), ctx: buildid.AppendToOutgoingContext(t.Context(), ref), solved: make(chan error, 1)}
	go func() {
		_, err := controlapi.NewControlClient(cc).Solve(t.Context(), &controlapi.SolveRequest{Ref: ref})
		r.solved <- err
	}()
	return r
}

// root makes the container id of busybox.
func (r *raw) root(t *testing.T, id string) {
	t.Helper()
	def, err := boxes(t).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	res, err := r.Solve(r.ctx, &gwpb.SolveRequest{Definition: def.ToPB(), AllowResultReturn: true, AllowResultArrayRef: true})
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.NewContainer(r.ctx, &gwpb.NewContainerRequest{ContainerID: id, Network: pb.NetMode_NONE, Mounts: []*pb.Mount{{Dest: "/", ResultID: res.Result.GetRef().Id}}})
	if err != nil {
		t.Fatal(err)
	}
}

// end ends the conversation.
func (r *raw) end(t *testing.T) {
	t.Helper()
	if _, err := r.Return(r.ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{}}); err != nil {
		t.Error(err)
	}
	select {
	case err := <-r.solved:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("the build did not end")
	}
}

// start is the message that starts a process.
func start(id, container string, fds []uint32, args ...string) *gwpb.ExecMessage {
	return &gwpb.ExecMessage{ProcessID: id, Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: container, Fds: fds, Meta: &pb.Meta{Args: args}}}}
}

// TestContainerRubbish: what no client says is refused, and ends nothing else.
func TestContainerRubbish(t *testing.T) {
	f := newExecFixture(t)
	r := newRaw(t, f, "rubbish")
	r.root(t, "box")
	root := []*pb.Mount{{Dest: "/"}}
	many := make([]*pb.Mount, maxMounts+1)
	for i := range many {
		many[i] = root[0]
	}
	for name, c := range map[string]struct {
		req  *gwpb.NewContainerRequest
		code codes.Code
	}{
		"no ID":             {&gwpb.NewContainerRequest{Mounts: root}, codes.InvalidArgument},
		"an ID twice":       {&gwpb.NewContainerRequest{ContainerID: "box", Mounts: root}, codes.AlreadyExists},
		"no root":           {&gwpb.NewContainerRequest{ContainerID: "a"}, codes.InvalidArgument},
		"two roots":         {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/"}}}, codes.InvalidArgument},
		"two at one place":  {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/a"}, {Dest: "/a"}}}, codes.InvalidArgument},
		"a root in memory":  {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/", MountType: pb.MountType_TMPFS}}}, codes.InvalidArgument},
		"no such ref":       {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/", ResultID: "none"}}}, codes.NotFound},
		"no such type":      {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/a", MountType: 77}}}, codes.Unimplemented},
		"a cache of none":   {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/a", MountType: pb.MountType_CACHE}}}, codes.InvalidArgument},
		"an agent of none":  {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/a", MountType: pb.MountType_SSH}}}, codes.InvalidArgument},
		"a secret of none":  {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: []*pb.Mount{{Dest: "/"}, {Dest: "/a", MountType: pb.MountType_SECRET}}}, codes.InvalidArgument},
		"many mounts":       {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: many}, codes.InvalidArgument},
		"a host of a line":  {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: root, ExtraHosts: []*pb.HostIP{{Host: "a\nb", IP: "1.1.1.1"}}}, codes.InvalidArgument},
		"hosts without end": {&gwpb.NewContainerRequest{ContainerID: "a", Mounts: root, ExtraHosts: make([]*pb.HostIP, maxHosts+1)}, codes.InvalidArgument},
	} {
		for i := range c.req.ExtraHosts {
			if c.req.ExtraHosts[i] == nil {
				c.req.ExtraHosts[i] = &pb.HostIP{Host: "h", IP: "1.1.1.1"}
			}
		}
		if _, err := r.NewContainer(r.ctx, c.req); status.Code(err) != c.code {
			t.Errorf("a container with %s: %v", name, err)
		}
	}
	for _, call := range []func() error{
		func() error {
			_, err := r.ReleaseContainer(r.ctx, &gwpb.ReleaseContainerRequest{ContainerID: "none"})
			return err
		},
		func() error { _, err := r.ReadFileContainer(r.ctx, &gwpb.ReadFileRequest{Ref: "none"}); return err },
	} {
		if err := call(); status.Code(err) != codes.NotFound {
			t.Errorf("no such container: %v", err)
		}
	}
	for name, c := range map[string]struct {
		msg  *gwpb.ExecMessage
		code codes.Code
	}{
		"nothing":           {&gwpb.ExecMessage{}, codes.NotFound},
		"no ID":             {start("", "box", nil, "/bin/busybox"), codes.InvalidArgument},
		"a descriptor":      {start("p", "box", []uint32{7}, "/bin/busybox"), codes.InvalidArgument},
		"no arguments":      {&gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_Init{Init: &gwpb.InitMessage{ContainerID: "box"}}}, codes.InvalidArgument},
		"input for nobody":  {&gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{}}}, codes.NotFound},
		"a signal for none": {&gwpb.ExecMessage{ProcessID: "p", Input: &gwpb.ExecMessage_Signal{Signal: &gwpb.SignalMessage{Name: "KILL"}}}, codes.NotFound},
	} {
		s, err := r.ExecProcess(r.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(c.msg); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Recv(); status.Code(err) != c.code {
			t.Errorf("a message with %s: %v", name, err)
		}
	}
	r.end(t)
	f.leftNothing(t)
}

// TestContainerHangs: a client that reads nothing of what its process prints, and one whose process reads nothing of
// what it sends, hold up neither the end of the build nor other processes.
func TestContainerHangs(t *testing.T) {
	f := newExecFixture(t)
	r := newRaw(t, f, "hangs")
	r.root(t, "box")
	deaf, err := r.ExecProcess(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	const text = "4321.5"
	if err := deaf.Send(start("first", "box", []uint32{0, 1}, sh("/bin/busybox sleep "+text+" & exec /bin/busybox yes")...)); err != nil {
		t.Fatal(err)
	}
	awaitSleep(t, text, 1)
	go func() { // into a process that does not read, until the stream is over
		data := make([]byte, 1<<20)
		for deaf.Send(&gwpb.ExecMessage{ProcessID: "first", Input: &gwpb.ExecMessage_File{File: &gwpb.FdMessage{Data: data}}}) == nil {
		}
	}()
	other, err := r.ExecProcess(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Send(start("second", "box", nil, sh("exit 4")...)); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := other.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetExit(); e != nil {
			if e.Code != 4 {
				t.Errorf("the second ended with %v", e)
			}
			break
		}
	}
	r.end(t)
	awaitSleep(t, text, 0)
	f.leftNothing(t)
}
