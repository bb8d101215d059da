package cache

import (
	"os"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestShrink: what can be had again goes, the least recently used first, and nothing else.
func TestShrink(t *testing.T) {
	w := makeWorld(t)
	there := func(d digest.Digest) bool {
		_, err := w.Content.Stat(t.Context(), d)
		return err == nil
	}
	own, shared := w.one.Manifest.Layers[1].Digest, w.one.Manifest.Layers[0].Digest
	long := time.Now().Add(-time.Hour)
	for _, d := range []digest.Digest{own, shared, w.garbage} {
		if err := os.Chtimes(w.Content.Path(d), long, long); err != nil {
			t.Fatal(err)
		}
		long = long.Add(time.Minute)
	}
	whole, err := w.Shrink(t.Context(), 1<<40)
	if err != nil || len(whole.Removed) != 0 || !there(w.garbage) {
		t.Fatalf("with room enough: %+v, %v", whole, err)
	}
	some, err := w.Shrink(t.Context(), whole.Size-7)
	if err != nil || some.Size > whole.Size-7 || there(w.garbage) || !there(own) || !there(shared) {
		t.Errorf("garbage goes first: %+v, %v", some, err)
	}
	one, err := w.Shrink(t.Context(), some.Size-1)
	if err != nil || there(own) || !there(shared) {
		t.Errorf("the blob used longest ago goes next: %+v, %v, own %v, shared %v", one, err, there(own), there(shared))
	}
	all, err := w.Shrink(t.Context(), 1)
	if err != nil || there(shared) || all.Size >= one.Size || all.Size <= 1 {
		t.Errorf("everything that can: %+v, %v", all, err)
	}
	for _, d := range []digest.Digest{w.one.Descriptor.Digest, w.one.Manifest.Config.Digest, w.two.Manifest.Config.Digest} {
		if !there(d) {
			t.Errorf("the document %s is gone", d)
		}
	}
	defer hold(t, w.Store)()
	if ids, err := w.Unpack(t.Context(), w.one); err != nil || readLayers(t, w.Store, ids) != "shared=s own=o" {
		t.Errorf("the image does not run any more: %v, %v", ids, err)
	}
	if problems, err := w.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

// TestShrinkSparesWhatIsUsed: what somebody has touched under a pin stays.
func TestShrinkSparesWhatIsUsed(t *testing.T) {
	w := makeWorld(t)
	unpin := hold(t, w.Store)
	if ok, err := w.Content.Exists(t.Context(), w.one.Manifest.Layers[1]); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if _, err := w.Shrink(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Content.Stat(t.Context(), w.one.Manifest.Layers[1].Digest); err != nil {
		t.Errorf("in use: %v", err)
	}
	unpin()
}
