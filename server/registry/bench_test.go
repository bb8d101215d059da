package registry

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The benchmarks have client and server in two processes on one machine, as those of other
// registries in docs/benchmarks.md.

func benchServer(b *testing.B) *client {
	c := startProcess(b, b.TempDir()).client
	c.http.Transport.(*http.Transport).ReadBufferSize = 256 << 10
	return c
}

func BenchmarkGetManifest(b *testing.B) {
	c := benchServer(b)
	c.tagged("a", "x")
	b.SetParallelism(32)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if a, err := c.try("GET", "/v2/a/manifests/x", nil); err != nil || a.status != 200 {
				b.Error(a.status, err)
				return
			}
		}
	})
}

func BenchmarkGetBlob(b *testing.B) {
	for _, size := range []int{1 << 20, 100 << 20} {
		b.Run(fmt.Sprintf("%dMiB", size>>20), func(b *testing.B) {
			c := benchServer(b)
			path := "/v2/a/blobs/" + c.blob("a", randomBytes(size)).Digest.String()
			b.SetBytes(int64(size))
			b.SetParallelism(4)
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				buf := make([]byte, 256<<10)
				for pb.Next() {
					resp, err := c.http.Get(c.base + path)
					if err != nil {
						b.Error(err)
						return
					}
					n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, buf)
					resp.Body.Close()
					if err != nil || n != int64(size) {
						b.Error(n, err)
					}
				}
			})
		})
	}
}

// BenchmarkPushImage pushes images of a config and a layer of 10 kB, each with a tag of its
// own, from 64 clients.
func BenchmarkPushImage(b *testing.B) {
	c := benchServer(b)
	var count atomic.Int64
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			n := count.Add(1)
			if err := pushSmall(c, fmt.Sprintf("r%d", n%16), fmt.Sprintf("t%d", n)); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

func pushSmall(c *client, repo, tag string) error {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	for _, data := range [][]byte{randomBytes(1000), randomBytes(10_000)} {
		d := digest.FromBytes(data)
		a, err := c.try("POST", "/v2/"+repo+"/blobs/uploads/", nil)
		if err != nil {
			return err
		}
		if a, err = c.try("PUT", a.header.Get("Location")+"?digest="+d.String(), bytes.NewReader(data)); err != nil || a.status != 201 {
			return fmt.Errorf("%d %s %w", a.status, a.body, err)
		}
		m.Config, m.Layers = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: d, Size: int64(len(data))}, append(m.Layers, m.Config)
	}
	m.Layers = m.Layers[1:]
	a, err := c.try("PUT", "/v2/"+repo+"/manifests/"+tag, bytes.NewReader(encode(c.t, m)), "Content-Type", m.MediaType)
	if err != nil || a.status != 201 {
		return fmt.Errorf("%d %s %w", a.status, a.body, err)
	}
	return nil
}

// BenchmarkUpload sends a blob of 100 MiB by one PUT, and in chunks of 10.
func BenchmarkUpload(b *testing.B) {
	for name, chunk := range map[string]int{"PUT": 100 << 20, "chunks": 10 << 20} {
		b.Run(name, func(b *testing.B) {
			c := benchServer(b)
			data := randomBytes(100 << 20)
			b.SetBytes(int64(len(data)))
			for i := 0; b.Loop(); i++ {
				data[0], data[1] = byte(i), byte(i>>8)
				b.StopTimer()
				d := digest.FromBytes(data)
				b.StartTimer()
				location := sendChunks(c, c.start("a"), data[:len(data)-chunk], chunk)
				c.want(c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(data[len(data)-chunk:])), 201, "")
			}
		})
	}
}

// randomBytes cannot be compressed, and has not been pushed before.
func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
