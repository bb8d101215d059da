package cache

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// memory is a registry in memory. Faults are hooks.
type memory struct {
	mu      sync.Mutex
	blobs   map[digest.Digest][]byte
	fetched map[digest.Digest]int
	damage  func(d ocispec.Descriptor, r io.Reader) io.Reader // nil: none
}

func newMemory() *memory {
	return &memory{blobs: map[digest.Digest][]byte{}, fetched: map[digest.Digest]int{}}
}

func (m *memory) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	m.fetched[d.Digest]++
	var r io.Reader = bytes.NewReader(data)
	if m.damage != nil {
		r = m.damage(d, r)
	}
	return content.Verify(io.NopCloser(r), d)
}

func (m *memory) put(mediaType string, data []byte) ocispec.Descriptor {
	m.mu.Lock()
	defer m.mu.Unlock()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	m.blobs[d.Digest] = data
	return d
}

func (m *memory) putJSON(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return m.put(mediaType, data)
}

func (m *memory) times(d ocispec.Descriptor) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fetched[d.Digest]
}

// tarOf makes a layer of the files given as path, content pairs.
func tarOf(files ...string) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := 0; i < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Mode: 0o644, Size: int64(len(files[i+1])), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		io.WriteString(w, files[i+1])
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return buf.Bytes()
}

func gzipped(data []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(data)
	w.Close()
	return buf.Bytes()
}

func zstded(data []byte) []byte {
	w, err := zstd.NewWriter(nil)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll(data, nil)
}

// image puts an image of plain layers, gzipped, and returns its manifest.
func (m *memory) image(p ocispec.Platform, layers ...[]byte) (manifest ocispec.Descriptor, blobs []ocispec.Descriptor) {
	config := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(l))
		blobs = append(blobs, m.put(ocispec.MediaTypeImageLayerGzip, gzipped(l)))
	}
	manifest = m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    m.putJSON(ocispec.MediaTypeImageConfig, config),
		Layers:    blobs,
	})
	return manifest, blobs
}

func (m *memory) index(entries ...ocispec.Descriptor) ocispec.Descriptor {
	return m.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
}

func openStore(t *testing.T) *Store {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func hold(t *testing.T, s *Store) (unpin func()) {
	t.Helper()
	u, err := s.Pin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sync.OnceFunc(func() {
		if err := u(); err != nil {
			t.Error(err)
		}
	})
}
