package runner

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/network"
)

// These tests have another process come between two steps of a command.

// exited makes a container that has run a script and has ended.
func exited(t *testing.T, e *Engine, name, script string) *Container {
	t.Helper()
	c := detached(t, e, name, sh(script))
	await(t, name+" to end", func() bool { return ended(get(t, e, name).State) })
	return c
}

// ageBlobs has the blobs of a store be old: a collection spares them only if they are needed.
func ageBlobs(t *testing.T, e *Engine) {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(e.Root, "content/blobs/sha256/*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	long := time.Now().Add(-time.Hour)
	for _, path := range blobs {
		if err := os.Chtimes(path, long, long); err != nil {
			t.Fatal(err)
		}
	}
}

// forgetImage removes the image, as rmi does.
func forgetImage(t *testing.T, e *Engine) {
	t.Helper()
	store, err := e.Store()
	if err == nil {
		err = store.Images.Delete(t.Context(), "docker.io/library/busybox:latest")
	}
	if err == nil {
		_, err = store.GC(t.Context(), cache.GCOptions{})
	}
	if err != nil {
		t.Error(err)
	}
}

// An image that is removed while a container is made of it is all there as long as the container is.
func TestImageRemovedDuringCreate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	store, err := e.Store()
	if err != nil {
		t.Fatal(err)
	}
	ageBlobs(t, e)
	unpin, err := store.Pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer unpin()
	img, _, err := e.image(ctx, store, Options{Image: "busybox"})
	if err != nil {
		t.Fatal(err)
	}
	forgetImage(t, e)
	for _, d := range []ocispec.Descriptor{img.Descriptor, img.Manifest.Config, img.Manifest.Layers[0]} {
		if _, err := store.Content.Stat(ctx, d.Digest); err != nil {
			t.Errorf("%s: %v", d.MediaType, err)
		}
	}
}

// An image that is committed has all of its base, also if container and image are removed meanwhile, or it is none.
func TestRemovedDuringCommit(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	store, err := e.Store()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name      string
		meanwhile func(c *Container) error
		ok        bool
	}{
		{"its lease", func(c *Container) error {
			_, err := store.Snapshots.Touch(c.ID) // its files are still to be read
			return errors.Join(err, store.Unlease(ctx, leaseName(c.ID)))
		}, true},
		{"all of it", func(c *Container) error { return e.Remove(ctx, c.ID, RemoveOptions{}) }, false},
	} {
		c := exited(t, e, "box", "echo of the container >/file")
		ageBlobs(t, e)
		e.Change = func(config []byte, _ []string) ([]byte, error) {
			if err := test.meanwhile(c); err != nil {
				t.Error(err)
			}
			forgetImage(t, e)
			return config, nil
		}
		_, err = e.Commit(ctx, "box", CommitOptions{Name: "made", Changes: []string{"CMD true"}})
		if img, e2 := store.Images.Get("docker.io/library/made:latest"); test.ok {
			if err := errors.Join(err, e2, store.Hold(ctx, img.Target)); err != nil {
				t.Errorf("%s: %v", test.name, err)
			}
		} else if e2 == nil || err == nil || !strings.Contains(err.Error(), "No such container: box") {
			t.Errorf("%s: %v, named: %v", test.name, err, e2 == nil)
		}
		e.Remove(ctx, "box", RemoveOptions{})
		store.Images.Delete(ctx, "docker.io/library/made:latest")
		addImage(t, e)
	}
}

// afterFirst calls f at the first write.
type afterFirst struct {
	bytes.Buffer
	f func()
}

func (w *afterFirst) Write(b []byte) (int, error) {
	if w.f != nil {
		w.f()
		w.f = nil
	}
	return w.Buffer.Write(b)
}

