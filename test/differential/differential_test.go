package differential

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/teu-dev/teu/test/privilege"
)

// TestAgainstBuildKit builds the corpus with both and compares the images: the tree of every layer,
// the tree of all together, config and history, and what is stated of how they were built. Reasons for what may differ are in
// docs/dockerfile.md; the corpus has none of it.
func TestAgainstBuildKit(t *testing.T) {
	privilege.NeedRoot(t)
	w := newWorld(t)
	contexts := filepath.Join(w.dir, "contexts")
	for _, s := range readCorpus(t, "testdata/bases/*.txtar", filepath.Join(w.dir, "bases"), w.words) {
		if out, err := w.buildTeu(t.Context(), s, "--push"); err != nil {
			t.Fatalf("%s: %v\n%s", s.name, err, out)
		}
	}
	samples := readCorpus(t, "testdata/*.txtar", contexts, w.words)
	if len(samples) < 120 {
		t.Errorf("the corpus has %d cases, want at least 120", len(samples))
	}
	t.Run("corpus", func(t *testing.T) {
		for _, s := range samples {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				w.compare(t, s)
			})
		}
	})
}

func (w *world) compare(t *testing.T, s *sample) {
	began := time.Now().Add(-24 * time.Hour) // whatever was built before is old
	files := map[string]string{}
	for _, who := range []string{"teu", "buildkit"} {
		files[who] = filepath.Join(w.dir, strings.ReplaceAll(s.name, "/", "-")+"."+who+".tar")
	}
	defer func() {
		for _, f := range files {
			os.Remove(f)
		}
	}()
	_, theirs := w.buildPeer(t.Context(), s, files["buildkit"])
	out, ours := w.buildTeu(t.Context(), s, "--provenance=true", "--output=type=oci,dest="+files["teu"])
	switch {
	case s.fails != "":
		if theirs == nil || ours == nil || !strings.Contains(out, s.fails) {
			t.Fatalf("both must fail, teu with %q\nbuildkit: %v\nteu: %v", s.fails, theirs, ours)
		}
		return
	case theirs != nil || ours != nil:
		t.Fatalf("buildkit: %v\nteu: %v", theirs, ours)
	}
	want, err := readImage(files["buildkit"], began)
	if err != nil {
		t.Fatalf("buildkit: %v", err)
	}
	got, err := readImage(files["teu"], began)
	if err != nil {
		t.Fatalf("teu: %v", err)
	}
	compareImages(t, want, got)
}

func compareImages(t *testing.T, want, got *image) {
	t.Helper()
	if diff := cmp.Diff(want.provenance, got.provenance); diff != "" && len(want.layers) > 0 { // BuildKit states nothing of nothing
		t.Errorf("provenance (-buildkit +teu):\n%s", diff)
	}
	if diff := cmp.Diff(want.config, got.config); diff != "" {
		t.Errorf("config (-buildkit +teu):\n%s", diff)
	}
	if len(want.layers) != len(got.layers) {
		t.Errorf("%d layers, buildkit has %d", len(got.layers), len(want.layers))
	}
	for i := range min(len(want.layers), len(got.layers)) {
		if diff := treeDiff(want.layers[i], got.layers[i]); diff != "" {
			t.Errorf("layer %d (-buildkit +teu):\n%s", i, diff)
		}
	}
	if diff := treeDiff(want.flat(), got.flat()); diff != "" {
		t.Errorf("all layers together (-buildkit +teu):\n%s", diff)
	}
}

func treeDiff(want, got tree) string {
	var b strings.Builder
	all := maps.Clone(want)
	maps.Copy(all, got)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w, g := want[name], got[name]
		if w == g {
			continue
		}
		if w != "" {
			fmt.Fprintf(&b, "- %s %s\n", name, w)
		}
		if g != "" {
			fmt.Fprintf(&b, "+ %s %s\n", name, g)
		}
	}
	return b.String()
}
