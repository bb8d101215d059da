package runner

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
)

// empty does to files what a power loss does to those that were renamed and not synced.
func empty(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := os.Truncate(path, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// After a power loss the other containers are as they were, and what has lost its state or its name's
// file is still there, exited.
func TestPowerLossOfAState(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	for _, name := range []string{"whole", "hurt"} {
		if _, err := e.Create(ctx, name, sh("true")); err != nil {
			t.Fatal(err)
		}
	}
	hurt := get(t, e, "hurt")
	empty(t, e.stateFile(hurt.ID), e.nameFile(hurt.ID))
	all, err := e.List(ctx)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	if c := get(t, e, "hurt"); c.State.Status != keeper.Exited || c.State.ExitCode != 255 || c.Name != "hurt" {
		t.Errorf("%q, %+v", c.Name, c.State)
	}
	if err := os.Remove(e.stateFile(hurt.ID)); err != nil {
		t.Fatal(err)
	}
	if c := get(t, e, "hurt"); c.State.Status != keeper.Exited {
		t.Errorf("without a state: %+v", c.State)
	}
	if _, err := e.Start(ctx, "hurt", StartOptions{}); err != nil {
		t.Fatal(err)
	}
	if status, err := e.Wait(ctx, "hurt"); err != nil || status.Code != 0 {
		t.Errorf("%+v, %v", status, err)
	}
}

// A container whose record is damaged is dead, hides no other and can be removed.
func TestPowerLossOfARecord(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c, err := e.Create(ctx, "hurt", sh("true"))
	if err != nil {
		t.Fatal(err)
	}
	empty(t, e.configFile(c.ID))
	if now := get(t, e, "hurt"); now.State.Status != keeper.Dead || now.Name != "hurt" {
		t.Errorf("%q, %+v", now.Name, now.State)
	}
	if _, err := e.Start(ctx, "hurt", StartOptions{}); err == nil {
		t.Error("a damaged container starts")
	}
	if err := e.Remove(ctx, "hurt", RemoveOptions{}); err != nil {
		t.Fatal(err)
	}
	if all, err := e.List(ctx); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

// Nothing of a --rm container is synced, and nothing is wanted back.
func TestPowerLossOfAutoRemove(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	o := sh("true")
	o.AutoRemove = true
	c, err := e.Create(ctx, "gone", o)
	if err != nil {
		t.Fatal(err)
	}
	maker := filepath.Join(e.dir(c.ID), makerName)
	if err := statefile.Write(maker, &statefile.Process{PID: 1, StartTime: 1, BootID: "another"}, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := e.Prune(ctx, PruneOptions{Filters: map[string][]string{"label": {"no=such"}}}); err != nil {
		t.Fatal(err)
	}
	get(t, e, "gone") // its maker has died as makers do
	empty(t, e.configFile(c.ID), filepath.Join(e.Root, "leases", leaseName(c.ID)+".volatile"))
	if _, _, err := e.Prune(ctx, PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{e.dir(c.ID), filepath.Join(e.Root, "leases", leaseName(c.ID)+".volatile")} {
		if _, err := os.Lstat(left); err == nil {
			t.Errorf("%s is left", left)
		}
	}
}
