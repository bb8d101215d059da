package registry

import (
	"bytes"
	"fmt"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestManyLargeUploads has more of them at once than there are large buffers, in chunks that
// end anywhere.
func TestManyLargeUploads(t *testing.T) {
	c := serve(t)
	const uploads, size, chunk = maxLargeBuffers + 8, 2*largeBufferSize + 12345, largeBufferSize + bufferSize + 7
	var wg sync.WaitGroup
	for i := range uploads {
		blob := bytes.Repeat(fmt.Appendf(nil, "%03d\n", i), size/4+1)[:size]
		d := digest.FromBytes(blob)
		wg.Go(func() {
			a, err := c.try("POST", "/v2/a/blobs/uploads/", nil)
			location := a.header.Get("Location")
			for at := 0; at < size && err == nil; at += chunk {
				end := min(at+chunk, size)
				a, err = c.try("PATCH", location, bytes.NewReader(blob[at:end]), "Content-Range", fmt.Sprintf("%d-%d", at, end-1))
			}
			if err == nil {
				a, err = c.try("PUT", location+"?digest="+d.String(), nil)
			}
			if err != nil || a.status != 201 {
				t.Errorf("upload %d: got %d %s %v", i, a.status, a.body, err)
				return
			}
			if a, err := c.try("GET", "/v2/a/blobs/"+d.String(), nil); err != nil || !bytes.Equal(a.body, blob) {
				t.Errorf("blob %d came back different: %d bytes, %v", i, len(a.body), err)
			}
		})
	}
	wg.Wait()
}

// TestBuffers: a larger buffer keeps what the smaller one held, and only so many are lent.
func TestBuffers(t *testing.T) {
	var b buffers
	var lent []*[]byte
	for i := range maxLargeBuffers + maxBuffers + 20 {
		p := b.get()
		copy(*p, "kept")
		p = b.grow(b.grow(p))
		want := largeBufferSize
		if i >= maxLargeBuffers {
			want = bufferSize
		}
		if i >= maxLargeBuffers+maxBuffers {
			want = smallBufferSize
		}
		if len(*p) != want || string((*p)[:4]) != "kept" {
			t.Fatalf("buffer %d: got %d bytes, %q; want %d", i, len(*p), (*p)[:4], want)
		}
		lent = append(lent, p)
	}
	// Who has a small one gets what was put back meanwhile.
	b.put(lent[maxLargeBuffers])
	last := len(lent) - 1
	if lent[last] = b.grow(lent[last]); len(*lent[last]) != bufferSize {
		t.Errorf("got %d bytes, though one of %d was put back", len(*lent[last]), bufferSize)
	}
	for i, p := range lent {
		if i != maxLargeBuffers {
			b.put(p)
		}
	}
	if p := b.grow(b.get()); len(*p) != largeBufferSize {
		t.Errorf("got %d bytes, though all were put back", len(*p))
	}
}
