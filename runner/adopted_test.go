package runner

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
)

// What the keeper before had begun and did not live to record is for the one that adopts the container to find out.

// keeperConfigOf is what the keeper of a container was told.
func keeperConfigOf(t *testing.T, e *Engine, c *Container) (cfg keeper.Config) {
	t.Helper()
	if err := statefile.Read(filepath.Join(e.runDir(c.ID), "keeper.json"), &cfg); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// restarting is a container that waits for its next run.
func restarting(t *testing.T, e *Engine, o Options) *Container {
	t.Helper()
	o.Restart = keeper.RestartPolicy{Name: "always"}
	c := detached(t, e, "", o)
	await(t, "a long wait between two runs", func() bool {
		now, err := e.load(c.ID)
		return err == nil && now.State.Status == keeper.Restarting && now.State.RestartCount > 3
	})
	return c
}

// TestFrozenBehindItsKeeper: a container that is frozen and whose state does not say so, as its keeper was killed before it could
// or as somebody else has frozen it, can be ended all the same.
func TestFrozenBehindItsKeeper(t *testing.T) {
	e := newEngine(t)
	for _, killed := range []bool{true, false} {
		c := detached(t, e, "", sh("sleep 60"))
		g := keeperConfigOf(t, e, c).Cgroup
		if g.Freeze == "" {
			t.Skip("there is no freezer")
		}
		if err := os.WriteFile(g.Freeze, []byte(g.Frozen), 0); err != nil {
			t.Fatal(err)
		}
		if killed {
			killKeeper(t, c)
			if now := get(t, e, c.ID); now.State.Status != keeper.Paused {
				t.Errorf("it is %s", now.State.Status)
			}
		}
		zero := time.Duration(0)
		stopped := make(chan error, 1)
		go func() { stopped <- e.Stop(t.Context(), c.ID, StopOptions{Timeout: &zero}) }()
		select {
		case err := <-stopped:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			os.WriteFile(g.Freeze, []byte(g.Thawed), 0)
			t.Fatalf("killed %v: it cannot be stopped", killed)
		}
	}
	// The other way round: it goes on, and its keeper did not live to say so.
	c := detached(t, e, "", sh("sleep 60"))
	g := keeperConfigOf(t, e, c).Cgroup
	if err := e.Pause(t.Context(), c.ID); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.Freeze, []byte(g.Thawed), 0); err != nil {
		t.Fatal(err)
	}
	killKeeper(t, get(t, e, c.ID))
	if now := get(t, e, c.ID); now.State.Status != keeper.Running {
		t.Errorf("it is %s", now.State.Status)
	}
}

// TestAdoptedWithoutLog: a container whose log cannot be written any more gets a keeper too.
func TestAdoptedWithoutLog(t *testing.T) {
	e := newEngine(t)
	c := detached(t, e, "", sh(`trap 'echo bye; exit 4' TERM; printf "no end"; while :; do sleep 0.02; done`))
	await(t, "its words", func() bool {
		b, _ := os.ReadFile(filepath.Join(e.runDir(c.ID), "cursor"))
		return bytes.Contains(b, []byte("no end"))
	})
	if err := errors.Join(os.Rename(e.logFile(c.ID), e.logFile(c.ID)+".away"), os.Mkdir(e.logFile(c.ID), 0o700)); err != nil {
		t.Fatal(err)
	}
	killKeeper(t, c)
	if err := e.Stop(t.Context(), c.ID, StopOptions{}); err != nil {
		t.Error(err)
	}
	if now := get(t, e, c.ID); now.State.Status != keeper.Exited || now.State.ExitCode != 4 {
		t.Errorf("state %+v", now.State)
	}
}

