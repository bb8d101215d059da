package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/result"
)

// A world is a store with two images that share a layer, and garbage of every kind.
type world struct {
	*Store
	one, two content.Image
	shared   string // layer of both
	own      string // layer of one alone
	garbage  digest.Digest
	snapshot string
}

func makeWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Store: openStore(t), snapshot: "snap"}
	src := newMemory()
	unpin := hold(t, w.Store)
	defer unpin()
	shared, own := tarOf("shared", "s"), tarOf("own", "o")
	one, _ := src.image(content.Host(), shared, own)
	two, _ := src.image(content.Host(), shared)
	for name, pull := range map[string]struct {
		d   ocispec.Descriptor
		img *content.Image
	}{"docker.io/library/one:latest": {src.index(one), &w.one}, "docker.io/library/two:latest": {two, &w.two}} {
		img, err := w.Pull(t.Context(), src, pull.d, PullOptions{})
		if err != nil {
			t.Fatal(err)
		}
		*pull.img = img
		if err := w.Images.Put(t.Context(), image.Image{Name: name, Target: pull.d}); err != nil {
			t.Fatal(err)
		}
	}
	w.shared, w.own = digest.FromBytes(shared).Encoded(), digest.FromBytes(own).Encoded()
	w.garbage = digest.FromString("garbage")
	if err := w.Content.Push(t.Context(), ocispec.Descriptor{Digest: w.garbage, Size: 7}, bytes.NewBufferString("garbage")); err != nil {
		t.Fatal(err)
	}
	lowers, err := w.Layers.Stack(t.Context(), []string{w.shared})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Snapshots.Prepare(t.Context(), w.snapshot, lowers, []string{w.shared}); err != nil {
		t.Fatal(err)
	}
	return w
}

