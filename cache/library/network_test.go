package library

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// badNetwork forwards connections to a server and cuts some.
type badNetwork struct {
	host  string       // the server's
	limit int64        // a connection is cut after so many bytes in one direction
	cuts  atomic.Int64 // so many connections
	moved atomic.Int64 // bytes in both directions
}

func (n *badNetwork) serve(t *testing.T) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go n.forward(c)
		}
	}()
	return ln.Addr().String()
}

func (n *badNetwork) forward(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", n.host)
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	pipe := func(to, from net.Conn) {
		counted := io.TeeReader(from, n)
		if _, err := io.CopyN(to, counted, n.limit); err == nil && n.cuts.Add(-1) < 0 {
			io.Copy(to, counted)
		}
		ended <- struct{}{}
	}
	go pipe(server, client)
	go pipe(client, server)
	<-ended
}

// Write counts the bytes of p.
func (n *badNetwork) Write(p []byte) (int, error) {
	n.moved.Add(int64(len(p)))
	return len(p), nil
}

// A push and a pull of a blob go on where the network broke, with our own registry:
// nothing that has arrived is sent again.
func TestThroughABadNetwork(t *testing.T) {
	const size, limit = 8 << 20, 3 << 20
	ctx := t.Context()
	l := open(t)
	network := &badNetwork{host: serve(t), limit: limit}
	data := make([]byte, size)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(data)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(data), Size: size}
	if err := l.Store.Content.Push(ctx, d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	repo, err := l.Registry.Repository(tagged(t, network.serve(t)+"/x:1"))
	if err != nil {
		t.Fatal(err)
	}
	repo.Source = l.Store.Content
	check := func(what string) {
		t.Helper()
		if cuts := network.cuts.Load(); cuts > 0 {
			t.Errorf("%s: %d connections were not cut", what, cuts)
		}
		// What was on its way when a connection was cut is lost.
		moved := network.moved.Swap(0)
		if moved > size+1<<20 {
			t.Errorf("%s of %d bytes moved %d", what, size, moved)
		}
	}

	network.cuts.Store(2)
	src, err := l.Store.Content.Fetch(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	if err := repo.Push(ctx, d, src); err != nil {
		t.Fatalf("push: %v", err)
	}
	check("push")

	network.cuts.Store(2)
	got, err := repo.Fetch(ctx, d)
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	if b, err := io.ReadAll(got); err != nil || !bytes.Equal(b, data) {
		t.Errorf("pull: %d bytes, %v", len(b), err)
	}
	check("pull")
}