// TestEndOfInputBehindItsKeeper: a container learns of the end of its input, whichever keeper lives then.
func TestEndOfInputBehindItsKeeper(t *testing.T) {
	e := newEngine(t)
	for _, read := range []bool{false, true} { // by the keeper that was killed
		c, s := startInteractive(t, e, sh("cat; echo end"))
		id := get(t, e, c.ID).State.Keeper
		unix.Kill(id.PID, unix.SIGSTOP) // it takes nothing from its socket any more
		if !read {
			killKeeper(t, get(t, e, c.ID))
		}
		s.CloseInput()
		unix.Kill(id.PID, unix.SIGKILL)
		var out bytes.Buffer
		late := time.AfterFunc(20*time.Second, func() {
			t.Error("it waits for its input")
			s.Detach()
		})
		if _, err := s.Copy(t.Context(), &out, &out); err != nil || out.String() != "end\n" {
			t.Errorf("%q, %v", out.String(), err)
		}
		late.Stop()
	}
}

// TestUnhealthyBehindItsKeeper: what is to be done with a container that is not well is done, should the keeper that found
// that out be killed.
func TestUnhealthyBehindItsKeeper(t *testing.T) {
	e := newEngine(t)
	o := sh("echo run; exec sleep 60")
	o.Health = &HealthCheck{Test: []string{"CMD", "true"}, Interval: time.Hour, Retries: 1, OnFailure: "restart"}
	c := detached(t, e, "", o)
	killKeeper(t, c)
	now, err := e.load(c.ID)
	if err != nil {
		t.Fatal(err)
	}
	now.State.Health = &keeper.Health{Status: keeper.HealthUnhealthy, FailingStreak: 1}
	if err := e.writeState(now); err != nil {
		t.Fatal(err)
	}
	await(t, "another run", func() bool { s := get(t, e, c.ID).State; return s.RestartCount == 1 && s.Status == keeper.Running })
}

// TestStoppedBetweenRuns: a container that was stopped while it waited for its next run does not get one from the next keeper,
// and one that cannot have one has ended.
func TestStoppedBetweenRuns(t *testing.T) {
	e := newEngine(t)
	c := restarting(t, e, sh("exit 1"))
	killKeeper(t, get(t, e, c.ID))
	now, err := e.load(c.ID)
	if err != nil || now.State.Status != keeper.Restarting {
		t.Fatalf("%+v, %v", now, err)
	}
	now.State.Stopped = true
	if err := e.writeState(now); err != nil {
		t.Fatal(err)
	}
	if s := get(t, e, c.ID).State; s.Status != keeper.Exited || s.ExitCode != 1 || !s.Stopped || s.RestartCount != now.State.RestartCount {
		t.Errorf("state %+v", s)
	}
	await(t, "its finishing", func() bool { return get(t, e, c.ID).State.Finished })

	o, dir := sh("exit 1"), t.TempDir()
	o.Mounts = []MountRequest{{Type: "bind", Source: filepath.Join(dir, "source"), Target: "/dir"}}
	if err := os.Mkdir(o.Mounts[0].Source, 0o700); err != nil {
		t.Fatal(err)
	}
	c = restarting(t, e, o)
	killKeeper(t, get(t, e, c.ID))
	if err := os.Remove(o.Mounts[0].Source); err != nil {
		t.Fatal(err)
	}
	if s := get(t, e, c.ID).State; s.Status != keeper.Exited || s.ExitCode != 125 && s.ExitCode != 127 || !strings.Contains(s.Error, "source") {
		t.Errorf("state %+v", s)
	}
	await(t, "its finishing", func() bool { return get(t, e, c.ID).State.Finished })
}

// TestExecBehindItsKeeper: the end of a command whose keeper was killed is told once.
func TestExecBehindItsKeeper(t *testing.T) {
	e := newEngine(t)
	c := detached(t, e, "", sh("sleep 60"))
	x, err := e.Exec(t.Context(), c.ID, ExecOptions{Args: []string{"sh", "-c", "cat; exit 3"}, Stdin: true, Output: true})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	killKeeper(t, c)
	x.Stdin.Close()
	for range 2 {
		if status, err := x.Wait(t.Context()); err != nil || status.Code != 3 {
			t.Errorf("%+v, %v", status, err)
		}
	}
	var codes []string
	o := EventOptions{Until: time.Now(), Filters: map[string][]string{"event": {"exec_die"}}}
	if err := e.Events(t.Context(), o, func(ev event.Event) error {
		codes = append(codes, ev.Actor.Attributes["exitCode"])
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(codes) != 1 || codes[0] != "3" {
		t.Errorf("told of %q", codes)
	}
}
