package remotecache

import (
	"bytes"
	"encoding/json"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	// artifactType tells the manifests of entries from others. Its version changes with the form.
	artifactType = "application/vnd.teu.buildcache.v1+json"
	// annotationEntry holds the Entry as JSON.
	annotationEntry = "dev.teu.buildcache.entry"

	maxManifest    = 4 << 20 // the usual limit of registries
	maxOutputs     = 64
	maxPlain       = 2    // of the content and of the definition
	maxLayers      = 1000 // of all outputs; overlayfs takes 500
	maxDescription = 4 << 10
	maxBlob        = 1 << 40
)

func emptyJSON() io.Reader { return bytes.NewReader(ocispec.DescriptorEmptyJSON.Data) }

// encode makes the manifest of e.
func encode(e Entry) (ocispec.Descriptor, []byte, error) {
	if len(e.Description) > maxDescription {
		e.Description = e.Description[:maxDescription]
	}
	if err := e.check(); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	text, err := json.Marshal(e)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return manifestOf(artifactType, e.blobs(), map[string]string{annotationEntry: string(text)})
}

// manifestOf makes a manifest that keeps blobs.
func manifestOf(artifact string, blobs []ocispec.Descriptor, annotations map[string]string) (ocispec.Descriptor, []byte, error) {
	empty := ocispec.DescriptorEmptyJSON
	empty.Data = nil // some registries do not know the field
	if len(blobs) == 0 {
		blobs = []ocispec.Descriptor{empty} // image-spec v1.1, manifest.md, "Guidance for an Empty Descriptor"
	}
	data, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact,
		Config: empty, Layers: blobs, Annotations: annotations,
	})
	if err == nil && len(data) > maxManifest {
		err = invalidf("a cache entry of %d bytes", len(data))
	}
	return ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact, Digest: digest.FromBytes(data), Size: int64(len(data)),
	}, data, err
}

// blobs returns the blobs of all layers, each once.
func (e Entry) blobs() (list []ocispec.Descriptor) {
	for _, layers := range e.Outputs {
		for _, l := range layers {
			same := func(d ocispec.Descriptor) bool { return l.Blob.Digest == d.Digest }
			if l.Blob != nil && !slices.ContainsFunc(list, same) {
				list = append(list, *l.Blob)
			}
		}
	}
	return list
}

// decode reads the manifest of an entry.
func decode(data []byte) (e Entry, err error) {
	m, err := decodeManifest(data, artifactType)
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal([]byte(m.Annotations[annotationEntry]), &e); err != nil {
		return Entry{}, invalidf("it says nothing that can be read: %v", err)
	}
	if err := e.check(); err != nil {
		return Entry{}, err
	}
	for _, b := range e.blobs() {
		same := func(d ocispec.Descriptor) bool { return d.Digest == b.Digest && d.Size == b.Size }
		if !slices.ContainsFunc(m.Layers, same) {
			return Entry{}, invalidf("its blob %s is not its manifest's", b.Digest)
		}
	}
	return e, nil
}

func decodeManifest(data []byte, artifact string) (m ocispec.Manifest, err error) {
	if len(data) > maxManifest {
		return m, invalidf("it has %d bytes", len(data))
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, invalidf("it is no manifest: %v", err)
	}
	if m.ArtifactType != artifact {
		return m, invalidf("it is of the type %.100q", m.ArtifactType)
	}
	return m, nil
}

// check refuses what no honest entry says. Digests are used in names of files and in requests.
func (e Entry) check() error {
	if err := checkDigest(e.Canonical); err != nil {
		return err
	}
	if len(e.Outputs) == 0 || len(e.Outputs) > maxOutputs || len(e.Description) > maxDescription {
		return invalidf("it has %d outputs and a description of %d bytes", len(e.Outputs), len(e.Description))
	}
	if len(e.Plain) > maxPlain {
		return invalidf("it has %d plain keys", len(e.Plain))
	}
	for _, key := range e.Plain {
		if err := checkDigest(key); err != nil {
			return err
		}
	}
	layers := 0
	for _, list := range e.Outputs {
		if layers += len(list); layers > maxLayers {
			return invalidf("it has more than %d layers", maxLayers)
		}
		for _, l := range list {
			if err := l.check(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l Layer) check() error {
	if err := checkDigest(l.DiffID); err != nil || l.Blob == nil {
		return err
	}
	if !content.IsLayer(l.Blob.MediaType) || content.IsForeign(l.Blob.MediaType) || l.Blob.Size < 0 || l.Blob.Size > maxBlob {
		return invalidf("it has a layer of %d bytes and the type %.100q", l.Blob.Size, l.Blob.MediaType)
	}
	if len(l.Blob.URLs) > 0 || len(l.Blob.Data) > 0 {
		return invalidf("its layers are elsewhere")
	}
	return checkDigest(l.Blob.Digest)
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil || d.Algorithm() != digest.SHA256 {
		return invalidf("%.100q is no digest", string(d))
	}
	return nil
}
