package image

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// BenchmarkAll lists many names, as a registry's host or a build machine has them.
func BenchmarkAll(b *testing.B) {
	s, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for i := range 5000 {
		if err := s.Put(b.Context(), Image{Name: fmt.Sprintf("docker.io/library/x:%d", i), Target: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(fmt.Sprint(i)), Size: 5}}); err != nil {
			b.Fatal(err)
		}
	}
	past := time.Now().Add(-time.Minute)
	if err := os.Chtimes(filepath.Join(s.dir, "names"), past, past); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		all, err := s.All(b.Context())
		if err != nil || len(all) != 5000 {
			b.Fatal(err)
		}
	}
}
