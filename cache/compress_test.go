package cache

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// build makes a layer as a RUN step does: of an upper directory.
func build(t *testing.T, s *Store, files ...string) (id string) {
	t.Helper()
	upper := s.path("layers", "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(upper+"/"+files[i], []byte(files[i+1]), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := s.Layers.Adopt(t.Context(), upper)
	if err != nil {
		t.Fatal(err)
	}
	return l.ID
}

func plainDigest(t *testing.T, s *Store, d ocispec.Descriptor) digest.Digest {
	t.Helper()
	r, err := s.Content.Fetch(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := content.Decompress(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	got, err := digest.FromReader(plain)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestCompressLayer(t *testing.T) {
	for _, mediaType := range []string{
		ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd, ocispec.MediaTypeImageLayer, content.MediaTypeDockerLayerGzip,
	} {
		t.Run(strings.ReplaceAll(mediaType, "/", "-"), func(t *testing.T) {
			s := openStore(t)
			defer hold(t, s)()
			id := build(t, s, "a", strings.Repeat("hello ", 100_000), "b", "2")
			d, err := s.CompressLayer(t.Context(), id, mediaType)
			if err != nil {
				t.Fatal(err)
			}
			l, err := s.Layers.Get(id)
			if err != nil || l.DiffID == "" {
				t.Fatalf("diffID %q, %v", l.DiffID, err)
			}
			if got := plainDigest(t, s, d); got != l.DiffID || d.MediaType != mediaType {
				t.Errorf("got %s of %s, want %s of %s", d.MediaType, got, mediaType, l.DiffID)
			}
			info, err := os.Stat(s.Content.Path(d.Digest))
			if err != nil {
				t.Fatal(err)
			}
			again, err := s.CompressLayer(t.Context(), id, mediaType)
			if err != nil || again.Digest != d.Digest {
				t.Errorf("again: %v, %v", again, err)
			}
			if after, err := os.Stat(s.Content.Path(d.Digest)); err != nil || !os.SameFile(info, after) {
				t.Errorf("it was compressed a second time: %v", err)
			}
		})
	}
}

func TestCompressLayerKeepsThePulledBlob(t *testing.T) {
	s, src := openStore(t), newMemory()
	defer hold(t, s)()
	manifest, blobs := src.image(content.Host(), tarOf("a", "1"))
	img, err := s.Pull(t.Context(), src, manifest, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	id := img.Config.RootFS.DiffIDs[0].Encoded()
	d, err := s.CompressLayer(t.Context(), id, ocispec.MediaTypeImageLayerGzip)
	if err != nil || d.Digest != blobs[0].Digest {
		t.Fatalf("got %v, %v, want %s as it was pulled", d, err, blobs[0].Digest)
	}
	z, err := s.CompressLayer(t.Context(), id, ocispec.MediaTypeImageLayerZstd)
	if err != nil || plainDigest(t, s, z) != img.Config.RootFS.DiffIDs[0] {
		t.Errorf("as zstd: %v, %v", z, err)
	}
}

func TestCompressLayerRefusals(t *testing.T) {
	s := openStore(t)
	id := build(t, s, "a", "1")
	for _, mediaType := range []string{"", "application/json", content.MediaTypeDockerForeignGzip} {
		if _, err := s.CompressLayer(t.Context(), id, mediaType); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want invalid argument", mediaType, err)
		}
	}
	absent := digest.FromString("absent").Encoded()
	if _, err := s.CompressLayer(t.Context(), absent, ocispec.MediaTypeImageLayerGzip); !errdefs.IsNotFound(err) {
		t.Errorf("absent layer: got %v, want not found", err)
	}
}

// TestCompressorsDependOnTheirInputAlone also writes in pieces of different sizes.
func TestCompressorsDependOnTheirInputAlone(t *testing.T) {
	data := make([]byte, 9<<20)
	rand.Read(data[:4<<20])
	copy(data[5<<20:], bytes.Repeat([]byte("some text that can be compressed "), 1<<15))
	for _, kind := range []string{"gzip", "zstd"} {
		var want digest.Digest
		for _, workers := range []int{1, 2, 3, 16, 64} {
			for _, piece := range []int{1 << 10, 32<<10 + 7, len(data)} {
				var out bytes.Buffer
				z, err := compressor(&out, kind, workers)
				if err != nil {
					t.Fatal(err)
				}
				for rest := data; len(rest) > 0; {
					n := min(piece, len(rest))
					if _, err := z.Write(rest[:n]); err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
				got := digest.FromBytes(out.Bytes())
				if want == "" {
					want = got
				}
				if got != want {
					t.Errorf("%s with %d workers and pieces of %d gives other bytes", kind, workers, piece)
				}
				plain, err := content.Decompress(t.Context(), &out)
				if err != nil {
					t.Fatal(err)
				}
				if back, err := io.ReadAll(plain); err != nil || !bytes.Equal(back, data) {
					t.Errorf("%s: does not come back, %v", kind, err)
				}
			}
		}
	}
}
