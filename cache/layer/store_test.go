package layer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

func open(t testing.TB, dir string) *layer.Store {
	t.Helper()
	s, err := layer.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *layer.Store, files ...file) layer.Layer {
	t.Helper()
	data := makeTar(t, files...)
	l, err := s.Apply(t.Context(), digest.FromBytes(data), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// empty makes sure that nothing is left of work in progress.
func empty(t testing.TB, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left over: %v, %v", entries, err)
	}
}

func ids(t testing.TB, s *layer.Store) (ids []string) {
	t.Helper()
	err := s.Walk(t.Context(), func(i layer.Info) error {
		ids = append(ids, i.ID)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func TestApplyAndRemove(t *testing.T) {
	privilege.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "layers")
	s := open(t, dir)
	made := put(t, s, f("a/b", "x"), d("c"))
	want := layer.Layer{ID: made.DiffID.Encoded(), DiffID: made.DiffID, Size: 8192, Implicit: []string{".", "a"}}
	for name, get := range map[string]func() (layer.Layer, error){
		"Get":      func() (layer.Layer, error) { return open(t, dir).Get(made.ID) },
		"ByDiffID": func() (layer.Layer, error) { return open(t, dir).ByDiffID(made.DiffID) },
		"Apply again, which does not read": func() (layer.Layer, error) {
			return s.Apply(t.Context(), made.DiffID, failing{errors.New("it was read")})
		},
	} {
		if got, err := get(); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v %s", name, err, cmp.Diff(want, got))
		}
	}
	if got := list(t, s.Path(made.ID), false); !cmp.Equal(got, []string{"d a", "d c", "f a/b x"}) {
		t.Errorf("the layer has %q", got)
	}
	if ok, err := s.Touch(made.ID); !ok || err != nil {
		t.Errorf("Touch: %v, %v", ok, err)
	}
	empty(t, dir)
	if err := s.Remove(t.Context(), made.ID); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), made.ID); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	if _, err := s.Get(made.ID); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
	if _, err := s.ByDiffID(made.DiffID); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("ByDiffID: %v", err)
	}
	if ok, err := s.Touch(made.ID); ok || err != nil {
		t.Errorf("Touch of a removed layer: %v, %v", ok, err)
	}
	if links, err := os.ReadDir(filepath.Join(dir, "by-diffid")); err != nil || len(links) != 0 {
		t.Errorf("by-diffid has %v, %v", links, err)
	}
	empty(t, dir)
}

func TestRefusals(t *testing.T) {
	privilege.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "layers")
	s := open(t, dir)
	data := makeTar(t, f("a", "x"))
	bad := makeTar(t, f("../a", "x"))
	lost := errors.New("connection lost")
	for _, tc := range []struct {
		name string
		id   digest.Digest
		r    io.Reader
		want error
	}{
		{"wrong digest", digest.FromString("other"), bytes.NewReader(data), errdefs.ErrDataLoss},
		{"a byte more", digest.FromBytes(data), io.MultiReader(bytes.NewReader(data), strings.NewReader("x")), errdefs.ErrDataLoss},
		{"hostile", digest.FromBytes(bad), bytes.NewReader(bad), errdefs.ErrInvalidArgument},
		{"reader fails", digest.FromBytes(data), io.MultiReader(bytes.NewReader(data[:100]), failing{lost}), lost},
		{"reader fails after the tar", digest.FromBytes(data), io.MultiReader(bytes.NewReader(data), failing{lost}), lost},
		{"no digest", "", bytes.NewReader(data), errdefs.ErrInvalidArgument},
		{"path as digest", "sha256:../../../x", bytes.NewReader(data), errdefs.ErrInvalidArgument},
		{"other algorithm", digest.Digest("sha512:" + strings.Repeat("a", 128)), bytes.NewReader(data), errdefs.ErrInvalidArgument},
	} {
		if _, err := s.Apply(t.Context(), tc.id, tc.r); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", tc.name, err, tc.want)
		}
	}
	if got := ids(t, s); len(got) != 0 {
		t.Errorf("layers %v appeared", got)
	}
	empty(t, dir)
	for _, id := range []string{"", ".", "..", "tmp", "by-diffid", "empty", "../x", "b-", strings.Repeat("a", 63), strings.Repeat("A", 64)} {
		if _, err := s.Get(id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Get(%q): %v", id, err)
		}
		if err := s.Remove(t.Context(), id); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Remove(%q): %v", id, err)
		}
	}
}

