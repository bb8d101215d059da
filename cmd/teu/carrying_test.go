//go:build !front

package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestCarried: the front knows what the porter does.
func TestCarried(t *testing.T) {
	var got []string
	for _, c := range carryingCommands() {
		got = append(got, c.name)
	}
	if diff := cmp.Diff(got, carried()); diff != "" {
		t.Errorf("carryingCommands and carried differ (-one +other):\n%s", diff)
	}
}
