package build

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	registryclient "github.com/teu-dev/teu/registry"
)

// TestLyingImage builds on an image that gives other bytes for the layer of another image. A COPY --link
// needs none of them, so nobody notices; what is remembered of it must not become part of what is built
// on the honest image.
func TestLyingImage(t *testing.T) {
	host := serveRegistry(t)
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	res, _ := b.must(Options{Tags: []string{host + "/base:honest"}, Push: true}, "FROM scratch", "COPY f /f")
	honest := b.image(res).Manifest
	lie(t, host+"/base:lie", honest)

	other := newBench(t)
	other.write(map[string]string{"f": "text"})
	for _, tag := range []string{"lie", "honest"} {
		res, _ = other.must(Options{Tags: []string{host + "/app:" + tag}, Push: true}, "FROM "+host+"/base:"+tag, "COPY --link f /g")
	}
	if got, want := other.manifest(res).Layers[0].Digest, honest.Layers[0].Digest; got != want {
		t.Errorf("the layer of the base is %s, not %s", got, want)
	}
}

// lie pushes an image as name that differs from m in the bytes of its first layer only.
func lie(t *testing.T, name string, m ocispec.Manifest) {
	t.Helper()
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registryclient.New(registryclient.Options{}).Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	var other bytes.Buffer
	z := gzip.NewWriter(&other)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	m.Layers = append([]ocispec.Descriptor(nil), m.Layers...)
	m.Layers[0].Digest, m.Layers[0].Size = digest.FromBytes(other.Bytes()), int64(other.Len())
	if err := repo.Push(t.Context(), m.Layers[0], &other); err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := repo.Tag(t.Context(), d, "lie", data); err != nil {
		t.Fatal(err)
	}
}
