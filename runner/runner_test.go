package runner

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

func TestForegroundRun(t *testing.T) {
	e := newEngine(t)
	o := sh(`echo "$$ $(id -un) $(hostname)"; echo oops >&2; exit 3`)
	o.Hostname = "box"
	o.AutoRemove = true
	stdout, stderr, status := run(t, e, o)
	if stdout != "1 root box\n" || stderr != "oops\n" || status.Code != 3 {
		t.Errorf("%q, %q, %+v", stdout, stderr, status)
	}
	if all, err := e.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v is left, %v", all, err)
	}
	for _, dir := range []string{e.containers(), filepath.Join(e.RunRoot, "containers"), e.names(), e.volumes(), filepath.Join(e.Root, "leases"), filepath.Join(e.Root, "snapshots")} {
		entries, err := os.ReadDir(dir)
		for _, d := range entries {
			if d.IsDir() || d.Type()&os.ModeSymlink != 0 || strings.HasPrefix(d.Name(), "container-") {
				if d.Name() != "tmp" && d.Name() != "removed" {
					t.Errorf("%s is left in %s (%v)", d.Name(), dir, err)
				}
			}
		}
	}
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	e := newEngine(t)
	for command, code := range map[string]int{"nosuchprogram": 127, "/no/such": 127, "/etc": 126, "/etc/passwd": 126} {
		c, err := e.Create(t.Context(), "", Options{Image: "busybox", Args: []string{command}, Network: "none"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = e.Start(t.Context(), c.ID, StartOptions{})
		var failed *keeper.LaunchError
		if !errors.As(err, &failed) || failed.Code != code || !strings.Contains(err.Error(), command) {
			t.Errorf("%s: %v, want code %d", command, err, code)
		}
		if c := get(t, e, c.ID); c.State.Status != keeper.Created || c.State.ExitCode != code || !c.State.Finished {
			t.Errorf("%s: state %+v", command, c.State)
		}
	}
}

func TestBackgroundLife(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c := detached(t, e, "web", sh(`trap 'echo stopping; exit 5' TERM; echo up; while :; do sleep 0.05; done`))
	if c.State.Status != keeper.Running || c.Name != "web" {
		t.Fatalf("%+v", c)
	}
	await(t, "output", func() bool { return logs(t, e, "web", LogOptions{Tail: -1}) == "up\n" })
	if err := e.Remove(ctx, "web", RemoveOptions{}); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("removing gives %v", err)
	}
	if _, err := e.Create(ctx, "web", sh("true")); !errors.Is(err, errdefs.ErrConflict) || !strings.Contains(err.Error(), "already in use") {
		t.Errorf("the same name again gives %v", err)
	}
	if err := e.Stop(ctx, c.ID[:12], StopOptions{}); err != nil {
		t.Fatal(err)
	}
	if c = get(t, e, "web"); c.State.Status != keeper.Exited || c.State.ExitCode != 5 || !c.State.Finished {
		t.Errorf("state %+v", c.State)
	}
	if got := logs(t, e, "web", LogOptions{Tail: 1}); got != "stopping\n" {
		t.Errorf("the last line is %q", got)
	}
	if _, err := e.Start(ctx, "web", StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Kill(ctx, "web", ""); err != nil {
		t.Fatal(err)
	}
	if s, err := e.Wait(ctx, "web"); err != nil || s.Code != 137 {
		t.Errorf("%+v, %v", s, err)
	}
	if err := e.Rename(ctx, "web", "old"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Get(ctx, "web"); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("the old name gives %v", err)
	}
	if err := e.Remove(ctx, "old", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
}

func logs(t *testing.T, e *Engine, ref string, o LogOptions) string {
	t.Helper()
	var b bytes.Buffer
	if err := e.Logs(t.Context(), ref, o, &b, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestExec(t *testing.T) {
	e := newEngine(t)
	o := sh("sleep 60")
	o.Env = []string{"COLOR=red"}
	detached(t, e, "box", o)
	out, code := execOut(t, e, "box", ExecOptions{Args: []string{"sh", "-c", `echo "$COLOR $(id -un) $(id -Gn) $X $PWD"; exit 9`},
		User: "dev", WorkingDir: "/home/dev", Env: []string{"X=y"}})
	if out != "red dev dev audio y /home/dev\n" || code != 9 {
		t.Errorf("%q, %d", out, code)
	}
	for _, tt := range []struct {
		dir, command string
		code         int
	}{{"", "nosuchprogram", 127}, {"", "/etc", 126}, {"/nope", "true", 126}, {"/etc/passwd", "true", 126}} {
		_, err := e.Exec(t.Context(), "box", ExecOptions{Args: []string{tt.command}, WorkingDir: tt.dir})
		var failed *keeper.LaunchError
		if !errors.As(err, &failed) || failed.Code != tt.code {
			t.Errorf("%+v: %v", tt, err)
		}
	}
}

func execOut(t *testing.T, e *Engine, ref string, o ExecOptions) (string, int) {
	t.Helper()
	o.Output = true
	x, err := e.Exec(t.Context(), ref, o)
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	var b bytes.Buffer
	b.ReadFrom(x.Stdout)
	s, err := x.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return b.String(), s.Code
}

func TestExecWithTerminal(t *testing.T) {
	e := newEngine(t)
	detached(t, e, "box", sh("sleep 60"))
	out, code := execOut(t, e, "box", ExecOptions{Args: []string{"sh", "-c", `tty; stty size </dev/tty >/dev/null && echo ok; exit 4`}, TTY: true})
	if !strings.HasPrefix(out, "/dev/pts/") || !strings.Contains(out, "ok") || code != 4 {
		t.Errorf("%q, %d", out, code)
	}
}

func TestVolumes(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	data := t.TempDir()
	o := sh(`cat /named/file; stat -c '%a %u' /named /named/file; echo more >/named/file; echo back >/bind/file; touch /ro/x || echo read-only`)
	o.Mounts = []MountRequest{
		{Type: "volume", Source: "keep", Target: "/named"},
		{Type: "bind", Source: data, Target: "/bind"}, {Type: "bind", Source: data, Target: "/ro", ReadOnly: true},
	}
	o.Mounts[0].Target = "/vol" // where the image has something
	o.Args[2] = strings.ReplaceAll(o.Args[2], "/named", "/vol")
	stdout, stderr, _ := run(t, e, o)
	if want := "of the image\n750 1000\n640 1000\nread-only\n"; stdout != want {
		t.Errorf("%s (%s)", cmp.Diff(want, stdout), stderr)
	}
	if b, err := os.ReadFile(filepath.Join(data, "file")); err != nil || string(b) != "back\n" {
		t.Errorf("%q, %v", b, err)
	}
	o = sh("cat /vol/file")
	o.Mounts = []MountRequest{{Type: "volume", Source: "keep", Target: "/vol"}}
	if stdout, stderr, _ := run(t, e, o); stdout != "more\n" {
		t.Errorf("%q, %q", stdout, stderr)
	}
	if err := e.RemoveVolume(ctx, "keep", false); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("removing a volume in use gives %v", err)
	}
	if ids, _, err := e.Prune(ctx, PruneOptions{}); err != nil || len(ids) != 2 {
		t.Errorf("pruned %v, %v", ids, err)
	}
	if err := e.RemoveVolume(ctx, "keep", false); err != nil {
		t.Error(err)
	}
}

// A create that is refused leaves no volume that it has made, and all that were there.
func TestVolumesOfRefusedCreate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	if _, err := e.Create(ctx, "taken", sh("true")); err != nil {
		t.Fatal(err)
	}
	if _, err := e.CreateVolume(ctx, VolumeOptions{Name: "before"}); err != nil {
		t.Fatal(err)
	}
	before, err := e.Volumes(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "made", "by")
	for name, bind := range map[string]string{"taken": "/", "free": "/missing"} {
		o := sh("true")
		o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/m", MakeSource: true}, {Type: "volume", Source: "named", Target: "/a"}, {Type: "volume", Target: "/b"},
			{Type: "volume", Source: "before", Target: "/c"}, {Type: "bind", Source: bind, Target: "/d"}}
		if _, err := e.Create(ctx, name, o); err == nil {
			t.Errorf("%s: made", name)
		}
		all, err := e.Volumes(nil)
		if d := cmp.Diff(before, all); err != nil || d != "" {
			t.Errorf("%s: left %s, %v", name, d, err)
		}
		if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: left %s, %v", name, dir, err)
		}
	}
	until := EventOptions{Until: time.Now(), Filters: map[string][]string{"type": {"volume"}, "event": {"create", "destroy"}}}
	told := map[string][]string{}
	if err := e.Events(ctx, until, func(ev event.Event) error {
		told[ev.Actor.ID] = append(told[ev.Actor.ID], ev.Action)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"create", "destroy"}, told["named"]); d != "" {
		t.Errorf("the volume of the taken name was made: %s", d)
	}
}

