//go:build !front

package main

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// TestIndentDeep: a document of many values far down, whose tabs would fill the memory, is refused.
func TestIndentDeep(t *testing.T) {
	deep := func(n int, inner string) []byte {
		return []byte(strings.Repeat("[", n) + inner + strings.Repeat("]", n))
	}
	if _, err := indented(deep(9000, strings.Repeat("1,", 1<<20)+"1")); !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v", err)
	}
	if text, err := indented(deep(100, `"[[[\"[[["`)); err != nil || !strings.Contains(text, "\t\"[[[\\\"[[[\"\n") {
		t.Errorf("got %q, %v", text, err)
	}
	if text, err := indented([]byte("[" + strings.Repeat("[],", 200) + "1]")); err != nil || text == "" {
		t.Errorf("got %v", err)
	}
}
