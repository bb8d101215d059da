package keeper

import (
	"bytes"
	"context"
	"errors"
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