// A volume that a create has picked up stays, although the container is not recorded yet, while its maker lives.
func TestVolumeOfUnfinishedCreate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	if _, err := e.CreateVolume(ctx, VolumeOptions{Name: "picked"}); err != nil {
		t.Fatal(err)
	}
	if err := e.makeDir("0123456789ab", false); err != nil {
		t.Fatal(err)
	}
	if _, made, err := e.makeVolume(ctx, VolumeOptions{Name: "picked", user: "0123456789ab"}); made || err != nil {
		t.Fatal(made, err)
	}
	if err := e.RemoveVolume(ctx, "picked", false); !errors.Is(err, errdefs.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	if names, _, err := e.PruneVolumes(ctx, PruneVolumesOptions{All: true}); err != nil || len(names) > 0 {
		t.Errorf("pruned %v, %v", names, err)
	}
	dead := maker{Process: statefile.Process{PID: 1 << 30}}
	if err := statefile.Write(filepath.Join(e.dir("0123456789ab"), makerName), &dead, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveVolume(ctx, "picked", false); err != nil {
		t.Errorf("after its maker's death: %v", err)
	}
}

// A create that fails takes the volumes along that it has made, unless somebody has been told meanwhile that there is one.
func TestVolumeOfFailedCreate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c := new(Container)
	c.ID = "0123456789ab"
	for _, name := range []string{"own", "wanted"} {
		_, made, err := e.makeVolume(ctx, VolumeOptions{Name: name, user: c.ID})
		if err != nil {
			t.Fatal(err)
		}
		c.Mounts = append(c.Mounts, MountPoint{Type: "volume", Name: name, made: made})
	}
	if _, err := e.CreateVolume(ctx, VolumeOptions{Name: "wanted"}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.RemoveAll(e.dir(c.ID)), e.dropMade(ctx, c)); err != nil {
		t.Fatal(err)
	}
	if all, err := e.Volumes(nil); err != nil || len(all) != 1 || all[0].Name != "wanted" {
		t.Errorf("left are %v, %v", all, err)
	}
}