// age makes everything look as if it had been used last so long ago.
func (w *world) age(t *testing.T, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	err := filepath.WalkDir(w.root, func(path string, d os.DirEntry, err error) error {
		if err != nil || filepath.Base(filepath.Dir(path)) == "pins" || path == w.gcLock() || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		return os.Chtimes(path, then, then)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) has(t *testing.T, kind Kind, id string) bool {
	t.Helper()
	var err error
	switch kind {
	case KindLayer:
		_, err = w.Layers.Get(id)
	case KindSnapshot:
		_, err = w.Snapshots.Get(id)
	case KindBlob:
		_, err = w.Content.Stat(t.Context(), digest.Digest(id))
	}
	if err != nil && !gone(err) {
		t.Fatal(err)
	}
	return err == nil
}

func TestGC(t *testing.T) {
	drop := func(names ...string) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			for _, n := range names {
				if err := w.Images.Delete(t.Context(), "docker.io/library/"+n+":latest"); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	both := func(fns ...func(t *testing.T, w *world)) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			for _, fn := range fns {
				fn(t, w)
			}
		}
	}
	lease := func(l func(w *world) Lease) func(t *testing.T, w *world) {
		return func(t *testing.T, w *world) {
			if err := w.Lease(t.Context(), "c1", l(w)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, test := range map[string]struct {
		change func(t *testing.T, w *world)
		// What stays: own and shared are layers; ownBlob, sharedBlob, one and two blobs.
		want []string
	}{
		"names keep all but garbage": {func(*testing.T, *world) {}, []string{"own", "shared", "ownBlob", "one", "two"}},
		"a name less":                {drop("one"), []string{"shared", "two"}},
		"no names":                   {drop("one", "two"), nil},
		"a lease of a manifest": {both(drop("one", "two"), lease(func(w *world) Lease {
			return Lease{Manifest: w.one.Descriptor.Digest}
		})), []string{"own", "shared", "ownBlob", "one"}},
		"a lease of a layer": {both(drop("one", "two"), lease(func(w *world) Lease {
			return Lease{Layers: []string{w.own}}
		})), []string{"own", "ownBlob"}},
		"a lease of a snapshot": {both(drop("one", "two"), lease(func(w *world) Lease {
			return Lease{Snapshots: []string{w.snapshot}}
		})), []string{"shared", "snapshot"}},
		"a lease that was dropped": {both(drop("one", "two"), lease(func(w *world) Lease {
			return Lease{Manifest: w.one.Descriptor.Digest}
		}), func(t *testing.T, w *world) {
			if err := w.Unlease(t.Context(), "c1"); err != nil {
				t.Fatal(err)
			}
		}), nil},
		"a build result": {both(drop("one", "two"), func(t *testing.T, w *world) {
			err := w.Results.Put(t.Context(), result.Record{
				Key: digest.FromString("key"), Value: json.RawMessage("1"),
				Layers: []string{w.own}, Blobs: []digest.Digest{w.garbage},
			})
			if err != nil {
				t.Fatal(err)
			}
		}), []string{"own", "ownBlob", "garbage"}},
		"a dangling image": {func(t *testing.T, w *world) {
			target := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: w.garbage, Size: 7}
			if err := w.Images.Put(t.Context(), image.Image{Name: "docker.io/library/two:latest", Target: target}); err != nil {
				t.Fatal(err)
			}
		}, []string{"own", "shared", "ownBlob", "one", "two", "garbage"}},
		"touched under a live pin": {func(t *testing.T, w *world) {
			drop("one", "two")(t, w)
			hold(t, w.Store) // until the test's process ends
			if ok, err := w.Layers.Touch(w.own); !ok || err != nil {
				t.Fatal(ok, err)
			}
			if ok, err := w.Content.Touch(w.garbage); !ok || err != nil {
				t.Fatal(ok, err)
			}
		}, []string{"own", "ownBlob", "garbage"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := makeWorld(t)
			w.age(t, time.Hour)
			test.change(t, w)

			plan, err := w.GC(t.Context(), GCOptions{DryRun: true})
			if err != nil {
				t.Fatal(err)
			}
			if !w.has(t, KindSnapshot, w.snapshot) || !w.has(t, KindLayer, w.shared) {
				t.Fatal("a dry run removed something")
			}
			report, err := w.GC(t.Context(), GCOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(plan, report); diff != "" {
				t.Errorf("what the dry run said and what was done (-plan +done):\n%s", diff)
			}
			ownBlob := w.one.Manifest.Layers[1].Digest
			var got []string
			for _, o := range []struct {
				name string
				kind Kind
				id   string
			}{
				{"own", KindLayer, w.own}, {"shared", KindLayer, w.shared}, {"snapshot", KindSnapshot, w.snapshot},
				{"ownBlob", KindBlob, string(ownBlob)}, {"one", KindBlob, string(w.one.Descriptor.Digest)},
				{"two", KindBlob, string(w.two.Descriptor.Digest)}, {"garbage", KindBlob, string(w.garbage)},
			} {
				if w.has(t, o.kind, o.id) {
					got = append(got, o.name)
				}
			}
			slices.Sort(got)
			slices.Sort(test.want)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("what is left (-want +got):\n%s", diff)
			}
			again, err := w.GC(t.Context(), GCOptions{})
			if err != nil || len(again.Removed) > 0 {
				t.Errorf("a second time: removed %v, %v", again.Removed, err)
			}
		})
	}
}

func TestGCSparesWhatIsUsedWhileItRuns(t *testing.T) {
	w := makeWorld(t)
	w.age(t, time.Hour)
	before, err := w.Cutoff()
	if err != nil {
		t.Fatal(err)
	}
	// The survey is done and says: garbage. Then somebody wants it.
	if ok, err := w.Content.Touch(w.garbage); !ok || err != nil {
		t.Fatal(ok, err)
	}
	gone, err := w.expire(t.Context(), Object{KindBlob, string(w.garbage), 7}, before)
	if gone || err != nil || !w.has(t, KindBlob, string(w.garbage)) {
		t.Errorf("gone %v, %v", gone, err)
	}
}

func TestGCWithDamagedManifestKeepsOthers(t *testing.T) {
	w := makeWorld(t)
	w.age(t, time.Hour)
	if err := os.Truncate(w.Content.Path(w.one.Descriptor.Digest), 10); err != nil {
		t.Fatal(err)
	}
	w.age(t, time.Hour)
	if _, err := w.GC(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if !w.has(t, KindLayer, w.shared) || w.has(t, KindLayer, w.own) {
		t.Error("the layer of the whole image must stay, that of the damaged one go")
	}
}

func TestGCStopsWhenALeaseCannotBeRead(t *testing.T) {
	w := makeWorld(t)
	w.age(t, time.Hour)
	if err := os.WriteFile(w.path("leases", "x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, err := w.GC(t.Context(), GCOptions{})
	if err == nil || len(report.Removed) > 0 {
		t.Errorf("removed %v, %v", report.Removed, err)
	}
}

func TestGCPrunesResults(t *testing.T) {
	w := makeWorld(t)
	key := digest.FromString("key")
	err := errors.Join(
		w.Results.Put(t.Context(), result.Record{Key: key, Value: json.RawMessage("1"), Blobs: []digest.Digest{w.garbage}}),
		w.Images.Delete(t.Context(), "docker.io/library/one:latest"),
	)
	if err != nil {
		t.Fatal(err)
	}
	w.age(t, time.Hour)
	o := GCOptions{Results: &result.PruneOptions{}, DryRun: true}
	plan, err := w.GC(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	o.DryRun = false
	report, err := w.GC(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(plan, report); diff != "" {
		t.Errorf("(-plan +done):\n%s", diff)
	}
	want := Object{Kind: KindResult, ID: string(key)}
	if report.Removed[0] != want || w.has(t, KindBlob, string(w.garbage)) {
		t.Errorf("removed %v", report.Removed)
	}
}

func TestDiskUsage(t *testing.T) {
	w := makeWorld(t)
	w.age(t, time.Hour)
	u, err := w.DiskUsage(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	report, err := w.GC(t.Context(), GCOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := u.Blobs.Reclaimable + u.Layers.Reclaimable + u.Snapshots.Reclaimable; got != report.Bytes || got != 7 {
		t.Errorf("df says %d bytes can go, prune freed %d, want 7 of both", got, report.Bytes)
	}
	var blobs int64
	var count int
	err = w.Content.Walk(t.Context(), func(i content.Info) error { blobs += i.Size; count++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	if u.Blobs.Bytes != blobs+7 || u.Blobs.Count != count+1 || u.Layers.Count != 2 || u.Snapshots.Count != 1 {
		t.Errorf("got %+v with %d blobs of %d bytes left", u, count, blobs)
	}
}

func TestPins(t *testing.T) {
	s := openStore(t)
	later := time.Now().Add(time.Hour)
	unpin := hold(t, s)
	if got, err := s.oldestPin(later); err != nil || !got.Before(later) {
		t.Errorf("with a pin: %v, %v", got, err)
	}
	second := hold(t, s)
	unpin()
	if got, err := s.oldestPin(later); err != nil || !got.Before(later) {
		t.Errorf("with one of two pins: %v, %v", got, err)
	}
	second()
	if got, err := s.oldestPin(later); err != nil || !got.Equal(later) {
		t.Errorf("without pins: %v, %v", got, err)
	}
	// What a dead process left.
	if err := os.WriteFile(s.path("pins", "dead.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := s.oldestPin(later); err != nil || !got.Equal(later) {
		t.Errorf("with a dead pin: %v, %v", got, err)
	}
	if left, _ := os.ReadDir(s.path("pins")); len(left) != 0 {
		t.Errorf("left in pins: %v", left)
	}
}

func TestLeaseNames(t *testing.T) {
	s := openStore(t)
	for _, name := range []string{"", ".", "..", "../x", "a/b", ".hidden", "a\x00b"} {
		if err := s.Lease(t.Context(), name, Lease{}); err == nil {
			t.Errorf("%q was taken as a name", name)
		}
	}
	if err := s.Unlease(t.Context(), "absent"); err != nil {
		t.Error(err)
	}
}

func TestOpenModes(t *testing.T) {
	s := openStore(t)
	for _, dir := range []string{s.Root(), s.RunRoot()} {
		fi, err := os.Stat(dir)
		if err != nil || fi.Mode().Perm() != 0o711 {
			t.Errorf("%s: %v, %v", dir, fi.Mode(), err)
		}
	}
	entries, err := os.ReadDir(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if fi, err := e.Info(); err != nil || fi.Mode().Perm()&0o022 != 0 {
			t.Errorf("%s: %v, %v", e.Name(), fi.Mode(), err)
		}
	}
}

func TestPinSurvivesAClockThatIsSetBack(t *testing.T) {
	s := openStore(t)
	began := time.Now()
	hold(t, s)
	now, err := readClock()
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(s.path("pins"))
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	now.Offset -= int64(time.Hour) // as if set back since
	got, live, err := inspectPin(s.path("pins", entries[0].Name()), now)
	if err != nil || !live || got.After(began.Add(-59*time.Minute)) {
		t.Errorf("the pin protects from %v on, live %v, %v, want an hour before %v", got, live, err, began)
	}
	now.Offset += int64(3 * time.Hour) // and forward
	if got, _, _ := inspectPin(s.path("pins", entries[0].Name()), now); got.Before(began.Add(-time.Minute)) {
		t.Errorf("the pin protects from %v on, want %v", got, began)
	}
}