// TestCancelWhileWaiting: another goroutine unpacks, and this one does not want to wait any more.
func TestCancelWhileWaiting(t *testing.T) {
	privilege.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "layers")
	s := open(t, dir)
	data := makeTar(t, f("a", strings.Repeat("x", 5000)))
	hold, release := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := s.Apply(t.Context(), digest.FromBytes(data), hold); err != nil {
			t.Error(err)
		}
	})
	if _, err := release.Write(data[:2000]); err != nil { // now it has the lock
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Apply(ctx, digest.FromBytes(data), failing{errors.New("it was read")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
	if _, err := release.Write(data[2000:]); err != nil {
		t.Fatal(err)
	}
	release.Close()
	wg.Wait()
	empty(t, dir)
}

// child runs the test name again as another process, with a hint what to do.
func child(t testing.TB, name, do string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^"+name+"$")
	cmd.Env = append(append(os.Environ(), "TEU_TEST_CHILD="+do), env...)
	return cmd
}

// TestProcessesUnpackOnce lets four processes unpack one layer at the same time.
func TestProcessesUnpackOnce(t *testing.T) {
	privilege.NeedRoot(t)
	if dir := os.Getenv("TEU_TEST_CHILD"); dir != "" {
		data, err := os.ReadFile(filepath.Join(dir, "tar"))
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, filepath.Join(dir, "layers"))
		r := &counting{r: bytes.NewReader(data)}
		l, err := s.Apply(t.Context(), digest.FromBytes(data), r)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(list(t, s.Path(l.ID), false)); got != 400 {
			t.Fatalf("the layer has %d files when Apply returns", got)
		}
		fmt.Printf("read %d bytes\n", r.n)
		return
	}
	dir := t.TempDir()
	files := make([]file, 400)
	for i := range files {
		files[i] = f(fmt.Sprint("file", i), strings.Repeat("x", 20000))
	}
	data := makeTar(t, files...)
	if err := os.WriteFile(filepath.Join(dir, "tar"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	out := make([][]byte, 4)
	errs := make([]error, 4)
	var wg sync.WaitGroup
	for i := range out {
		cmd := child(t, "TestProcessesUnpackOnce", dir)
		wg.Go(func() { out[i], errs[i] = cmd.CombinedOutput() })
	}
	wg.Wait()
	readers := 0
	for i := range out {
		if errs[i] != nil {
			t.Errorf("process %d: %v\n%s", i, errs[i], out[i])
		}
		if !bytes.Contains(out[i], []byte("read 0 bytes")) {
			readers++
		}
	}
	if readers != 1 {
		t.Errorf("%d processes unpacked the layer, want 1", readers)
	}
	empty(t, filepath.Join(dir, "layers"))
}

type counting struct {
	r io.Reader
	n int
}

func (c *counting) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

// TestKilled kills a process at many moments of Apply and Remove. What is left is the layer or
// nothing, and the next process goes on.
func TestKilled(t *testing.T) {
	privilege.NeedRoot(t)
	files := make([]file, 300)
	for i := range files {
		files[i] = f(fmt.Sprintf("d%d/file%d", i%7, i), strings.Repeat("x", 3000))
	}
	data := makeTar(t, files...)
	id := digest.FromBytes(data)
	if dir := os.Getenv("TEU_TEST_CHILD"); dir != "" {
		s := open(t, dir)
		fmt.Println("ready")
		for {
			if _, err := s.Apply(t.Context(), id, bytes.NewReader(data)); err != nil {
				t.Fatal(err)
			}
			if err := s.Remove(t.Context(), id.Encoded()); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := filepath.Join(t.TempDir(), "layers")
	s := open(t, dir)
	whole, leftovers := 0, 0
	for i := range 25 {
		cmd := child(t, "TestKilled", dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * 100 * time.Microsecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if l, err := s.ByDiffID(id); err == nil {
			whole++
			if got := len(list(t, s.Path(l.ID), false)); got != 307 {
				t.Fatalf("the layer is there with %d files, want 307", got)
			}
		} else if !errors.Is(err, errdefs.ErrNotFound) {
			t.Fatal(err)
		}
		left, err := os.ReadDir(filepath.Join(dir, "tmp"))
		if err != nil {
			t.Fatal(err)
		}
		leftovers += len(left)
		if err := s.Sweep(nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Apply(t.Context(), id, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		empty(t, dir)
	}
	if leftovers == 0 {
		t.Error("no process was killed while it worked: the test shows nothing")
	}
	t.Logf("%d times the layer was there, %d leftovers", whole, leftovers)
}

// reboot makes the record look as if the machine had gone down since.
func reboot(t testing.TB, dir, id string) {
	t.Helper()
	p := filepath.Join(dir, id, "layer.json")
	data, err := os.ReadFile(p)
	if err != nil {
		t.Fatal(err)
	}
	var r map[string]any
	if err := json.Unmarshal(data, &r); err != nil {
		t.Fatal(err)
	}
	r["bootID"] = "another boot"
	if data, err = json.Marshal(r); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestPowerLoss(t *testing.T) {
	privilege.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "layers")
	s := open(t, dir)
	synced := put(t, s, f("synced", "x"))
	if err := s.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	lost, torn := put(t, s, f("lost", "x")), put(t, s, f("torn", "x"))
	for _, l := range []layer.Layer{synced, lost} {
		reboot(t, dir, l.ID)
	}
	if err := os.Truncate(filepath.Join(dir, torn.ID, "layer.json"), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(synced.ID); err != nil {
		t.Errorf("the layer that was synced: %v", err)
	}
	for _, l := range []layer.Layer{lost, torn} {
		if _, err := s.Get(l.ID); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Get: %v, want not found", err)
		}
		if _, err := s.ByDiffID(l.DiffID); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("ByDiffID: %v, want not found", err)
		}
		if ok, err := s.Touch(l.ID); ok || err != nil {
			t.Errorf("Touch: %v, %v", ok, err)
		}
		if _, err := s.Stack(t.Context(), []string{l.ID}); !errors.Is(err, errdefs.ErrNotFound) {
			t.Errorf("Stack: %v, want not found", err)
		}
	}
	stale := 0
	if err := s.Walk(t.Context(), func(i layer.Info) error {
		if i.Stale {
			stale++
		}
		return nil
	}); err != nil || stale != 2 {
		t.Errorf("Walk found %d stale layers, %v, want 2", stale, err)
	}
	if err := os.WriteFile(filepath.Join(s.Path(lost.ID), "half"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := put(t, s, f("lost", "x"))
	if got := list(t, s.Path(again.ID), false); !cmp.Equal(got, []string{"f lost x"}) {
		t.Errorf("the layer that was made again has %q", got)
	}
	put(t, s, f("torn", "x"))
	must(t, os.Remove(filepath.Join(dir, again.ID, "layer.json")), s.Sweep(nil))
	if _, err := os.Lstat(filepath.Join(dir, again.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer without a record is still there after a sweep: %v", err)
	}
	empty(t, dir)
}

func TestAdoptAndSeal(t *testing.T) {
	privilege.NeedRoot(t)
	base := t.TempDir()
	s := open(t, filepath.Join(base, "layers"))
	upper := filepath.Join(base, "upper")
	if err := os.MkdirAll(filepath.Join(upper, "d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(upper, "d", "f"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	l, err := s.Adopt(t.Context(), upper)
	if err != nil || !strings.HasPrefix(l.ID, "b-") || l.DiffID != "" {
		t.Fatalf("%+v, %v", l, err)
	}
	if _, err := os.Lstat(upper); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the upper is still there: %v", err)
	}
	epoch := time.Unix(1000000000, 5)
	sealed, err := s.Seal(t.Context(), l.ID, &epoch)
	if err != nil || sealed.DiffID == "" || sealed.Size == 0 {
		t.Fatalf("%+v, %v", sealed, err)
	}
	if again, err := s.Seal(t.Context(), l.ID, nil); err != nil || !cmp.Equal(again, sealed) {
		t.Errorf("sealed again: %+v, %v", again, err)
	}
	if got, err := s.ByDiffID(sealed.DiffID); err != nil || !cmp.Equal(got, sealed) {
		t.Errorf("ByDiffID: %+v, %v", got, err)
	}
	var b bytes.Buffer
	if err := s.Diff(t.Context(), l.ID, &b, layer.DiffOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(b.Bytes()); got != sealed.DiffID {
		t.Errorf("Diff gives %s, Seal said %s", got, sealed.DiffID)
	}
	other := open(t, filepath.Join(base, "other"))
	if loaded, err := other.Apply(t.Context(), sealed.DiffID, bytes.NewReader(b.Bytes())); err != nil || loaded.Size != sealed.Size {
		t.Errorf("unpacked elsewhere it has %d bytes, %v, and here %d", loaded.Size, err, sealed.Size)
	}
	pulled, err := s.Apply(t.Context(), sealed.DiffID, failing{errors.New("it was read")})
	if err != nil || pulled.ID != l.ID {
		t.Errorf("a layer that was built here is unpacked again: %+v, %v", pulled, err)
	}
	if fi, err := os.Stat(filepath.Join(s.Path(l.ID), "d", "f")); err != nil || fi.ModTime().Before(epoch) {
		t.Errorf("the epoch must not change the layer: %v, %v", fi, err)
	}
	empty(t, filepath.Join(base, "layers"))
}

// TestEqualLayersAreFound: of two layers with one diffID, whichever is used is found by it, though the other
// goes, and though who sealed it was killed before it could be found.
func TestEqualLayersAreFound(t *testing.T) {
	privilege.NeedRoot(t)
	base := t.TempDir()
	s := open(t, filepath.Join(base, "layers"))
	epoch := time.Unix(1000000000, 0)
	seal := func() layer.Layer {
		t.Helper()
		upper := filepath.Join(base, "upper")
		if err := os.Mkdir(upper, 0o755); err != nil {
			t.Fatal(err)
		}
		l, err := s.Adopt(t.Context(), upper)
		if err == nil {
			l, err = s.Seal(t.Context(), l.ID, &epoch)
		}
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	found := func(want layer.Layer) {
		t.Helper()
		if got, err := s.ByDiffID(want.DiffID); err != nil || got.ID != want.ID {
			t.Errorf("%s leads to %+v, %v, want %s", want.DiffID, got, err, want.ID)
		}
	}
	one, two := seal(), seal()
	if one.DiffID != two.DiffID || one.ID == two.ID {
		t.Fatalf("%+v and %+v", one, two)
	}
	found(two) // or it would be lost with the first
	if ok, err := s.Touch(one.ID); !ok || err != nil {
		t.Fatal(ok, err)
	}
	found(one)
	if err := s.Remove(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	found(one)
	if err := os.Remove(filepath.Join(base, "layers", "by-diffid", one.DiffID.Encoded())); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.Touch(one.ID); !ok || err != nil {
		t.Fatal(ok, err)
	}
	found(one)
	empty(t, filepath.Join(base, "layers"))
}

// TestAdoptAs: a directory that is made in the same way again is found by its name.
func TestAdoptAs(t *testing.T) {
	base := t.TempDir()
	s := open(t, filepath.Join(base, "layers"))
	if found, err := s.Touch(layer.Named("x")); found || err != nil {
		t.Fatalf("found before it was there: %v, %v", found, err)
	}
	upper := filepath.Join(base, "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := s.AdoptAs(t.Context(), upper, "x")
	if err != nil || l.ID != layer.Named("x") || l.ID == layer.Named("y") {
		t.Fatalf("%+v, %v", l, err)
	}
	if found, err := s.Touch(layer.Named("x")); !found || err != nil {
		t.Errorf("not found: %v", err)
	}
}

func TestAdoptRefusals(t *testing.T) {
	privilege.NeedRoot(t)
	base := t.TempDir()
	s := open(t, filepath.Join(base, "layers"))
	other := filepath.Join(base, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.Mkdir(filepath.Join(other, "upper"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(base, "link")); err != nil {
		t.Fatal(err)
	}
	for upper, want := range map[string]error{
		filepath.Join(other, "upper"):  errdefs.ErrFailedPrecondition,
		filepath.Join(base, "link"):    errdefs.ErrInvalidArgument,
		filepath.Join(base, "missing"): os.ErrNotExist,
	} {
		if _, err := s.Adopt(t.Context(), upper); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", upper, err, want)
		}
	}
	if got := ids(t, s); len(got) != 0 {
		t.Errorf("layers %v appeared", got)
	}
	empty(t, filepath.Join(base, "layers"))
}

func TestDiffOfPulledLayer(t *testing.T) {
	privilege.NeedRoot(t)
	s := open(t, t.TempDir())
	l := put(t, s, f("b", "x"), f("a", "y")) // not sorted: no Diff makes it again
	if err := s.Diff(t.Context(), l.ID, io.Discard, layer.DiffOptions{}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("got %v, want that it cannot be made again", err)
	}
	var b bytes.Buffer
	if err := s.Diff(t.Context(), l.ID, &b, layer.DiffOptions{Unverified: true}); err != nil {
		t.Fatal(err)
	}
	if want := makeTar(t, f("a", "y"), f("b", "x")); !bytes.Equal(b.Bytes(), plain(t, want)) {
		t.Error("the tar is not sorted or not plain")
	}
}

// TestRemoveWithoutInodes: what makes room does not need any.
func TestRemoveWithoutInodes(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=60"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	s := open(t, dir)
	l := put(t, s, f("f", "x"))
	var err error
	for i := 0; err == nil; i++ {
		err = os.Mkdir(filepath.Join(dir, fmt.Sprint("full", i)), 0o700)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), l.ID); err != nil {
		t.Error(err)
	}
	if left := ids(t, s); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	empty(t, dir)
}