// Who dies while a container is renamed, or made, leaves a link that leads nowhere: no other name of the container, and
// nothing that stays.
func TestNamesThatWereLeft(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c, err := e.Create(ctx, "now", sh("true"))
	if err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"before": c.ID, "gone": newID()} {
		if err := os.Symlink(to, filepath.Join(e.names(), name)); err != nil {
			t.Fatal(err)
		}
		if _, err := e.Get(ctx, name); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("a container is called %s: %v", name, err)
		}
	}
	if _, _, err := e.Prune(ctx, PruneOptions{Filters: map[string][]string{"label": {"none"}}}); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(e.names(), "*")); err != nil || len(left) != 1 || filepath.Base(left[0]) != "now" {
		t.Errorf("%v, %v", left, err)
	}
}

// A name that one container gives up while others want it is in the end the name of one.
func TestNamesThatChangeHands(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	var ids []string
	for i := range 3 {
		c, err := e.Create(ctx, fmt.Sprint("own-", i), sh("true"))
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, c.ID)
	}
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() {
			for range 200 {
				for _, name := range []string{"wanted", fmt.Sprint("own-", i)} {
					if err := e.Rename(ctx, id, name); err != nil && !errors.Is(err, errdefs.ErrConflict) && !errors.Is(err, errdefs.ErrInvalidArgument) {
						t.Errorf("%s: %v", name, err)
					}
					if name := e.nameOf(id); e.linkedTo(name) != id {
						t.Errorf("%s leads to %q, want %q", name, e.linkedTo(name), id)
						return
					}
				}
			}
		})
	}
	all.Wait()
}

func (e *Engine) linkedTo(name string) string {
	id, _ := os.Readlink(filepath.Join(e.names(), name))
	return id
}

