package content

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/coldjson"
)

const (
	// MaxManifest is the largest manifest or index that is read, in bytes. OCI distribution-spec
	// v1.1, "Pushing Manifests": registries should take 4 MiB.
	MaxManifest = 4 << 20
	// MaxConfig is the largest image config that is read, in bytes.
	MaxConfig = 8 << 20

	// maxValues is what Unmarshal takes: more than an index has that fills its 4 MiB with platforms, the shortest there are.
	maxValues = 1 << 18
)

// Unmarshal is json.Unmarshal of a manifest, index or config, whoever wrote it. One of more values than an image needs is
// an errdefs.ErrResourceExhausted: as "{}," each takes three bytes there, and a hundred and more in memory.
func Unmarshal(data []byte, v any) error {
	if values, _ := Measure(data); values > maxValues {
		return fmt.Errorf("it has more than %d values: %w", maxValues, errdefs.ErrResourceExhausted)
	}
	return coldjson.Unmarshal(data, v)
}

// Measure counts the values of a JSON document, about, and how deep they are in each other.
func Measure(data []byte) (values, depth int) {
	quoted, at := false, 0
	for i := 0; i < len(data); i++ {
		switch c := data[i]; {
		case c == '"':
			quoted = !quoted
		case quoted:
			if c == '\\' {
				i++
			}
		case c == ',':
			values++
		case c == '{' || c == '[':
			values++
			at++
			depth = max(depth, at)
		case c == '}' || c == ']':
			at--
		}
	}
	return values, depth
}

// ReadAll returns the bytes of a manifest or another small blob, at most 4 MiB.
func ReadAll(ctx context.Context, f Fetcher, d ocispec.Descriptor) ([]byte, error) {
	return readAll(ctx, f, d, MaxManifest)
}

func readAll(ctx context.Context, f Fetcher, d ocispec.Descriptor, limit int64) (_ []byte, err error) {
	if err := tooLarge(d, limit); err != nil {
		return nil, err
	}
	r, err := f.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	// One byte more, so that the reader gets to its end and to its verification.
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", d.Digest, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than the %d bytes allowed: %w", d.Digest, limit, errdefs.ErrResourceExhausted)
	}
	return data, nil
}

// A document is a manifest or an index; one of the two is set.
type document struct {
	manifest *ocispec.Manifest
	index    *ocispec.Index
}

