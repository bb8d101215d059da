package cache

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/statefile"
)

// TestRecoverForgetsWhatIsLost: after a power loss what was built and not synced is gone with its name,
// and what has blobs keeps its name.
func TestRecoverForgetsWhatIsLost(t *testing.T) {
	dir := t.TempDir()
	s := reopen(t, dir)
	src, images := source()
	unpin := hold(t, s)
	pulled, built := images[0], images[2]
	if _, err := s.Pull(t.Context(), src, pulled, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	// Not by Pull, which may sync meanwhile.
	img, err := content.Resolve(t.Context(), s.Keep(src), built, content.Host())
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
	if lost := reopen(t, dir).Lost(); len(lost) > 0 {
		t.Fatalf("in the same boot: %v", lost)
	}
	restart(t, dir)
	s = reopen(t, dir)
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
	if lost := reopen(t, dir).Lost(); len(lost) > 0 {
		t.Errorf("the second time: %v", lost)
	}
}

// TestRecoverKeepsWhatIsWhole: what was built and not synced stays if it is as it was made, and what a container stands on is
// unpacked again without anybody asking for it.
func TestRecoverKeepsWhatIsWhole(t *testing.T) {
	dir := t.TempDir()
	s := reopen(t, dir)
	unpin := hold(t, s)
	layers := map[string]string{}
	for _, name := range []string{"whole", "torn", "leased"} {
		layers[name] = build(t, s, name, "text of "+name)
		l, err := s.Layers.Seal(t.Context(), layers[name], nil)
		if err != nil {
			t.Fatal(err)
		}
		if name == "leased" { // no image has it
			if err := s.Lease(t.Context(), "built", Lease{Layers: []string{l.ID}}); err != nil {
				t.Fatal(err)
			}
			continue
		}
		img := ocispec.Image{Platform: content.Host(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.DiffID}}}
		config, err := content.PushJSON(t.Context(), s.Content, ocispec.MediaTypeImageConfig, img)
		if err != nil {
			t.Fatal(err)
		}
		blob := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.DiffID, Size: l.TarSize} // which is not here
		manifest, err := content.PushJSON(t.Context(), s.Content, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{blob}})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Images.Put(t.Context(), image.Image{Name: "docker.io/library/" + name + ":1", Target: manifest}); err != nil {
			t.Fatal(err)
		}
	}
	src, images := source()
	img, err := content.Resolve(t.Context(), s.Keep(src), images[0], content.Host())
	if err != nil {
		t.Fatal(err)
	}
	pulled, err := s.unpack(t.Context(), img, src, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Lease(t.Context(), "container", Lease{Manifest: img.Descriptor.Digest, Layers: pulled}); err != nil {
		t.Fatal(err)
	}
	idle := build(t, s, "idle", "in the build cache only")
	if _, err := s.Layers.Seal(t.Context(), idle, nil); err != nil {
		t.Fatal(err)
	}
	unpin()
	restart(t, dir)
	if err := os.Truncate(filepath.Join(dir, "root/layers", layers["torn"], "diff/torn"), 3); err != nil {
		t.Fatal(err)
	}
	s = reopen(t, dir)
	if want := []string{"docker.io/library/torn:1"}; !slices.Equal(s.Lost(), want) {
		t.Errorf("lost %v, want %v", s.Lost(), want)
	}
	there := append([]string{layers["whole"], layers["leased"]}, pulled...)
	for _, id := range append(there, layers["torn"], idle) {
		_, err := s.Layers.Get(id)
		if got, want := err == nil, slices.Contains(there, id); got != want {
			t.Errorf("layer %s: there %v, want %v: %v", id, got, want, err)
		}
	}
	for _, name := range []string{"whole", "leased"} {
		if synced, err := s.Layers.Synced(layers[name]); err != nil || !synced {
			t.Errorf("%s: synced %v, %v", name, synced, err)
		}
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}

func reopen(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// restart makes the store of another boot.
func restart(t *testing.T, dir string) {
	t.Helper()
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
