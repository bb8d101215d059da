package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/statefile"
)

// TestRecoverForgetsWhatIsLost: after a power loss what was built and not synced is gone with its name,
// and what has blobs keeps its name.
func TestRecoverForgetsWhatIsLost(t *testing.T) {
	dir := t.TempDir()
	open := func() *Store {
		s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	src, images := source()
	unpin := hold(t, s)
	pulled, built := images[0], images[2]
	if _, err := s.Pull(t.Context(), src, pulled, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	// Not by Pull, which may sync meanwhile.
	img, err := content.Resolve(t.Context(), &keeper{src, s.Content}, built, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.unpack(t.Context(), img, src, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers[1:] { // as after a build: layers have no blobs
		if err := s.Content.Delete(t.Context(), l.Digest); err != nil {
			t.Fatal(err)
		}
	}
	for name, d := range map[string]ocispec.Descriptor{"docker.io/library/pulled:1": pulled, "docker.io/library/built:1": built} {
		if err := s.Images.Put(t.Context(), image.Image{Name: name, Target: d}); err != nil {
			t.Fatal(err)
		}
	}
	unpin()
	if lost := open().Lost(); len(lost) > 0 {
		t.Fatalf("in the same boot: %v", lost)
	}
	// Another boot: neither the records nor the store are of this one.
	records, err := filepath.Glob(filepath.Join(dir, "root/layers/*/layer.json"))
	if err != nil || len(records) < 4 {
		t.Fatal(records, err)
	}
	for _, path := range append(records, filepath.Join(dir, "root/boot")) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, replaceBoot(t, data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open()
	if want := []string{"docker.io/library/built:1"}; !slices.Equal(s.Lost(), want) {
		t.Errorf("lost %v, want %v", s.Lost(), want)
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
	defer hold(t, s)()
	found, err := s.Lookup(t.Context(), "docker.io/library/pulled:1")
	if err != nil {
		t.Fatal(err)
	}
	img, err = content.Resolve(t.Context(), s.Content, found.Target, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unpack(t.Context(), img); err != nil {
		t.Errorf("the pulled image: %v", err)
	}
	if lost := open().Lost(); len(lost) > 0 {
		t.Errorf("the second time: %v", lost)
	}
}

// replaceBoot has data be of another boot.
func replaceBoot(t *testing.T, data []byte) []byte {
	t.Helper()
	boot, err := statefile.BootID()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.ReplaceAll(data, []byte(boot), []byte("00000000-0000-4000-8000-000000000000"))
}
