package runner

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/test/privilege"
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

// TestPowerLossOfAFill: a volume that was just filled is whole after a power loss, or empty. A half would stay for ever.
func TestPowerLossOfAFill(t *testing.T) {
	privilege.NeedRoot(t)
	many, _ := aTree(t)
	few := filepath.Join(t.TempDir(), "few")
	command(t, "cp", "-a", filepath.Join(many, "7"), few)
	for name, tree := range map[string]string{"many": many, "few": few} {
		t.Run(name, func(t *testing.T) {
			image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
			command(t, "truncate", "-s", "64M", image)
			command(t, "mkfs.ext4", "-q", "-F", image)
			command(t, "mount", "-o", "loop,commit=300", image, dir)
			t.Cleanup(func() { exec.Command("umount", dir).Run() })
			root := filepath.Join(dir, "root")
			if err := fillForTest(root, tree, "."); err != nil {
				t.Fatal(err)
			}
			// The journal's next commit has the names of the files, whoever it is for.
			other, err := os.Create(filepath.Join(dir, "other"))
			if err == nil {
				err = errors.Join(other.Sync(), other.Close())
			}
			if err != nil {
				t.Fatal(err)
			}
			command(t, "cp", "--sparse=always", image, image+".after") // what the disk has
			command(t, "umount", dir)
			command(t, "mount", "-o", "loop", image+".after", dir)
			if err := open(root, root+"-run").finishFilling(t.Context(), "vol"); err != nil {
				t.Fatal(err)
			}
			if err := sameTree(tree, filepath.Join(root, "volumes", "vol", "_data")); err != nil {
				t.Error(err)
			}
		})
	}
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
