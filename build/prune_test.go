package build

import (
	"slices"
	"testing"
)

func TestWhatAPruneTakes(t *testing.T) {
	all := []CacheEntry{{ID: "nothing"}, {ID: "old", Size: 10}, {ID: "image's", Size: 10, Shared: true}, {ID: "busy", Size: 10, InUse: true}, {ID: "new", Size: 10}}
	for _, c := range []struct {
		name string
		o    PruneOptions
		free int64
		want []string
	}{
		{"what no image needs", PruneOptions{}, 5, []string{"nothing", "old", "new"}},
		{"everything", PruneOptions{All: true}, 5, []string{"nothing", "old", "image's", "new"}},
		{"but the last used", PruneOptions{Keep: 30}, 5, []string{"nothing", "old"}},
		{"down to a size", PruneOptions{MaxUsed: 30}, 5, []string{"nothing", "old"}},
		{"which it has", PruneOptions{MaxUsed: 40}, 5, nil},
		{"until the disk has room", PruneOptions{MinFree: 15}, 5, []string{"nothing", "old"}},
		{"which it has, too", PruneOptions{MinFree: 5}, 5, nil},
		{"more room than there can be", PruneOptions{MinFree: 1000}, 5, []string{"nothing", "old", "new"}},
		{"but not what is to stay", PruneOptions{MinFree: 1000, Keep: 30}, 5, []string{"nothing", "old"}},
		{"the smaller of both", PruneOptions{MinFree: 25, MaxUsed: 35}, 5, []string{"nothing", "old", "new"}},
	} {
		var got []string
		for _, e := range c.o.choose(all, c.free) {
			got = append(got, e.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
