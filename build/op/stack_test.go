package op

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
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
