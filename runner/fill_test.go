package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/test/privilege"
)

// fillForTest fills the volume "vol" below root with the files of a directory, as one who makes a container does.
func fillForTest(root, from, below string) error {
	ctx := context.Background()
	e := open(root, root+"-run")
	v, _, err := e.makeVolume(ctx, VolumeOptions{Name: "vol"})
	if err != nil {
		return err
	}
	if err := e.finishFilling(ctx, "vol"); err != nil {
		return err
	}
	dir := filepath.Join(v.Mountpoint, below)
	if !isEmpty(dir) {
		return nil
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	return errors.Join(e.fillBeside(ctx, rootfs.FromFile(f), "vol", below, dir), f.Close())
}

// aTree makes a directory of some files, with a mode and a time of its own.
func aTree(t *testing.T) (dir string, entries int) {
	t.Helper()
	dir, entries = filepath.Join(t.TempDir(), "tree"), 40
	for i := range entries {
		sub := filepath.Join(dir, fmt.Sprint(i), "sub")
		if err := os.MkdirAll(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		for j := range 20 {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint(j)), bytes.Repeat([]byte{byte(j)}, 5000), 0o640); err != nil {
				t.Fatal(err)
			}
		}
	}
	then := time.Unix(1e9, 0)
	if err := errors.Join(os.Chmod(dir, 0o750), os.Chown(dir, 1000, 1000), os.Chtimes(dir, then, then)); err != nil {
		t.Fatal(err)
	}
	return dir, entries
}

// sameTree says how the volume differs from the tree.
func sameTree(want, got string) error {
	out, err := exec.Command("diff", "-r", want, got).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %.500s", err, out)
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(want, &a), unix.Stat(got, &b)); err != nil {
		return err
	}
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Mtim != b.Mtim {
		return fmt.Errorf("%o %d %v is not %o %d %v", b.Mode, b.Uid, b.Mtim, a.Mode, a.Uid, a.Mtim)
	}
	return nil
}

// TestFillKilled: whenever those who fill a volume are killed, the next finds it empty or completes it.
func TestFillKilled(t *testing.T) {
	privilege.NeedRoot(t)
	tree, _ := aTree(t)
	begun := time.Now()
	if err := fillForTest(filepath.Join(t.TempDir(), "root"), tree, "."); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(begun)
	latest := 2 * whole
	var empty, complete int
	for round := 0; round < 20 || round < 200 && (empty == 0 || complete == 0); round++ {
		root := filepath.Join(t.TempDir(), "root")
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		var fillers sync.WaitGroup
		for range 2 {
			cmd := exec.Command("/proc/self/exe", "fill", root, tree, ".")
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			fillers.Go(func() {
				time.Sleep(rand.N(latest))
				_ = cmd.Process.Kill() // or it has finished
				_ = cmd.Wait()
			})
		}
		fillers.Wait()
		e := open(root, root+"-run")
		data := filepath.Join(e.volumeDir("vol"), "_data")
		if err := e.finishFilling(t.Context(), "vol"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(data); errors.Is(err, fs.ErrNotExist) || isEmpty(data) {
			empty++
			latest += latest / 2
		} else if err := sameTree(tree, data); err != nil {
			t.Fatal(err)
		} else {
			complete++
			latest = max(latest*2/3, time.Millisecond) // filling took longer when it was measured
		}
		if err := fillForTest(root, tree, "."); err != nil {
			t.Fatal(err)
		}
		if err := sameTree(tree, data); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d times nothing, %d times all", empty, complete)
	if empty == 0 || complete == 0 {
		t.Error("the kills came all too early or all too late")
	}
}

// TestFillGoesOn: who was killed while the files were moved into the volume is followed by whoever uses it next. What
// others have put there meanwhile stays.
func TestFillGoesOn(t *testing.T) {
	privilege.NeedRoot(t)
	tree, entries := aTree(t)
	for name, prepare := range map[string]func(e *Engine, filled, data string) error{
		"none moved": func(*Engine, string, string) error { return nil },
		"some moved": func(_ *Engine, filled, data string) error { return os.Rename(filled+"/data/7", data+"/7") },
		"being removed": func(_ *Engine, filled, data string) error {
			for i := range entries {
				if err := os.Rename(fmt.Sprint(filled, "/data/", i), fmt.Sprint(data, "/", i)); err != nil {
					return err
				}
			}
			then := time.Unix(1e9, 0)
			return errors.Join(os.Remove(filled+"/into"), os.Chmod(data, 0o750), os.Chown(data, 1000, 1000), os.Chtimes(data, then, then))
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(filepath.Join(t.TempDir(), "root"), t.TempDir())
			v, _, err := e.makeVolume(t.Context(), VolumeOptions{Name: "vol"})
			if err != nil {
				t.Fatal(err)
			}
			filled := e.filled("vol")
			if err := exec.Command("sh", "-c", `mkdir "$2" && cp -a "$1" "$2/data" && ln -s . "$2/into" && touch -r "$1" "$2"`, "sh", tree, filled).Run(); err != nil {
				t.Fatal(err)
			}
			if err := prepare(e, filled, v.Mountpoint); err != nil {
				t.Fatal(err)
			}
			if err := e.finishFilling(t.Context(), "vol"); err != nil {
				t.Fatal(err)
			}
			if err := sameTree(tree, v.Mountpoint); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(filled); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("it is not removed: %v", err)
			}
		})
	}
}

// TestFillFindsFiles: files that came into the volume meanwhile stay what they are.
func TestFillFindsFiles(t *testing.T) {
	e := newEngine(t)
	ctx := t.Context()
	v, _, err := e.makeVolume(ctx, VolumeOptions{Name: "vol"})
	if err != nil {
		t.Fatal(err)
	}
	filled := e.filled("vol")
	script := `mkdir -p "$1/data" && echo image >"$1/data/a" && echo image >"$1/data/b" && ln -s . "$1/into" && echo mine >"$2/a"`
	if err := exec.Command("sh", "-c", script, "sh", filled, v.Mountpoint).Run(); err != nil {
		t.Fatal(err)
	}
	// A container that was made before is enough to finish it.
	o := sh("cat /d/a /d/b")
	o.Mounts = []MountRequest{{Type: "volume", Source: "vol", Target: "/d", NoCopy: true}}
	if stdout, _, _ := run(t, e, o); stdout != "mine\nimage\n" {
		t.Errorf("got %q", stdout)
	}
	// One in which the files have no place any more is not in the way of containers.
	if err := exec.Command("sh", "-c", `mkdir -p "$1/data" && ln -s no/such "$1/into"`, "sh", filled).Run(); err != nil {
		t.Fatal(err)
	}
	if stdout, _, _ := run(t, e, o); stdout != "mine\nimage\n" {
		t.Errorf("got %q", stdout)
	}
	// Below a path it is the same.
	if err := os.Mkdir(filepath.Join(v.Mountpoint, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	o = sh("cat /vol/file")
	o.Mounts = []MountRequest{{Type: "volume", Source: "vol", Target: "/vol", Subpath: "sub"}}
	if stdout, _, _ := run(t, e, o); stdout != "of the image\n" {
		t.Errorf("got %q", stdout)
	}
	for _, left := range []string{filled, e.filling("vol")} {
		if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}