// What is read of a container that is removed meanwhile is not said to be all of it.
func TestRemovedWhileRead(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	remove := func() {
		if err := e.Remove(ctx, "box", RemoveOptions{}); err != nil {
			t.Error(err)
		}
	}
	const files = "mkdir /d; for i in $(seq 50); do echo $i >/d/$i; done"
	for _, test := range []struct {
		name string
		read func() error
	}{
		{"export", func() error { return e.Export(ctx, "box", &afterFirst{f: remove}) }},
		{"cp", func() error {
			r, _, err := e.CopyFrom(ctx, "box", "/d")
			if err != nil {
				return err
			}
			_, err = io.Copy(struct{ io.Writer }{&afterFirst{f: remove}}, io.MultiReader(io.LimitReader(r, 512), r))
			return errors.Join(err, r.Close())
		}},
	} {
		exited(t, e, "box", files)
		if err := test.read(); err == nil || !strings.Contains(err.Error(), "No such container: box") {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A volume of another container stays when that is removed with its volumes before the new one is recorded.
func TestVolumeSharedDuringRemove(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	other, err := e.Create(ctx, "other", sh("true"))
	if err != nil {
		t.Fatal(err)
	}
	c := &Container{Config: Config{ID: newID(), Options: Options{VolumesFrom: []string{"other"}}}}
	if err := e.makeDir(c.ID, false); err != nil {
		t.Fatal(err)
	}
	points, err := e.mountsFrom(ctx, c, map[string]bool{})
	if err != nil || len(points) != 1 {
		t.Fatal(points, err)
	}
	if err := e.Remove(ctx, other.ID, RemoveOptions{Volumes: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Volume(points[0].Name); err != nil {
		t.Errorf("the volume went: %v", err)
	}
	if err := e.unmake(ctx, c, RemoveOptions{}); err != nil {
		t.Error(err)
	}
	// And if it was too late already:
	if _, _, err := e.PruneVolumes(ctx, PruneVolumesOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.makeDir(c.ID, false); err != nil {
		t.Fatal(err)
	}
	if err := e.shareVolume(ctx, c, points[0], "other"); err == nil || !strings.Contains(err.Error(), "No such container: other") {
		t.Errorf("a volume that is gone: %v", err)
	}
	if err := e.unmake(ctx, c, RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// Who comes second hears of a network or volume by the name he gave.
func TestRemovedTwice(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	for _, test := range []struct {
		words  string
		make   func() error
		remove func() error
	}{
		{"network two not found", func() error {
			_, err := e.CreateNetwork(ctx, network.CreateOptions{Name: "two"})
			return err
		}, func() error { return e.RemoveNetwork(ctx, "two") }},
		{"get two: no such volume", func() error {
			_, err := e.CreateVolume(ctx, VolumeOptions{Name: "two"})
			return err
		}, func() error { return e.RemoveVolume(ctx, "two", false) }},
	} {
		if err := test.make(); err != nil {
			t.Fatal(err)
		}
		unlock, err := e.lockVolumes(ctx)
		if err != nil {
			t.Fatal(err)
		}
		errs, done := make(chan error), 0
		for range 8 {
			go func() { errs <- test.remove() }()
		}
		time.Sleep(50 * time.Millisecond) // until all have found it
		unlock()
		for range 8 {
			err := <-errs
			if err == nil {
				done++
			} else if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v, want %q", err, test.words)
			}
		}
		if done != 1 {
			t.Errorf("removed %d times", done)
		}
	}
}

// A command that came too late for one run of a container has failed for that, not for what the next run is like.
func TestExecDuringRestart(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	c, zero := detached(t, e, "box", sh("exec sleep 1000")), time.Duration(0)
	if err := e.Restart(ctx, "box", StopOptions{Timeout: &zero}); err != nil {
		t.Fatal(err)
	}
	if err := e.endedMeanwhile(ctx, get(t, e, c.ID), unix.ESRCH); err != unix.ESRCH {
		t.Errorf("of this run: %v", err)
	}
	if err := e.endedMeanwhile(ctx, c, unix.ESRCH); !errdefs.IsConflict(err) || !strings.Contains(err.Error(), "is not running") {
		t.Errorf("of the last run: %v", err)
	}
	if err := e.Remove(ctx, "box", RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := e.endedMeanwhile(ctx, c, unix.ESRCH); err == nil || !strings.Contains(err.Error(), "No such container") {
		t.Errorf("after it was removed: %v", err)
	}
}

// A container that is being made has nothing yet that could be renamed.
func TestRenameDuringCreate(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	id := newID()
	if err := e.makeDir(id, false); err != nil {
		t.Fatal(err)
	}
	if _, err := e.claimName(ctx, id, "box", ""); err != nil {
		t.Fatal(err)
	}
	if err := e.Rename(ctx, "box", "other"); err == nil || err.Error() != "No such container: box" {
		t.Errorf("got %v", err)
	}
	if name := e.nameOf(id); name != "box" {
		t.Errorf("it is called %q", name)
	}
	if err := e.unmake(ctx, &Container{Config: Config{ID: id}, Name: "box"}, RemoveOptions{}); err != nil {
		t.Error(err)
	}
}

// A container with --rm that several restart at once is there after each of them, and not after one who was killed.
func TestRestartsTogether(t *testing.T) {
	e, ctx := newEngine(t), t.Context()
	o := sh("exec sleep 1000")
	o.AutoRemove = true
	c := detached(t, e, "box", o)
	zero := time.Duration(0)
	var all errgroup.Group
	for range 3 {
		all.Go(func() error {
			for range 8 {
				if err := e.Restart(ctx, "box", StopOptions{Timeout: &zero}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	unmark, err := statefile.Lock(ctx, e.restartLock(c.ID), statefile.LockOptions{Shared: true})
	if err == nil {
		err = e.Stop(ctx, "box", StopOptions{Timeout: &zero})
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitKeeper(get(t, e, "box"))
	for _, want := range []int{1, 0} {
		if all, err := e.List(ctx); err != nil || len(all) != want {
			t.Errorf("%d containers, want %d; %v", len(all), want, err)
		}
		unmark()
	}
}