// Who dies while a volume is removed leaves nothing to the next volume of its name, and what is left goes with a prune.
func TestVolumeThatIsHalfRemoved(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	v, err := e.CreateVolume(ctx, VolumeOptions{Name: "old"})
	if err != nil {
		t.Fatal(err)
	}
	stays := filepath.Join(v.Mountpoint, "stays")
	if err := errors.Join(os.Mkdir(stays, 0o700), unix.Mount("tmpfs", stays, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	if err := e.RemoveVolume(ctx, "old", false); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("removing what cannot be removed: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(e.volumes(), "*/_data/stays"))
	if err != nil || len(left) != 1 {
		t.Fatalf("%v, %v", left, err)
	}
	if err := unix.Unmount(left[0], 0); err != nil {
		t.Fatal(err)
	}
	if v, err = e.CreateVolume(ctx, VolumeOptions{Name: "old"}); err != nil || !isEmpty(v.Mountpoint) {
		t.Errorf("the next volume of the name has the old one's files (%v)", err)
	}
	made, begun, foreign := filepath.Join(e.volumes(), "made", "_data"), filepath.Join(e.volumes(), "begun"), filepath.Join(e.volumes(), "foreign", "_data", "file")
	if err := errors.Join(os.MkdirAll(made, 0o755), os.Mkdir(begun, 0o755), os.WriteFile(filepath.Join(begun, ".tmp-1"), nil, 0o600), os.MkdirAll(foreign, 0o755)); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.PruneVolumes(ctx, PruneVolumesOptions{All: true}); err != nil {
		t.Error(err)
	}
	if all, err := filepath.Glob(filepath.Join(e.volumes(), "*")); err != nil || len(all) != 1 || filepath.Base(all[0]) != "foreign" {
		t.Errorf("left after a prune: %v, %v", all, err)
	}
	if err := os.RemoveAll(filepath.Join(e.volumes(), "foreign")); err != nil {
		t.Error(err)
	}
}

// A container whose keeper is killed goes on; whoever looks next finds another keeper.
func TestKeeperIsKilled(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c := detached(t, e, "talk", sh(`i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.005; done; exit 6`))
	for range 5 {
		time.Sleep(50 * time.Millisecond)
		killKeeper(t, get(t, e, c.ID))
		if now := get(t, e, c.ID); now.State.Status != keeper.Running && now.State.Status != keeper.Exited {
			t.Fatalf("state %+v", now.State)
		} else if now.State.Status == keeper.Running && !now.State.Keeper.Holds(e.configFile(c.ID)) && now.State.Keeper.Alive() {
			t.Error("a keeper does not hold the record of its container")
		}
	}
	if s, err := e.Wait(ctx, c.ID); err != nil || s.Code != 6 {
		t.Errorf("%+v, %v", s, err)
	}
	var want strings.Builder
	for i := range 200 {
		fmt.Fprintf(&want, "line %d\n", i)
	}
	if diff := cmp.Diff(want.String(), logs(t, e, c.ID, LogOptions{Tail: -1})); diff != "" {
		t.Error(diff)
	}
	await(t, "finish", func() bool { return get(t, e, c.ID).State.Finished })
}

func killKeeper(t *testing.T, c *Container) {
	t.Helper()
	unix.Kill(c.State.Keeper.PID, unix.SIGKILL)
	await(t, "the keeper's death", func() bool { return !c.State.Keeper.Alive() })
}

// startInteractive starts a container as run -i does.
func startInteractive(t *testing.T, e *Engine, o Options) (*Container, *Session) {
	t.Helper()
	o.OpenStdin, o.StdinOnce = true, true
	c, err := e.Create(t.Context(), "", o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Start(t.Context(), c.ID, StartOptions{Attach: &keeper.AttachOptions{Stdin: true, Stdout: true, Stderr: true}})
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

func TestSessionSurvivesItsKeeper(t *testing.T) {
	e := newEngine(t)
	c, s := startInteractive(t, e, sh(`read a; echo "got $a"; read b; echo "got $b"; exit 7`))
	var out syncBuffer
	ended := make(chan keeper.ExitStatus, 1)
	go func() {
		status, err := s.Copy(t.Context(), &out, &out)
		if err != nil {
			t.Error(err)
		}
		ended <- status
	}()
	fmt.Fprint(s, "one\n")
	await(t, "an answer", func() bool { return out.String() == "got one\n" })
	killKeeper(t, get(t, e, c.ID))
	await(t, "another keeper", func() bool { return get(t, e, c.ID).State.Keeper.Alive() })
	time.Sleep(50 * time.Millisecond)
	fmt.Fprint(s, "two\n")
	if status := <-ended; status.Code != 7 || out.String() != "got one\ngot two\n" {
		t.Errorf("%+v, %q", status, out.String())
	}
}

// TestSessionThatIsLeftMeanwhile: a session ends also when it is left while it looks for the next keeper.
func TestSessionThatIsLeftMeanwhile(t *testing.T) {
	e := newEngine(t)
	c, err := e.Create(t.Context(), "", sh("sleep 1000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), c.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, leave := range map[string]func(*Session){"detached": (*Session).Detach, "end of a context": (*Session).leave} {
		s, err := e.Attach(t.Context(), c.ID, keeper.AttachOptions{Stdout: true})
		if err != nil {
			t.Fatal(err)
		}
		leave(s)
		if err := s.connect(t.Context()); err != nil {
			t.Fatal(err)
		}
		stream := s.current()
		late := time.AfterFunc(time.Minute, func() {
			t.Errorf("%s: the session goes on", name)
			stream.Close()
		})
		if _, err := stream.Copy(io.Discard, io.Discard); err == nil {
			t.Errorf("%s: the container has ended", name)
		}
		late.Stop()
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func TestOrphanIsNoticedAndRemoved(t *testing.T) {
	e := newEngine(t)
	o := sh("sleep 1000")
	o.AutoRemove = true
	c := detached(t, e, "", o)
	killKeeper(t, c)
	unix.Kill(c.State.Init.PID, unix.SIGKILL)
	await(t, "its end", func() bool { return !c.State.Init.Alive() })
	await(t, "its removal", func() bool {
		all, err := e.List(t.Context())
		return err == nil && len(all) == 0
	})
}

func TestManyAtOnce(t *testing.T) {
	e := newEngine(t)
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			o := sh(fmt.Sprintf("echo %d", i))
			o.AutoRemove = true
			if stdout, stderr, status := run(t, e, o); stdout != fmt.Sprintln(i) || status.Code != 0 {
				t.Errorf("%q, %q, %+v", stdout, stderr, status)
			}
		})
	}
	wg.Wait()
	if all, err := e.List(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%v is left, %v", all, err)
	}
}

func TestPause(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c := detached(t, e, "tick", sh("while :; do echo tick; sleep 0.02; done"))
	await(t, "output", func() bool { return logs(t, e, "tick", LogOptions{Tail: -1}) != "" })
	if err := e.Pause(ctx, "tick"); err != nil {
		t.Fatal(err)
	}
	var before string
	await(t, "silence", func() bool { // what it has said before comes into the log some time after
		before = logs(t, e, "tick", LogOptions{Tail: -1})
		time.Sleep(200 * time.Millisecond)
		return logs(t, e, "tick", LogOptions{Tail: -1}) == before
	})
	if s := get(t, e, c.ID).State; s.Status != keeper.Paused {
		t.Errorf("state %+v", s)
	}
	if err := e.Pause(ctx, "tick"); err == nil || !strings.Contains(err.Error(), "is already paused") {
		t.Errorf("paused twice: %v", err)
	}
	if err := e.Unpause(ctx, "tick"); err != nil {
		t.Fatal(err)
	}
	if err := e.Unpause(ctx, "tick"); err == nil || !strings.Contains(err.Error(), "is not paused") {
		t.Errorf("resumed twice: %v", err)
	}
	await(t, "more output", func() bool { return logs(t, e, "tick", LogOptions{Tail: -1}) != before })
	if err := e.Pause(ctx, "tick"); err != nil {
		t.Fatal(err)
	}
	zero := time.Duration(0)
	if err := e.Stop(ctx, "tick", StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
}

func TestTop(t *testing.T) {
	e := newEngine(t)
	c := detached(t, e, "box", sh("sleep 61 & sleep 62; true"))
	await(t, "the processes", func() bool {
		_, rows, err := e.Top(t.Context(), "box", nil)
		return err == nil && len(rows) == 3
	})
	titles, rows, err := e.Top(t.Context(), "box", []string{"-o", "pid,args"})
	if err != nil || strings.Join(titles, " ") != "PID COMMAND" || rows[0][0] != fmt.Sprint(c.State.Init.PID) {
		t.Errorf("%v, %v, %v", titles, rows, err)
	}
}

func TestBridge(t *testing.T) {
	e := newEngine(t)
	o := sh("ip addr show eth0 | grep inet; cat /etc/hosts")
	o.Network = ""
	stdout, stderr, _ := run(t, e, o)
	if !strings.Contains(stdout, "inet ") || !strings.Contains(stdout, "localhost") {
		t.Errorf("%q, %q", stdout, stderr)
	}
}

// After a crash of the machine a container that was running has ended, and can be started.
func TestMachineWentDown(t *testing.T) {
	e := newEngine(t)
	c := detached(t, e, "old", sh("sleep 60"))
	killKeeper(t, c)
	unix.Kill(c.State.Init.PID, unix.SIGKILL)
	unix.Kill(c.State.Holder.PID, unix.SIGKILL)
	c.State.Keeper.BootID, c.State.Init.BootID = "another", "another"
	if err := e.writeState(c); err != nil {
		t.Fatal(err)
	}
	if c = get(t, e, "old"); c.State.Status != keeper.Exited || c.State.ExitCode != 255 {
		t.Errorf("state %+v", c.State)
	}
	if _, err := e.Start(t.Context(), "old", StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if c = get(t, e, "old"); !c.State.Alive() {
		t.Errorf("state %+v", c.State)
	}
}

// What is just being run is not pruned, unless who runs it has died or it has ended.
func TestPruneBesideRun(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	made := map[string]*Container{}
	for name, rm := range map[string]bool{"run": false, "run-rm": true, "dead": false, "ended": false} {
		o := sh("true")
		o.Starting, o.AutoRemove = true, rm
		c, err := e.Create(ctx, name, o)
		if err != nil {
			t.Fatal(err)
		}
		made[name] = c
	}
	dead := maker{Process: statefile.Process{PID: 1, StartTime: 1, BootID: "another"}, Starting: true}
	if err := statefile.Write(filepath.Join(e.dir(made["dead"].ID), makerName), &dead, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(ctx, "ended", StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(ctx, "ended"); err != nil {
		t.Fatal(err)
	}
	ids, _, err := e.Prune(ctx, PruneOptions{})
	want := []string{made["dead"].ID, made["ended"].ID}
	slices.Sort(want)
	slices.Sort(ids)
	if !slices.Equal(ids, want) || err != nil {
		t.Errorf("%v were pruned, want %v; %v", ids, want, err)
	}
	for _, name := range []string{"run", "run-rm"} {
		if c := get(t, e, name); c.State.Status != keeper.Created {
			t.Errorf("%s: %+v", name, c.State)
		}
	}
}

// A container is not taken for one that has not run by who read it before a keeper started
// it, and looks for that keeper after its death.
func TestFinishBesideStart(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c, err := e.Create(ctx, "box", sh("exec sleep 60"))
	if err != nil {
		t.Fatal(err)
	}
	old := *c
	old.State.Finished = false
	if _, err := e.Start(ctx, "box", StartOptions{}); err != nil {
		t.Fatal(err)
	}
	now := get(t, e, "box")
	killKeeper(t, now)
	if err := e.finish(ctx, &old); err != nil {
		t.Fatal(err)
	}
	if c := get(t, e, "box"); c.State.Status != keeper.Running || c.State.Init != now.State.Init {
		t.Errorf("state %+v", c.State)
	}
}

// A keeper that records the end of a container, and is killed before it ends its holder,
// leaves that to whoever finishes the container.
func TestFinishEndsHolder(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	detached(t, e, "box", sh("true"))
	if _, err := e.Wait(ctx, "box"); err != nil {
		t.Fatal(err)
	}
	await(t, "its finishing", func() bool { return get(t, e, "box").State.Finished })
	holder := exec.CommandContext(ctx, "sleep", "1000")
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	c := get(t, e, "box")
	id, err := statefile.Identify(holder.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	c.State.Holder, c.State.Finished = id, false
	if err := e.writeState(c); err != nil {
		t.Fatal(err)
	}
	if err := e.Finish(ctx, c.ID); err != nil {
		t.Fatal(err)
	}
	if err := holder.Wait(); err == nil || err.Error() != "signal: killed" {
		t.Errorf("the holder: %v", err)
	}
}

// A container that has lost its keeper may end, by way of somebody else's, before we give it ours.
func TestAdoptBesideEnd(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	detached(t, e, "box", sh("exec sleep 60"))
	killKeeper(t, get(t, e, "box"))
	binary, at := e.Keeper, time.Duration(0)
	e.Keeper = func() (*keeper.Binary, error) {
		e.Keeper = binary
		if err := e.Stop(ctx, "box", StopOptions{Timeout: &at}); err != nil {
			t.Error(err)
		}
		return binary()
	}
	if c := get(t, e, "box"); c.State.Status != keeper.Exited || c.State.ExitCode != 137 {
		t.Errorf("state %+v", c.State)
	}
}

// A process that died while it made a container leaves a name that can be taken.
func TestMakerDied(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c, err := e.Create(ctx, "half", sh("true"))
	if err != nil {
		t.Fatal(err)
	}
	dead := statefile.Process{PID: 1, StartTime: 1, BootID: "another"}
	if err := statefile.Write(filepath.Join(e.dir(c.ID), makerName), &dead, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(e.dir(c.ID), "config.json")); err != nil {
		t.Fatal(err)
	}
	if all, err := e.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := e.Create(ctx, "half", sh("true")); err != nil {
		t.Fatal(err)
	}
	s, err := e.Store()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Snapshots.Get(c.ID); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("the snapshot of the dead one: %v", err)
	}
}

// A container may make its /etc/hosts as large as it likes. Who joins its network does not read that into memory.
func TestHugeHostsOfAnotherContainer(t *testing.T) {
	e := newEngine(t)
	o := sh("dd if=/dev/null of=/etc/hosts bs=1 seek=1000000000000; sleep 60")
	o.Network = ""
	front := detached(t, e, "front", o)
	hosts := filepath.Join(e.dir(front.ID), "hosts")
	for {
		info, err := os.Stat(hosts)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > 1<<30 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	o = sh("true")
	o.Network = "container:front"
	c, err := e.Create(t.Context(), "back", o)
	if err == nil {
		_, err = e.Start(t.Context(), c.ID, StartOptions{})
	}
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want an errdefs.ErrResourceExhausted", err)
	}
}

// What is in the files of a container stays when its networks change, and what a start would refuse does not matter then.
func TestFilesFollowNetworks(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	if _, err := e.CreateNetwork(ctx, network.CreateOptions{Name: "more"}); err != nil {
		t.Fatal(err)
	}
	defer e.RemoveNetwork(ctx, "more")
	o := sh("sleep 60")
	o.Network = ""
	detached(t, e, "linked", o)
	o.Links, o.ExtraHosts = []string{"linked:other"}, []string{"up:host-gateway"}
	c := detached(t, e, "box", o)
	zero := time.Duration(0)
	if err := e.Stop(ctx, "linked", StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if _, code := execOut(t, e, "box", ExecOptions{Args: []string{"sh", "-c", "echo -n 192.0.2.1 own >>/etc/hosts; echo options timeout:7 >>/etc/resolv.conf"}}); code != 0 {
		t.Fatal(code)
	}
	check := func(n int, resolver string) {
		t.Helper()
		hosts, _ := execOut(t, e, "box", ExecOptions{Args: []string{"cat", "/etc/hosts"}})
		if strings.Count(hosts, c.Hostname) != n || strings.Count(hosts, "192.0.2.1 own\n") != 1 || !strings.Contains(hosts, "other") || strings.Count(hosts, "localhost") != 3 {
			t.Errorf("hosts, which have %d addresses:\n%s", n, hosts)
		}
		if resolv, _ := execOut(t, e, "box", ExecOptions{Args: []string{"cat", "/etc/resolv.conf"}}); !strings.Contains(resolv, "timeout:7") || strings.Contains(resolv, resolver) != (n > 1) {
			t.Errorf("resolv.conf with %d networks:\n%s", n, resolv)
		}
	}
	if err := e.ConnectNetwork(ctx, "more", "box", network.EndpointOptions{}); err != nil {
		t.Error(err)
	}
	check(2, network.Responder)
	for _, name := range []string{"bridge", "more"} {
		if err := e.DisconnectNetwork(ctx, name, "box", false); err != nil {
			t.Error(err)
		}
	}
	hosts, _ := execOut(t, e, "box", ExecOptions{Args: []string{"cat", "/etc/hosts"}})
	if strings.Contains(hosts, c.Hostname) || !strings.Contains(hosts, "192.0.2.1 own\n") {
		t.Errorf("hosts without a network:\n%s", hosts)
	}
}

func TestNetworkOfAnotherContainer(t *testing.T) {
	e := newEngine(t)
	o := sh("sleep 60")
	o.Network = ""
	detached(t, e, "front", o)
	want, code := execOut(t, e, "front", ExecOptions{Args: []string{"sh", "-c", "ip addr show eth0 | grep inet"}})
	o = sh("ip addr show eth0 | grep inet")
	o.Network = "container:front"
	if stdout, stderr, _ := run(t, e, o); stdout != want || code != 0 || want == "" {
		t.Errorf("%q, %q; want %q", stdout, stderr, want)
	}
	// One that is removed while its files are copied is not there.
	front := get(t, e, "front")
	if err := e.Remove(t.Context(), "front", RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(e.dir(front.ID), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := e.copyFiles(front.ID, front); !errdefs.IsNotFound(err) || err.Error() != "No such container: "+front.ID {
		t.Error(err)
	}
	os.Remove(e.dir(front.ID))
}

// A container that ends on a full disk has ended, with its exit code, and can be removed to make room.
func TestEndOnFullDisk(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	if err := os.MkdirAll(e.containers(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", e.containers(), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(e.containers(), unix.MNT_DETACH) })
	o := sh("trap 'exit 3' TERM; while :; do sleep 0.02; done")
	o.Health = &HealthCheck{Test: []string{"CMD", "sh", "-c", "p=$(seq 1000); echo $p"}, Interval: 20 * time.Millisecond}
	c := detached(t, e, "box", o)
	await(t, "its health", func() bool { h := get(t, e, "box").State.Health; return h != nil && len(h.Log) > 1 })
	filler := filepath.Join(e.containers(), ".filler")
	if err := os.WriteFile(filler, make([]byte, 2<<20), 0o600); !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(filler) })
	if err := e.Stop(ctx, "box", StopOptions{}); err != nil {
		t.Error(err)
	}
	awaitKeeper(c)
	if s := get(t, e, "box").State; s.Status != keeper.Exited || s.ExitCode != 3 || !s.Finished {
		t.Errorf("state %+v", s)
	}
	if err := e.Remove(ctx, "box", RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// Whoever dies while a container that runs is renamed leaves its old name in the network, which the next command corrects.
func TestRenameThatWasKilled(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	if _, err := e.CreateNetwork(ctx, network.CreateOptions{Name: "names"}); err != nil {
		t.Fatal(err)
	}
	o := sh("sleep 1000")
	o.Network = "names"
	c, err := e.Create(ctx, "before", o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(ctx, c.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	names := func() string {
		s, err := e.network.Get(c.ID)
		if err != nil {
			t.Fatal(err)
		}
		return s.Endpoints[0].Names[0]
	}
	mark := filepath.Join(e.renaming(), c.ID)
	if err := errors.Join(os.MkdirAll(e.renaming(), 0o700), os.WriteFile(mark, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := e.claimName(ctx, c.ID, "after", "before"); err != nil {
		t.Fatal(err)
	}
	if got := names(); got != "before" {
		t.Fatalf("got %s: nothing to correct", got)
	}
	if _, err := e.List(ctx); err != nil || names() != "after" {
		t.Errorf("after a list: %s, %v", names(), err)
	}
	if err := e.Rename(ctx, c.ID, "last"); err != nil || names() != "last" {
		t.Errorf("after a whole one: %s, %v", names(), err)
	}
	if err := e.Rename(ctx, c.ID, "last"); err == nil {
		t.Error("renamed to its own name")
	}
	if left, err := os.ReadDir(e.renaming()); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A configuration for networks to come is in use by nobody, and stays as it does with dockerd.
func TestPruneLeavesConfigOnly(t *testing.T) {
	e := newEngine(t)
	n, err := e.CreateNetwork(t.Context(), network.CreateOptions{Name: "config", ConfigOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if names, err := e.PruneNetworks(t.Context(), nil); len(names) > 0 || err != nil {
		t.Errorf("%v, %v", names, err)
	}
	if err := e.RemoveNetwork(t.Context(), n.ID); err != nil {
		t.Error(err)
	}
}

// TestWaitForOneRun: waiting ends with the present run, as docker's does, although another follows it.
func TestWaitForOneRun(t *testing.T) {
	e, dir := newEngine(t), t.TempDir()
	o := sh("while [ ! -e /dir/end ]; do sleep 0.01; done; rm /dir/end; exit 5")
	o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/dir"}}
	o.Restart = keeper.RestartPolicy{Name: "always"}
	c := detached(t, e, "", o)
	for range 2 {
		await(t, "a run", func() bool { return runs(get(t, e, c.ID).State) })
		waiting := make(chan struct{})
		go func() {
			defer close(waiting)
			if s, err := e.Wait(t.Context(), c.ID); err != nil || s.Code != 5 || s.Final {
				t.Errorf("%+v, %v", s, err)
			}
		}()
		time.Sleep(100 * time.Millisecond) // it is waited for; should that come later, it is for the next run
		if err := os.WriteFile(dir+"/end", nil, 0o600); err != nil {
			t.Fatal(err)
		}
		select {
		case <-waiting:
		case <-time.After(5 * time.Second):
			os.WriteFile(dir+"/end", nil, 0o600)
			<-waiting
		}
	}
	if s := get(t, e, c.ID).State; !s.Status.GoesOn() {
		t.Errorf("state %+v", s)
	}
}
