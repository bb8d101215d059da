//go:build !front && !porter

package main

import (
	"slices"
	"testing"
)

func TestNaturally(t *testing.T) {
	want := []string{"1", "2a", "10", "a", "a-b", "a_b", "net2", "net10", "net10b", "net-1", "netz", "z"}
	got := slices.Clone(want)
	slices.Sort(got)
	slices.SortFunc(got, naturally)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	for _, equal := range []string{"", "a", "7", "a7b"} {
		if order := naturally(equal, equal); order != 0 {
			t.Errorf("%q: %d", equal, order)
		}
	}
}
