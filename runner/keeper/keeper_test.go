package keeper

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/launch"
	"github.com/teu-dev/teu/test/privilege"
)

// The test binary is its own keeper: it executes itself from a sealed memfd.
func TestMain(m *testing.M) {
	if os.Args[0] == "teu-keeper" {
		os.Exit(Main(os.Args[1:]))
	}
	if filepath.Base(os.Args[0]) == relayName {
		if err := relay(os.Args[1]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Args[0] == "unlucky-keeper" {
		if err := unluckyKeeper(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func sealed(t *testing.T) *Binary {
	t.Helper()
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Seal(elf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

// shell is a program that runs a shell command, without namespaces.
func shell(t *testing.T, slots int, script string) *launch.Program {
	t.Helper()
	a := launch.NewAssembler(launch.Options{Slots: slots})
	a.DefaultSignals()
	a.Note("running the shell")
	a.Call(unix.SYS_EXECVE, a.Str("/bin/sh"), a.Strings([]string{"sh", "-c", script}), a.Strings([]string{"PATH=/usr/bin:/bin"}))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// terminal is the same with a terminal as its standard streams.
func terminal(t *testing.T, script string) *launch.Program {
	t.Helper()
	a := launch.NewAssembler(launch.Options{Slots: 3})
	a.DefaultSignals()
	master := a.Call(unix.SYS_OPENAT, launch.Int(unix.AT_FDCWD), a.Str("/dev/ptmx"), launch.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC), launch.Int(0))
	a.Call(unix.SYS_IOCTL, launch.Result(master), launch.Int(unix.TIOCSPTLCK), a.Buffer(8))
	slave := a.Call(unix.SYS_IOCTL, launch.Result(master), launch.Int(0x5441), launch.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC))
	a.SendConsole(launch.Result(master))
	a.Call(unix.SYS_SETSID)
	a.Call(unix.SYS_IOCTL, launch.Result(slave), launch.Int(unix.TIOCSCTTY), launch.Int(0))
	for fd := range 3 {
		a.Call(unix.SYS_DUP3, launch.Result(slave), launch.Int(fd), launch.Int(0))
	}
	a.Call(unix.SYS_EXECVE, a.Str("/bin/sh"), a.Strings([]string{"sh", "-c", script}), a.Strings([]string{"PATH=/usr/bin:/bin"}))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func config(t *testing.T) Config {
	t.Helper()
	dir := t.TempDir()
	return Config{
		ID: "test", RunDir: dir, StateFile: filepath.Join(dir, "state.json"),
		Log: Log{Path: filepath.Join(dir, "log"), MaxSize: 10 << 20, MaxFiles: 3},
		UID: os.Getuid(), GID: os.Getgid(),
	}
}

func start(t *testing.T, b *Binary, cfg Config, p *launch.Program, o StartOptions) *Stream {
	t.Helper()
	s, err := startSpare(t.Context(), b, cfg, p, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(cfg) })
	return s
}

// end makes sure that nothing of a test stays behind.
func end(cfg Config) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	At(cfg.RunDir).Stop(ctx, unix.SIGKILL, 0)
	if st := readState(cfg); st.Init.Alive() {
		unix.Kill(st.Init.PID, unix.SIGKILL)
	}
	await(func() bool { return !readState(cfg).Keeper.Alive() })
	EndHolders(cfg.RunDir, readState(cfg)) // of a keeper that was killed at the end, as teu does when it finishes
}

func readState(cfg Config) State {
	var s State
	statefile.Read(cfg.StateFile, &s)
	return s
}

// startSpare is [Binary.Spare] and [Spare.Start] in one.
func startSpare(ctx context.Context, b *Binary, cfg Config, p *launch.Program, o StartOptions) (*Stream, error) {
	k, err := b.Spare(cfg.RunDir)
	if err != nil {
		return nil, err
	}
	defer k.Close()
	return k.Start(ctx, cfg, p, o)
}

// await polls for up to a minute.
func await(f func() bool) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return true
		}
	}
	return false
}

type entry struct{ Log, Stream, Time string }

// logEntries reads the rotated files, the oldest first.
func logEntries(t *testing.T, cfg Config) []entry {
	t.Helper()
	var all []entry
	for _, suffix := range []string{".4", ".3", ".2", ".1", ""} {
		b, err := os.ReadFile(cfg.Log.Path + suffix)
		if err != nil {
			continue
		}
		for line := range bytes.Lines(b) {
			var e entry
			if err := json.Unmarshal(line, &e); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			all = append(all, e)
		}
	}
	return all
}

func TestSealedBinaryCannotChange(t *testing.T) {
	b := sealed(t)
	const want = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	got, err := unix.FcntlInt(b.f.Fd(), unix.F_GET_SEALS, 0)
	if err != nil || got&want != want {
		t.Fatalf("seals %#x, %v; want %#x", got, err, want)
	}
	if _, err := b.f.WriteAt([]byte("x"), 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("writing gives %v, want EPERM", err)
	}
}

// TestSpawnAmongFiles: which descriptors come and go while a keeper is started does not
// matter, though its executable is one of them.
func TestSpawnAmongFiles(t *testing.T) {
	elf, err := os.ReadFile("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	b, err := Seal(elf)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	done := make(chan struct{})
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			for {
				var files [12]*os.File
				for i := range files {
					files[i], _ = os.Open(os.DevNull)
				}
				for _, i := range rand.Perm(len(files)) {
					files[i].Close()
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	defer others.Wait()
	defer close(done)
	for range 1000 {
		c, err := b.spawn(nil)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestAttachedRun(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.OpenStdin, cfg.StdinOnce = true, true
	done := filepath.Join(cfg.RunDir, "finished")
	cfg.Finish = []string{"/bin/sh", "-c", "touch " + done}
	s := start(t, b, cfg, shell(t, 3, `cat; echo err >&2; ls /proc/self/fd | wc -l; exit 3`),
		StartOptions{Attach: &AttachOptions{Stdin: true, Stdout: true, Stderr: true}, Claim: true})
	defer s.Close()
	fmt.Fprint(s.Stdin(), "input\n")
	s.Stdin().Close()
	var stdout, stderr bytes.Buffer
	e, err := s.Copy(&stdout, &stderr)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(ExitStatus{Code: 3, Final: true}, e); diff != "" {
		t.Error(diff)
	}
	if stdout.String() != "input\n4\n" || stderr.String() != "err\n" {
		t.Errorf("output %q and %q", &stdout, &stderr)
	}
	if st := readState(cfg); st.Status != Exited || st.ExitCode != 3 || st.FinishedAt.Before(st.StartedAt) {
		t.Errorf("state %+v", st)
	}
	if n := len(logEntries(t, cfg)); n != 3 {
		t.Errorf("%d log entries, want 3", n)
	}
	if err := s.Done(); err != nil {
		t.Fatal(err)
	}
	if !await(func() bool { return !readState(cfg).Keeper.Alive() }) {
		t.Error("the keeper stays")
	}
	if _, err := os.Stat(done); err == nil {
		t.Error("finished although a client had claimed that")
	}
}

func TestDetachedRunIsFinished(t *testing.T) {
	b, cfg := sealed(t), config(t)
	done := filepath.Join(t.TempDir(), "finished")
	cfg.Finish = []string{"/bin/sh", "-c", "touch " + done}
	if s := start(t, b, cfg, shell(t, 3, "exit 0"), StartOptions{}); s != nil {
		t.Error("a stream that nobody asked for")
	}
	if !await(func() bool { _, err := os.Stat(done); return err == nil }) {
		t.Error("not finished")
	}
	if _, err := At(cfg.RunDir).Wait(t.Context()); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("a request gives %v", err)
	}
}

// TestEndIsRecordedBeforeItIsTold: who hears of a container's end and looks sees one that has ended. The journal
// is a pipe, in which the event waits for the test.
func TestEndIsRecordedBeforeItIsTold(t *testing.T) {
	cfg := config(t)
	cfg.Events = Events{Dir: t.TempDir()}
	gate, journal := filepath.Join(t.TempDir(), "gate"), filepath.Join(cfg.Events.Dir, "events")
	start(t, sealed(t), cfg, shell(t, 3, "until [ -e "+gate+" ]; do sleep 0.01; done"), StartOptions{})
	if err := os.RemoveAll(journal); err != nil { // it tells of the start
		t.Fatal(err)
	}
	if err := errors.Join(unix.Mkfifo(journal, 0o600), os.WriteFile(gate, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	recorded := await(func() bool { return readState(cfg).Status == Exited })
	told, err := os.OpenFile(journal, os.O_RDWR, 0) // lets the keeper go on
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	told.SetReadDeadline(time.Now().Add(10 * time.Second))
	line, err := bufio.NewReader(told).ReadString('\n')
	if !recorded || err != nil || !strings.Contains(line, `"Action":"die"`) {
		t.Errorf("recorded %t before %q, %v", recorded, line, err)
	}
}

func TestNameOfTheProcess(t *testing.T) {
	b, cfg := sealed(t), config(t)
	start(t, b, cfg, shell(t, 3, "sleep 1000"), StartOptions{})
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", readState(cfg).Keeper.PID))
	if err != nil || string(name) != "teu-keeper\n" {
		t.Errorf("the keeper is called %q, %v", name, err)
	}
}

func TestAbandonedClaimIsFinished(t *testing.T) {
	b, cfg := sealed(t), config(t)
	done := filepath.Join(t.TempDir(), "finished")
	cfg.Finish = []string{"/bin/sh", "-c", "touch " + done}
	start(t, b, cfg, shell(t, 3, "exit 0"), StartOptions{Claim: true}).Close()
	if !await(func() bool { _, err := os.Stat(done); return err == nil }) {
		t.Error("not finished")
	}
}

func TestFailedLaunch(t *testing.T) {
	b, cfg := sealed(t), config(t)
	a := launch.NewAssembler(launch.Options{Slots: 3})
	a.NoteExec("/no/such")
	a.Call(unix.SYS_EXECVE, a.Str("/no/such"), a.Strings([]string{"x"}), a.Strings(nil))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	_, err = startSpare(t.Context(), b, cfg, p, StartOptions{Claim: true})
	var failed *LaunchError
	if !errors.As(err, &failed) || failed.Code != 127 || !errors.Is(err, unix.ENOENT) {
		t.Fatalf("error %v", err)
	}
	if st := readState(cfg); st.ExitCode != 127 || !strings.Contains(st.Error, "/no/such") || st.Holder.PID != 0 {
		t.Errorf("state %+v", st)
	}
	if left, err := recorded(cfg.RunDir, recordPrefix); err != nil || len(left) > 0 {
		t.Errorf("a holder of a run that was none: %+v, %v", left, err)
	}
}

func TestRestartOnFailure(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.Restart = RestartPolicy{Name: "on-failure", MaxRetries: 2}
	start(t, b, cfg, shell(t, 3, "echo run; exit 5"), StartOptions{})
	if !await(func() bool { return readState(cfg).Status == Exited }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	st := readState(cfg)
	if st.RestartCount != 2 || st.ExitCode != 5 || len(logEntries(t, cfg)) != 3 {
		t.Errorf("state %+v, log %v", st, logEntries(t, cfg))
	}
}

func TestStopEndsARestartingContainer(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.Restart = RestartPolicy{Name: "always"}
	start(t, b, cfg, shell(t, 3, "exit 0"), StartOptions{})
	if !await(func() bool { return readState(cfg).RestartCount >= 2 }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	k := At(cfg.RunDir)
	if err := k.Stop(t.Context(), unix.SIGTERM, time.Second); err != nil {
		t.Fatal(err)
	}
	if st := readState(cfg); st.Status != Exited || !st.Stopped {
		t.Errorf("state %+v", st)
	}
}

// What ends a container between two runs has ended it, and there is nothing to be signalled.
func TestKillBetweenRuns(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.Restart = RestartPolicy{Name: "always"}
	start(t, b, cfg, shell(t, 3, "exit 5"), StartOptions{})
	if !await(func() bool { st := readState(cfg); return st.Status == Restarting && st.RestartCount >= 6 }) { // 3.2 s to go
		t.Fatalf("state %+v", readState(cfg))
	}
	if err := At(cfg.RunDir).Signal(t.Context(), unix.SIGKILL, SignalOptions{Final: true}); err != nil {
		t.Error(err)
	}
	if !await(func() bool { return readState(cfg).Status == Exited }) || readState(cfg).ExitCode != 5 {
		t.Errorf("state %+v", readState(cfg))
	}
}

// A run that is just being started when the container is to be stopped gets the signal.
func TestStopBesideRestart(t *testing.T) {
	b, cfg := sealed(t), config(t)
	ran, gated, traps := filepath.Join(cfg.RunDir, "ran"), filepath.Join(cfg.RunDir, "gated"), filepath.Join(cfg.RunDir, "traps")
	cfg.Restart = RestartPolicy{Name: "always"}
	cfg.Env = []string{"PATH=/usr/bin:/bin"}
	cfg.Gates = []Gate{{Command: []string{"/bin/sh", "-c", "test ! -e " + ran + " || { touch " + gated + "; sleep 0.5; until test -e " + traps + "; do sleep 0.05; done; }"}}}
	start(t, b, cfg, shell(t, 3, "test -e "+ran+" || { sleep 0.2; touch "+ran+"; exit 1; }; trap 'exit 7' TERM; touch "+traps+"; while :; do sleep 0.05; done"), StartOptions{})
	if !await(func() bool { _, err := os.Stat(gated); return err == nil }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	if err := At(cfg.RunDir).Stop(t.Context(), unix.SIGTERM, time.Minute); err != nil {
		t.Fatal(err)
	}
	if st := readState(cfg); st.Status != Exited || st.ExitCode != 7 {
		t.Errorf("state %+v", st)
	}
}

func TestStopKillsAfterTimeout(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.Restart = RestartPolicy{Name: "always"}
	start(t, b, cfg, shell(t, 3, "trap '' TERM; echo ready; while :; do sleep 0.05; done"), StartOptions{})
	if !await(func() bool { return len(logEntries(t, cfg)) > 0 }) {
		t.Fatal("the program did not start")
	}
	k := At(cfg.RunDir)
	if err := k.Stop(t.Context(), unix.SIGTERM, 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if st := readState(cfg); st.Status != Exited || st.ExitCode != 137 {
		t.Errorf("state %+v", st)
	}
}

func TestExec(t *testing.T) {
	b, cfg := sealed(t), config(t)
	start(t, b, cfg, shell(t, 3, "sleep 60"), StartOptions{})
	k := At(cfg.RunDir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// Its fourth slot is a pidfd of the container's pid 1, which the keeper adds.
	p, err := k.Exec(t.Context(), shell(t, 4, `echo hello; exit 9`), []*os.File{w, w, w}, ExecOptions{})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	line, _ := bufio.NewReader(r).ReadString('\n')
	e, err := p.Wait(t.Context())
	if err != nil || e.Code != 9 || line != "hello\n" {
		t.Errorf("%q, %+v, %v", line, e, err)
	}
}

func TestAttachLater(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.OpenStdin = true
	start(t, b, cfg, shell(t, 3, `while read x; do echo "got $x"; [ "$x" = end ] && exit 4; done`), StartOptions{})
	k := At(cfg.RunDir)
	all := AttachOptions{Stdin: true, Stdout: true, Stderr: true}
	first, err := k.Attach(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(first.Stdin(), "one\n")
	first.Detach()
	first.Close()
	second, err := k.Attach(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	fmt.Fprint(second.Stdin(), "end\n")
	var out bytes.Buffer
	e, err := second.Copy(&out, &out)
	if err != nil || e.Code != 4 || !strings.HasSuffix(out.String(), "got end\n") {
		t.Errorf("%q, %+v, %v", &out, e, err)
	}
}

func TestTerminal(t *testing.T) {
	b, cfg := sealed(t), config(t)
	cfg.TTY, cfg.OpenStdin, cfg.Columns, cfg.Rows = true, true, 91, 33
	s := start(t, b, cfg, terminal(t, `read x; stty size; echo "got $x"; exit 6`),
		StartOptions{Attach: &AttachOptions{Stdin: true, Stdout: true}})
	defer s.Close()
	fmt.Fprint(s.Stdin(), "word\n")
	var out bytes.Buffer
	e, err := s.Copy(&out, &out)
	if err != nil || e.Code != 6 {
		t.Fatalf("%+v, %v", e, err)
	}
	if want := "word\r\n33 91\r\ngot word\r\n"; out.String() != want {
		t.Errorf("output %q, want %q", &out, want)
	}
}

func TestSharedBinaryCannotChange(t *testing.T) {
	privilege.NeedRoot(t)
	elf, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "keepers")
	for _, first := range []bool{true, false} {
		b, err := share(elf, dir, "this")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		link := fmt.Sprintf("/proc/self/fd/%d", b.f.Fd())
		if got, err := os.ReadFile(link); err != nil || !bytes.Equal(got, elf) {
			t.Errorf("%d bytes, %v; want %d others", len(got), err, len(elf))
		}
		if f, err := os.OpenFile(link, os.O_WRONLY, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("opening it for writing: %v, %v; want EROFS", f, err)
		}
		if first {
			start(t, b, config(t), shell(t, 3, "sleep 60"), StartOptions{})
		}
	}
}
