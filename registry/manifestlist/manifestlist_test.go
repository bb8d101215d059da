package manifestlist

import (
	"bytes"
	"encoding/json"
	"io"
	"log"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
)

func open(t *testing.T) (*Lists, string) {
	t.Helper()
	s := httptest.NewServer(ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return &Lists{Dir: t.TempDir(), Registry: registry.New(registry.Options{})}, strings.TrimPrefix(s.URL, "http://")
}

// image pushes an image to name and returns its digest.
func image(t *testing.T, l *Lists, name string, p ocispec.Platform, manifestType string) digest.Digest {
	t.Helper()
	push, tag := pusher(t, l, name)
	m := ocispec.Manifest{MediaType: manifestType, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	m.Config, _ = push(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, Author: name, RootFS: ocispec.RootFS{Type: "layers"}})
	d, data := push(manifestType, m)
	tag(d, data)
	return d.Digest
}

// pusher returns what pushes documents to the repository of name, and what gives name to one of them.
func pusher(t *testing.T, l *Lists, name string) (push func(string, any) (ocispec.Descriptor, []byte), tag func(ocispec.Descriptor, []byte)) {
	t.Helper()
	ref, err := parse(name)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := l.Registry.Repository(ref)
	if err != nil {
		t.Fatal(err)
	}
	push = func(mediaType string, v any) (ocispec.Descriptor, []byte) {
		data, err := json.Marshal(v)
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err == nil {
			err = repo.Push(t.Context(), d, bytes.NewReader(data))
		}
		if err != nil {
			t.Fatal(err)
		}
		return d, data
	}
	return push, func(d ocispec.Descriptor, data []byte) {
		if err := repo.Tag(t.Context(), d, tagOrDigest(ref), data); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLifeOfAList(t *testing.T) {
	for _, manifestType := range []string{ocispec.MediaTypeImageManifest, content.MediaTypeDockerManifest} {
		l, host := open(t)
		amd := ocispec.Platform{OS: "linux", Architecture: "amd64"}
		arm := ocispec.Platform{OS: "linux", Architecture: "arm"}
		a := image(t, l, host+"/app:amd", amd, manifestType)
		b := image(t, l, host+"/elsewhere:arm", arm, manifestType)
		name, err := l.Create(t.Context(), host+"/app", []string{host + "/app:amd"}, CreateOptions{})
		if err != nil || name != host+"/app:latest" {
			t.Fatalf("%s, %v", name, err)
		}
		if _, err := l.Create(t.Context(), host+"/app", []string{host + "/elsewhere:arm"}, CreateOptions{}); !errdefs.IsAlreadyExists(err) {
			t.Errorf("again: %v", err)
		}
		if _, err := l.Create(t.Context(), host+"/app", []string{host + "/elsewhere:arm"}, CreateOptions{Amend: true}); err != nil {
			t.Error(err)
		}
		if err := l.Annotate(t.Context(), host+"/app", host+"/elsewhere:arm", Annotation{Variant: "v7", OSFeatures: []string{"x", "x"}}); err != nil {
			t.Error(err)
		}
		var pushed []digest.Digest
		d, err := l.Push(t.Context(), host+"/app", PushOptions{Purge: true, Pushed: func(_ reference.Named, d digest.Digest) { pushed = append(pushed, d) }})
		if err != nil || !cmp.Equal(pushed, []digest.Digest{a, b}) {
			t.Fatalf("pushed %v, %v", pushed, err)
		}
		raw, err := l.Raw(t.Context(), host+"/app")
		if err != nil || digest.FromBytes(raw) != d {
			t.Errorf("the registry has %s, %v", raw, err)
		}
		all, err := l.Remote(t.Context(), host+"/app")
		arm.Variant, arm.OSFeatures = "v7", []string{"x"}
		if err != nil || len(all) != 2 || !cmp.Equal(*all[0].Descriptor.Platform, amd) || !cmp.Equal(*all[1].Descriptor.Platform, arm) {
			t.Errorf("%v, %+v", err, all)
		}
		if oci := manifestType == ocispec.MediaTypeImageManifest; oci != strings.Contains(string(raw), ocispec.MediaTypeImageIndex) || oci != (all[0].OCIManifest != nil) {
			t.Errorf("of images of %s it made %s", manifestType, raw)
		}
		if _, err := l.Get(host + "/app"); !errdefs.IsNotFound(err) {
			t.Errorf("after --purge: %v", err)
		}
	}
}

// TestAttestation: a list may have entries that are no images.
func TestAttestation(t *testing.T) {
	l, host := open(t)
	amd := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	img := image(t, l, host+"/app:plain", amd, ocispec.MediaTypeImageManifest)
	push, tag := pusher(t, l, host+"/app:1")
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.docker.attestation.manifest.v1+json", Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	m.Config, _ = push(ocispec.MediaTypeEmptyJSON, struct{}{})
	attestation, _ := push(ocispec.MediaTypeImageManifest, m)
	unknown := ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Platform = &unknown
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{{Digest: img, MediaType: ocispec.MediaTypeImageManifest, Platform: &amd}, attestation}}
	index.SchemaVersion = 2
	tag(push(ocispec.MediaTypeImageIndex, index))
	all, err := l.Remote(t.Context(), host+"/app:1")
	if err != nil || len(all) != 2 || !cmp.Equal(all[1].Descriptor.Platform, &unknown) || all[1].Descriptor.Digest != attestation.Digest {
		t.Errorf("%v, %+v", err, all)
	}
	if _, err := l.Create(t.Context(), host+"/x", []string{host + "/app:1"}, CreateOptions{}); err == nil || err.Error() != host+"/app:1 is a manifest list" {
		t.Errorf("a list of it: %v", err)
	}
	alone := host + "/app@" + attestation.Digest.String()
	if _, err := l.Create(t.Context(), host+"/x", []string{alone}, CreateOptions{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a list of an attestation: %v", err)
	}
}

func TestRefusals(t *testing.T) {
	l, host := open(t)
	image(t, l, host+"/app:ok", ocispec.Platform{OS: "linux", Architecture: "amd64"}, ocispec.MediaTypeImageManifest)
	image(t, l, host+"/app:none", ocispec.Platform{}, ocispec.MediaTypeImageManifest)
	create := func(name string, images ...string) error {
		_, err := l.Create(t.Context(), name, images, CreateOptions{})
		return err
	}
	if err := create(host+"/list", host+"/app:ok"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Push(t.Context(), host+"/list", PushOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := create(host+"/bare", host+"/app:none"); err != nil {
		t.Fatal(err)
	}
	_, bare := l.Push(t.Context(), host+"/bare", PushOptions{})
	_, nowhere := l.Push(t.Context(), host+"/nowhere", PushOptions{})
	for _, tt := range []struct {
		err  error
		text string
	}{
		{create(host+"/x", host+"/app:missing"), "No such manifest: " + host + "/app:missing"},
		{create(host+"/x", host+"/list"), host + "/list is a manifest list"},
		{create("Bad", host+"/app:ok"), "error parsing name for manifest list Bad: invalid reference format: repository name (library/Bad) must be lowercase: invalid argument"},
		{l.Annotate(t.Context(), host+"/list", host+"/other", Annotation{}), "manifest for image " + host + "/other does not exist in " + host + "/list"},
		{l.Annotate(t.Context(), host+"/x", host+"/app:ok", Annotation{}), "manifest for image " + host + "/app:ok does not exist in " + host + "/x"},
		{l.Annotate(t.Context(), host+"/list", host+"/app:ok", Annotation{Architecture: "x86_64"}), "manifest entry for image has unsupported os/arch combination: linux/x86_64"},
		{bare, "manifest " + host + "/app:none must have an OS and Architecture to be pushed to a registry"},
		{nowhere, "No such manifest: " + host + "/nowhere:latest"},
		{l.Remove(host + "/x"), "No such manifest: " + host + "/x:latest"},
	} {
		if tt.err == nil || tt.err.Error() != tt.text {
			t.Errorf("got %v, want %s", tt.err, tt.text)
		}
	}
}

// TestManyAmend adds to one list from many sides: nothing is lost.
func TestManyAmend(t *testing.T) {
	l, host := open(t)
	var wg sync.WaitGroup
	for _, architecture := range []string{"amd64", "arm64", "riscv64", "s390x", "ppc64le", "386"} {
		name := host + "/app:" + architecture
		image(t, l, name, ocispec.Platform{OS: "linux", Architecture: architecture}, ocispec.MediaTypeImageManifest)
		wg.Go(func() {
			if _, err := l.Create(t.Context(), host+"/app:all", []string{name}, CreateOptions{Amend: true}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if d, err := l.Get(host + "/app:all"); err != nil || len(d.Entries) != 6 {
		t.Errorf("%d entries, %v", len(d.Entries), err)
	}
}