// kinds are the fields that tell kinds of documents apart.
type kinds struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Manifests     json.RawMessage `json:"manifests"`
	Layers        json.RawMessage `json:"layers"`
	Config        json.RawMessage `json:"config"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// parse reads a manifest or index. mediaType is what its descriptor says; if that is neither's,
// the document is asked.
//
// Bytes that can be read as both kinds would be one image to us and another to the next tool
// (CVE-2021-41190), so they are refused, and so is a document that contradicts its descriptor.
func parse(mediaType string, data []byte) (document, error) {
	if isSchema1(mediaType) {
		return document{}, errSchema1
	}
	var probe kinds
	if err := json.Unmarshal(data, &probe); err != nil {
		return document{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	known := IsIndex(mediaType) || IsManifest(mediaType)
	switch {
	case probe.SchemaVersion == 1 || isSchema1(probe.MediaType) || probe.FSLayers != nil:
		return document{}, errSchema1
	case probe.Manifests != nil && (probe.Layers != nil || probe.Config != nil):
		return document{}, fmt.Errorf("it is a manifest and an index at the same time: %w", errdefs.ErrInvalidArgument)
	case known && probe.MediaType != "" && probe.MediaType != mediaType:
		return document{}, fmt.Errorf("its media type is %q, its descriptor says %q: %w", probe.MediaType, mediaType, errdefs.ErrInvalidArgument)
	case !known:
		mediaType = probe.MediaType
	}
	if IsIndex(mediaType) || !IsManifest(mediaType) && probe.Manifests != nil {
		if probe.Layers != nil || probe.Config != nil {
			return document{}, fmt.Errorf("it is called an index, but is a manifest: %w", errdefs.ErrInvalidArgument)
		}
		return parseIndex(data)
	}
	if IsManifest(mediaType) || probe.Config != nil {
		if probe.Manifests != nil {
			return document{}, fmt.Errorf("it is called a manifest, but is an index: %w", errdefs.ErrInvalidArgument)
		}
		return parseManifest(data)
	}
	return document{}, fmt.Errorf("media type %q is no image's: %w", mediaType, errdefs.ErrInvalidArgument)
}

var errSchema1 = fmt.Errorf("it is in Docker's image format of before 2016 (schema 1), which teu does not read; "+
	"push it again with a current tool: %w", errdefs.ErrNotImplemented)

func parseIndex(data []byte) (document, error) {
	var index ocispec.Index
	if err := Unmarshal(data, &index); err != nil {
		return document{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	doc := document{index: &index}
	return doc, doc.validate()
}

func parseManifest(data []byte) (document, error) {
	var manifest ocispec.Manifest
	if err := Unmarshal(data, &manifest); err != nil {
		return document{}, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	doc := document{manifest: &manifest}
	return doc, doc.validate()
}

// children are what the document refers to and cannot do without.
func (d document) children() []ocispec.Descriptor {
	if d.index != nil {
		return d.index.Manifests
	}
	return append([]ocispec.Descriptor{d.manifest.Config}, d.manifest.Layers...)
}

// validate refuses descriptors that nothing can be fetched by.
func (d document) validate() error {
	for _, child := range d.children() {
		if err := validate(child.Digest); err != nil {
			return err
		}
		if child.Size < 0 {
			return fmt.Errorf("size %d of %s: %w", child.Size, child.Digest, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// readDocument fetches and parses the manifest or index d.
func readDocument(ctx context.Context, f Fetcher, d ocispec.Descriptor) (document, []byte, error) {
	if isSchema1(d.MediaType) {
		return document{}, nil, fmt.Errorf("manifest %s: %w", d.Digest, errSchema1)
	}
	data, err := ReadAll(ctx, f, d)
	if err != nil {
		return document{}, nil, err
	}
	doc, err := parse(d.MediaType, data)
	if err != nil {
		return document{}, nil, fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	return doc, data, nil
}

// Children returns what the index or manifest d refers to: manifests, or config and
// layers in this order. Other blobs have no children.
func Children(ctx context.Context, f Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	if !IsIndex(d.MediaType) && !IsManifest(d.MediaType) && !isSchema1(d.MediaType) {
		return nil, nil
	}
	doc, _, err := readDocument(ctx, f, d)
	if err != nil {
		return nil, err
	}
	return doc.children(), nil
}

// DetectMediaType returns the media type of a manifest or index from its bytes, as for an upload
// or an archive that does not tell.
func DetectMediaType(data []byte) (string, error) {
	if len(data) > MaxManifest {
		return "", fmt.Errorf("manifest of %d bytes: %w", len(data), errdefs.ErrResourceExhausted)
	}
	doc, err := parse("", data)
	switch {
	case err != nil:
		return "", err
	case doc.index != nil && doc.index.MediaType != "":
		return doc.index.MediaType, nil
	case doc.index != nil:
		return ocispec.MediaTypeImageIndex, nil // OCI's may be left out, Docker's may not
	case doc.manifest.MediaType != "":
		return doc.manifest.MediaType, nil
	}
	return ocispec.MediaTypeImageManifest, nil
}

// References returns what a manifest, index or config names, from its bytes alone: blobs by their digests, and
// the diffIDs of layers. It reads less strictly than Children and Resolve do, so that it misses nothing that they
// find. Bytes of another kind name nothing.
func References(data []byte) (blobs, diffIDs []digest.Digest) {
	type descriptor struct {
		Digest digest.Digest `json:"digest"`
	}
	var doc struct {
		Manifests []descriptor `json:"manifests"`
		Config    descriptor   `json:"config"` // of a manifest; a config has one, too, without a digest
		Layers    []descriptor `json:"layers"`
		RootFS    struct {
			DiffIDs []digest.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		var odd *json.UnmarshalTypeError // one field; the others are there
		if !errors.As(err, &odd) {
			return nil, nil
		}
	}
	for _, d := range append(append(doc.Manifests, doc.Config), doc.Layers...) {
		if d.Digest != "" {
			blobs = append(blobs, d.Digest)
		}
	}
	return blobs, doc.RootFS.DiffIDs
}
