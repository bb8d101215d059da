package network

import (
	"fmt"
	"testing"
)

// BenchmarkAttach is a container's way onto the bridge and off it again.
func BenchmarkAttach(b *testing.B) {
	m := New(b.TempDir())
	for i := 0; b.Loop(); i++ {
		id := fmt.Sprint("c", i)
		if _, err := m.Attach(b.Context(), id, Options{}); err != nil {
			b.Fatal(err)
		}
		if err := m.Detach(b.Context(), id); err != nil {
			b.Fatal(err)
		}
	}
}
