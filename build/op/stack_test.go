package op

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestLowersOfKnownStacks asks for states that grow layer by layer, one layer in two places among them: what
// is remembered of a stack is what the store says of it.
func TestLowersOfKnownStacks(t *testing.T) {
	e := newEnv(t)
	a, b, c := state(t, e, "f644 0:0 /a a").Layers[0], state(t, e, "f644 0:0 /b b").Layers[0], state(t, e, "f644 0:0 /c c").Layers[0]
	states := [][]Layer{{a}, {a, b}, {a, b, a}, {a, b, a, c}, {b}, {b, c}, {a, b, c}, {c, b}, {a, b}}
	for range 2 {
		for i, layers := range states {
			got, ids, err := e.lowers(t.Context(), console(), Result{Layers: layers})
			if err != nil {
				t.Fatal(err)
			}
			want, err := e.Store.Layers.Stack(t.Context(), slices.Clone(ids))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("state %d (-want +got):\n%s", i, diff)
			}
		}
		slices.Reverse(states)
	}
}

// TestImagesThatDisagree: of two images in one build with other bytes for one layer, none is believed.
func TestImagesThatDisagree(t *testing.T) {
	e := newEnv(t)
	layer := func(diffID, blob string) Layer {
		return Layer{DiffID: digest.FromString(diffID), Blob: &ocispec.Descriptor{Digest: digest.FromString(blob)}, Origin: &Origin{Ref: blob}}
	}
	honest, lie := layer("a", "gzip of a"), layer("a", "something else")
	if !e.noteBase([]Layer{honest, layer("b", "gzip of b")}) || !e.noteBase([]Layer{honest}) {
		t.Error("images that agree do not")
	}
	old := Result{Layers: []Layer{lie, {ID: "built"}}}
	if !e.rebase(old) || old.Layers[0].Blob.Digest != honest.Blob.Digest || old.Layers[1].ID != "built" {
		t.Errorf("on the image of this build: %+v", old.Layers)
	}
	if e.noteBase([]Layer{lie}) || e.noteBase([]Layer{honest}) {
		t.Error("images that disagree do not")
	}
	if _, ok := e.BaseLayer(honest.DiffID); ok || e.rebase(Result{Layers: []Layer{honest}}) {
		t.Error("a layer is believed that images disagree about")
	}
	if _, ok := e.BaseLayer(digest.FromString("b")); !ok {
		t.Error("the other layer is not")
	}
}
