package cache

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMark(t *testing.T) {
	for name, test := range map[string]struct {
		edges string // "ab bc" means a refers to b and b to c
		roots string
		want  string
	}{
		"nothing":            {"ab", "", ""},
		"a root alone":       {"", "a", "a"},
		"a chain":            {"ab bc cd xy", "a", "abcd"},
		"from the middle":    {"ab bc cd", "c", "cd"},
		"shared by two":      {"ac bc bd", "ab", "abcd"},
		"shared, one root":   {"ac bc bd", "a", "ac"},
		"a diamond":          {"ab ac bd cd", "a", "abcd"},
		"a cycle":            {"ab bc ca", "b", "abc"},
		"to itself":          {"aa", "a", "a"},
		"a root named twice": {"ab", "aa", "ab"},
	} {
		t.Run(name, func(t *testing.T) {
			edges := map[string][]string{}
			for _, e := range strings.Fields(test.edges) {
				edges[e[:1]] = append(edges[e[:1]], e[1:])
			}
			var mu sync.Mutex
			asked := map[string]int{}
			live, err := mark(strings.Split(test.roots, "")[:len(test.roots)], func(n string) ([]string, error) {
				mu.Lock()
				defer mu.Unlock()
				asked[n]++
				return edges[n], nil
			})
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(slices.Sorted(maps.Keys(live)), "")
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("live (-want +got):\n%s", diff)
			}
			for n, times := range asked {
				if times > 1 {
					t.Errorf("%s was asked for its references %d times", n, times)
				}
			}
		})
	}
}

func TestMarkStopsAtAnError(t *testing.T) {
	want := errors.New("cannot read")
	live, err := mark([]string{"a"}, func(n string) ([]string, error) {
		if n == "b" {
			return nil, want
		}
		return []string{"b"}, nil
	})
	if !errors.Is(err, want) || live != nil {
		t.Errorf("got %v, %v: what is not known must not look dead", live, err)
	}
}
