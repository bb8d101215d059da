package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

func TestRun(t *testing.T) {
	var stdout, stderr bytes.Buffer
	e, err := Run(t.Context(), sealed(t), Job{
		Program: shell(t, 3, "cat; echo no >&2; exit 8"),
		Stdin:   strings.NewReader("in"), Stdout: &stdout, Stderr: &stderr,
		UID: os.Getuid(), GID: os.Getgid(),
	})
	if err != nil || e.Code != 8 || stdout.String() != "in" || stderr.String() != "no\n" {
		t.Errorf("%+v, %v, %q, %q", e, err, &stdout, &stderr)
	}
}

func TestRunReportsFailedLaunch(t *testing.T) {
	a := launch.NewAssembler(launch.Options{Slots: 3})
	a.Call(unix.SYS_EXECVE, a.Str("/no/such"), a.Strings([]string{"x"}), a.Strings(nil))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	_, err = Run(t.Context(), sealed(t), Job{Program: p})
	var failed *LaunchError
	if !errors.As(err, &failed) || failed.Code != 127 {
		t.Errorf("error %v", err)
	}
}

// TestRunBegun: who started a job may signal it while it runs.
func TestRunBegun(t *testing.T) {
	var pid int
	out := make(pidWriter, 1)
	e, err := Run(t.Context(), sealed(t), Job{Program: shell(t, 3, "echo $$; exec sleep 60"), Stdout: out, Begun: func(b Begun) {
		pid = b.PID
		if err := launch.SignalPIDFD(b.PIDFD, unix.SIGTERM); err != nil || b.Console != nil {
			t.Errorf("%+v: %v", b, err)
		}
	}})
	if err != nil || e.Code != 143 || pid == 0 {
		t.Errorf("%+v of process %d, %v", e, pid, err)
	}
}

func TestRunIsCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	pid := make(pidWriter, 1)
	failed := make(chan error, 1)
	go func() {
		_, err := Run(ctx, sealed(t), Job{Program: shell(t, 3, "echo $$; exec sleep 60"), Stdout: pid})
		failed <- err
	}()
	n := <-pid
	cancel()
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if err := unix.Kill(n, 0); err != unix.ESRCH {
		t.Errorf("process %d: %v, want ESRCH", n, err)
	}
}

// TestJobsShareAKeeper: jobs that follow each other have one keeper, until one is cancelled or the
// keeper is killed; jobs beside each other have two. The end of all is that of the keepers.
func TestJobsShareAKeeper(t *testing.T) {
	k := NewJobs(sealed(t))
	defer k.Close()
	keeper := func() int {
		t.Helper()
		pid := make(pidWriter, 1)
		e, err := k.Run(t.Context(), Job{Program: shell(t, 3, "echo $PPID; exit 7"), Stdout: pid})
		if err != nil || e.Code != 7 {
			t.Fatalf("%+v, %v", e, err)
		}
		return <-pid
	}
	if err := k.Ready(); err != nil {
		t.Fatal(err)
	}
	first := k.idle[0].pid
	if second, third := keeper(), keeper(); second != first || third != first {
		t.Errorf("keepers %d, %d and %d, want one", first, second, third)
	}

	ctx, cancel := context.WithCancel(t.Context())
	beside := make(pidWriter, 1)
	ended := make(chan error, 1)
	go func() {
		_, err := k.Run(ctx, Job{Program: shell(t, 3, "echo $PPID; exec sleep 60"), Stdout: beside})
		ended <- err
	}()
	busy := <-beside
	other := keeper()
	if busy != first || other == first {
		t.Errorf("two jobs at once have the keepers %d and %d, the first was %d", busy, other, first)
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	awaitEnd(t, busy)

	unix.Kill(other, unix.SIGKILL)
	awaitEnd(t, other)
	last := keeper()
	if last == other {
		t.Error("a job was given to a keeper that was killed")
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, last)
}

// TestJobsLeaveNoMemory: a keeper of many jobs does not grow with their number.
func TestJobsLeaveNoMemory(t *testing.T) {
	k := NewJobs(sealed(t))
	defer k.Close()
	a := launch.NewAssembler(launch.Options{Slots: 3})
	a.Call(unix.SYS_EXECVE, a.Str("/bin/true"), a.Strings([]string{"true", strings.Repeat("x", 100<<10)}), a.Strings(nil))
	p, err := a.Program()
	if err != nil {
		t.Fatal(err)
	}
	var after [5 * collectEvery]int
	for i := range after {
		if e, err := k.Run(t.Context(), Job{Program: p}); err != nil || e.Code != 0 {
			t.Fatalf("%+v, %v", e, err)
		}
		after[i] = anonymous(t, k.idle[0].pid)
	}
	const most = 6 << 10 // kB
	if first, last := after[0], after[len(after)-1]; last > first+most {
		t.Errorf("the keeper has %d kB after %d jobs, and had %d after the first", last, len(after), first)
	}
}

// anonymous is the memory of a process that is of no file, in kB.
func anonymous(t *testing.T, pid int) (n int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "RssAnon:")
	if _, err := fmt.Sscan(rest, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// awaitEnd fails unless the process pid ends soon.
func awaitEnd(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); unix.Kill(pid, 0) != unix.ESRCH; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

// pidWriter passes on the number it is given.
type pidWriter chan int

func (w pidWriter) Write(b []byte) (int, error) {
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err == nil {
		w <- n
	}
	return len(b), nil
}

func TestRunSurvivesNoKeeper(t *testing.T) {
	keeper, job := make(pidWriter, 1), make(pidWriter, 1)
	failed := make(chan error, 1)
	go func() {
		_, err := Run(t.Context(), sealed(t), Job{
			Program: shell(t, 3, "echo $$ >&2; echo $PPID; exec sleep 60"), Stdout: keeper, Stderr: job})
		failed <- err
	}()
	pid := <-job
	t.Cleanup(func() { unix.Kill(pid, unix.SIGKILL) })
	unix.Kill(<-keeper, unix.SIGKILL)
	select {
	case err := <-failed:
		if err == nil {
			t.Error("no error although the keeper was killed")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("Run does not notice")
	}
}
