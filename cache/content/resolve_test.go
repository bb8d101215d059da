package content

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestResolve(t *testing.T) {
	unlabelled := func(d ocispec.Descriptor) ocispec.Descriptor { d.Platform = nil; return d }
	labelled := func(d ocispec.Descriptor, p string) ocispec.Descriptor {
		platform := parsePlatform(p)
		d.Platform = &platform
		return d
	}
	attestation := func(m *memory) ocispec.Descriptor { return m.image("unknown/unknown", "statement") }
	for name, test := range map[string]struct {
		root func(m *memory) ocispec.Descriptor
		want string // platform asked for
		got  string // layer of the image, or the class of the error
	}{
		"manifest":          {func(m *memory) ocispec.Descriptor { return m.image("linux/amd64", "A") }, "linux/amd64", "A"},
		"manifest of other": {func(m *memory) ocispec.Descriptor { return m.image("linux/s390x", "A") }, "linux/amd64", "A"},
		"index": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/arm64", "B"), m.image("linux/amd64", "A"))
		}, "linux/amd64", "A"},
		"arm64 is v8": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/arm/v7", "7"), m.image("linux/arm64/v8", "8"))
		}, "linux/arm64", "8"},
		"best variant": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/amd64", "1"), m.image("linux/amd64/v3", "3"), m.image("linux/amd64/v2", "2"), m.image("linux/amd64/v4", "4"))
		}, "linux/amd64/v3", "3"},
		"falls back down": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/amd64/v4", "4"), m.image("linux/amd64", "1"))
		}, "linux/amd64/v3", "1"},
		"first of equals": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/amd64", "first"), m.image("linux/amd64", "second"))
		}, "linux/amd64", "first"},
		"attestation by platform": {func(m *memory) ocispec.Descriptor {
			return m.index(attestation(m), m.image("linux/amd64", "A"))
		}, "linux/amd64", "A"},
		"attestation by annotation": {func(m *memory) ocispec.Descriptor {
			d := m.image("linux/amd64", "statement")
			d.Annotations = map[string]string{annotationReferenceType: "attestation-manifest"}
			return m.index(d, m.image("linux/amd64", "A"))
		}, "linux/amd64", "A"},
		"nested": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/arm64", "B"), m.index(m.index(m.image("linux/amd64", "A"))))
		}, "linux/amd64", "A"},
		"nested, labelled as other": {func(m *memory) ocispec.Descriptor {
			return m.index(labelled(m.index(m.image("linux/amd64", "no")), "linux/s390x"), m.image("linux/amd64", "A"))
		}, "linux/amd64", "A"},
		"without labels": {func(m *memory) ocispec.Descriptor {
			return m.index(unlabelled(m.image("linux/arm64", "B")), unlabelled(m.image("linux/amd64", "A")))
		}, "linux/amd64", "A"},
		"a label before none": {func(m *memory) ocispec.Descriptor {
			return m.index(unlabelled(m.image("linux/amd64", "B")), m.image("linux/amd64", "A"))
		}, "linux/amd64", "A"},
		"artifacts in between": {func(m *memory) ocispec.Descriptor {
			artifact := m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				ArtifactType: "application/x", Config: m.put(ocispec.MediaTypeEmptyJSON, "{}"),
			})
			return m.index(artifact, m.put("application/x", "?"), unlabelled(m.image("linux/amd64", "A")))
		}, "linux/amd64", "A"},
		"none": {func(m *memory) ocispec.Descriptor {
			return m.index(m.image("linux/arm64", "B"), attestation(m))
		}, "linux/amd64", "not found"},
		"empty index": {func(m *memory) ocispec.Descriptor { return m.index() }, "linux/amd64", "not found"},
		"too deep": {func(m *memory) ocispec.Descriptor {
			d := m.image("linux/amd64", "A")
			for range 10 {
				d = m.index(d)
			}
			return d
		}, "linux/amd64", "exhausted"},
		"manifest is missing": {func(m *memory) ocispec.Descriptor {
			d := m.image("linux/amd64", "A")
			delete(m.blobs, d.Digest)
			return m.index(d)
		}, "linux/amd64", "not found"},
		"artifact": {func(m *memory) ocispec.Descriptor {
			return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				ArtifactType: "application/x", Config: m.put(ocispec.MediaTypeEmptyJSON, "{}"),
			})
		}, "linux/amd64", "precondition"},
		"helm chart": {func(m *memory) ocispec.Descriptor {
			return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Config: m.put("application/vnd.cncf.helm.config.v1+json", `{"name":"x"}`),
				Layers: []ocispec.Descriptor{m.put("application/vnd.cncf.helm.chart.content.v1.tar+gzip", "x")},
			})
		}, "linux/amd64", "precondition"},
		"diffIDs too few": {func(m *memory) ocispec.Descriptor {
			return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Config: m.put(ocispec.MediaTypeImageConfig, `{"rootfs":{"diff_ids":[]}}`),
				Layers: []ocispec.Descriptor{m.put(ocispec.MediaTypeImageLayer, "x")},
			})
		}, "linux/amd64", "invalid"},
		"diffID is a path": {func(m *memory) ocispec.Descriptor {
			return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Config: m.put(ocispec.MediaTypeImageConfig, `{"rootfs":{"diff_ids":["sha256:../../../x"]}}`),
				Layers: []ocispec.Descriptor{m.put(ocispec.MediaTypeImageLayer, "x")},
			})
		}, "linux/amd64", "invalid"},
		"config too large": {func(m *memory) ocispec.Descriptor {
			return m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: someDigest, Size: MaxConfig + 1},
			})
		}, "linux/amd64", "exhausted"},
		"schema 1": {func(m *memory) ocispec.Descriptor {
			return m.put(mediaTypeDockerSchema1Signed, `{"schemaVersion":1}`)
		}, "linux/amd64", "unsupported"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			img, err := Resolve(t.Context(), m, test.root(m), parsePlatform(test.want))
			var got string
			switch {
			case errdefs.IsNotFound(err):
				got = "not found"
			case errdefs.IsInvalidArgument(err):
				got = "invalid"
			case errdefs.IsFailedPrecondition(err):
				got = "precondition"
			case errdefs.IsResourceExhausted(err):
				got = "exhausted"
			case errdefs.IsNotImplemented(err):
				got = "unsupported"
			case err != nil:
				t.Fatal(err)
			default:
				got = string(m.blobs[img.Manifest.Layers[0].Digest])
				if digest.FromBytes(img.RawConfig) != img.Manifest.Config.Digest {
					t.Error("RawConfig is not the config")
				}
			}
			if got != test.got {
				t.Errorf("got %s, %v, want %s", got, err, test.got)
			}
		})
	}
}

func TestResolveSaysWhatThereIs(t *testing.T) {
	m := newMemory()
	root := m.index(m.image("linux/arm64", "B"), m.image("linux/s390x", "C"), m.image("unknown/unknown", "D"))
	_, err := Resolve(t.Context(), m, root, parsePlatform("linux/amd64"))
	if err == nil || !strings.Contains(err.Error(), "linux/amd64, only for linux/arm64, linux/s390x") {
		t.Errorf("got %v", err)
	}
}

func TestResolveReadsNoMoreThanItMust(t *testing.T) {
	m := newMemory()
	root := m.index(m.image("linux/arm64", "B"), m.image("linux/amd64", "A"), m.image("linux/s390x", "C"))
	if _, err := Resolve(t.Context(), m, root, parsePlatform("linux/amd64")); err != nil {
		t.Fatal(err)
	}
	if len(m.fetched) != 3 {
		t.Errorf("%d blobs were fetched, want index, manifest and config", len(m.fetched))
	}
}
