package engine

import (
	"bytes"
	"io"
	"net"
	"sync"
	"testing"
)

// TestReadersOfOneConnection: what came with a request is read once, by whichever of two. The race detector sees
// whether they disturb each other.
func TestReadersOfOneConnection(t *testing.T) {
	for range 100 {
		ours, theirs := net.Pipe()
		theirs.Close()
		h := &hijacked{Conn: ours, early: []byte("input")}
		var got [2]bytes.Buffer
		var both sync.WaitGroup
		for i := range got {
			both.Go(func() { io.Copy(&got[i], h) })
		}
		both.Wait()
		if all := got[0].String() + got[1].String(); all != "input" {
			t.Fatalf("%q was read", all)
		}
	}
}
