package export

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
)

// A Layer is one layer of an image to be. It is in the store, or has no ID, but a DiffID and a Blob
// that is elsewhere.
type Layer struct {
	ID          string
	DiffID      digest.Digest
	Blob        *ocispec.Descriptor // the blob it came from, if it was pulled
	Created     time.Time           // when a build made it; zero otherwise
	Description string              // what made it
}

// A Source is the outcome of a build for one platform.
type Source struct {
	Platform   ocispec.Platform
	Layers     []Layer    // lowest first
	Config     []byte     // JSON, without layers and times
	BaseConfig []byte     // JSON of the base image's config; nil if there is none
	Epoch      *time.Time // SOURCE_DATE_EPOCH: no time in the image is later

	Annotations           map[string]string // of the manifest
	DescriptorAnnotations map[string]string // of the manifest's entry in the index

	// Statements makes what is stated about the image, which has these layers; nil: nothing is.
	Statements func(layers []ocispec.Descriptor) ([]Statement, error)
	Subjects   []string // what the image is called in its statements
}

// Options of an image.
type Options struct {
	// Compression of the layers that were built: "gzip" or "zstd"; "" leaves those plain, and not in
	// the store's Content, that have not been compressed before. Only this store can use such an
	// image, until cache.Store.Portable was asked for one that can travel.
	Compression      string
	Recompress       bool              // layers of the base too, unless they are compressed so
	DockerTypes      bool              // docker's media types instead of OCI's
	Index            bool              // make an index, also of one platform
	IndexAnnotations map[string]string // only with Index
	// Rewritten marks layers whose times were held to the epoch, as BuildKit's rewrite-timestamp does.
	Rewritten bool
	// StatementsAsImage gives the manifest of statements the config of an image instead of the type of an artifact.
	StatementsAsImage bool
	Status            func(text string) // told what goes on; may be nil
}

// An Image is what was put into the store.
type Image struct {
	Target ocispec.Descriptor // manifest, or index of several platforms
	Config digest.Digest      // of the config; of several platforms, of the first
	// Manifests are the images of the platforms, in the order of the sources.
	Manifests []ocispec.Descriptor
}

// Commit makes an image of sources and puts it into the store, without a name. Layers are
// sealed and compressed if they were not yet, several at once. The caller holds a pin.
func Commit(ctx context.Context, s *cache.Store, sources []Source, o Options) (Image, error) {
	if o.Status == nil {
		o.Status = func(string) {}
	}
	var img Image
	var statements []ocispec.Descriptor
	for i, src := range sources {
		manifest, config, layers, err := commit(ctx, s, src, o)
		if err != nil {
			return Image{}, err
		}
		if i == 0 {
			img.Config = config
		}
		img.Manifests = append(img.Manifests, manifest)
		if src.Statements == nil {
			continue
		}
		list, err := src.Statements(layers)
		if err != nil {
			return Image{}, err
		}
		d, err := commitStatements(ctx, s, manifest, src, list, o)
		if err != nil {
			return Image{}, err
		}
		statements = append(statements, d)
	}
	if len(img.Manifests) == 1 && !o.Index && len(statements) == 0 {
		img.Target = img.Manifests[0]
		return img, nil
	}
	mediaType := o.mediaType(ocispec.MediaTypeImageIndex)
	target, err := put(ctx, s, mediaType, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType, Manifests: slices.Concat(img.Manifests, statements), Annotations: o.IndexAnnotations,
	})
	if err != nil {
		return Image{}, err
	}
	o.Status("exporting manifest list " + target.Digest.String())
	img.Target = target
	return img, nil
}

// commit makes the image of one platform.
func commit(ctx context.Context, s *cache.Store, src Source, o Options) (manifest ocispec.Descriptor, config digest.Digest, layers []ocispec.Descriptor, err error) {
	o.Status("exporting layers")
	infos, blobs, err := finishLayers(ctx, s, src, o)
	if err != nil {
		return manifest, "", nil, err
	}
	raw, err := finishConfig(src.Config, src.BaseConfig, infos, src.Epoch)
	if err != nil {
		return manifest, "", nil, err
	}
	for i := range blobs {
		blobs[i].MediaType = o.mediaType(blobs[i].MediaType)
	}
	if o.Rewritten && src.Epoch != nil && !o.DockerTypes {
		if err := markRewritten(blobs, infos, src); err != nil {
			return manifest, "", nil, err
		}
	}
	configDesc, err := content.PushBytes(ctx, s.Content, o.mediaType(ocispec.MediaTypeImageConfig), raw)
	if err != nil {
		return manifest, "", nil, err
	}
	mediaType := o.mediaType(ocispec.MediaTypeImageManifest)
	manifest, err = put(ctx, s, mediaType, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: mediaType,
		Config: configDesc, Layers: blobs, Annotations: src.Annotations,
	})
	if err != nil {
		return manifest, "", nil, err
	}
	platform := src.Platform
	manifest.Platform, manifest.Annotations = &platform, src.DescriptorAnnotations
	o.Status("exporting manifest " + manifest.Digest.String())
	o.Status("exporting config " + configDesc.Digest.String())
	return manifest, configDesc.Digest, blobs, nil
}

// markRewritten notes the epoch on the layers that do not come from the base image.
func markRewritten(blobs []ocispec.Descriptor, infos []layerInfo, src Source) error {
	var base ocispec.Image
	if len(src.BaseConfig) > 0 {
		if err := json.Unmarshal(src.BaseConfig, &base); err != nil {
			return fmt.Errorf("config of the base image: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	ours := false
	for i := range blobs {
		ours = ours || i >= len(base.RootFS.DiffIDs) || base.RootFS.DiffIDs[i] != infos[i].diffID
		if !ours {
			continue
		}
		notes := maps.Clone(blobs[i].Annotations)
		if notes == nil {
			notes = map[string]string{}
		}
		notes["buildkit/rewritten-timestamp"] = strconv.FormatInt(src.Epoch.Unix(), 10)
		blobs[i].Annotations = notes
	}
	return nil
}

// finishLayers makes diffIDs and blobs of the layers that have none yet.
func finishLayers(ctx context.Context, s *cache.Store, src Source, o Options) ([]layerInfo, []ocispec.Descriptor, error) {
	infos := make([]layerInfo, len(src.Layers))
	blobs := make([]ocispec.Descriptor, len(src.Layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, l := range src.Layers {
		g.Go(func() error {
			if l.ID == "" {
				infos[i] = layerInfo{diffID: l.DiffID, created: when(l), description: l.Description}
				blobs[i] = *l.Blob
				blobs[i].MediaType = content.OCIType(l.Blob.MediaType)
				return nil
			}
			sealed, err := seal(ctx, s, l.ID, src.Epoch)
			if err != nil {
				return err
			}
			l.ID = sealed.ID
			infos[i] = layerInfo{diffID: sealed.DiffID, created: when(l), description: l.Description}
			blobs[i], err = blob(ctx, s, l, sealed, o)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, fmt.Errorf("exporting layers: %w", err)
	}
	return infos, blobs, nil
}

// when returns the time of a layer that a build made, or nil.
func when(l Layer) *time.Time {
	if l.Created.IsZero() {
		return nil
	}
	created := l.Created.UTC()
	return &created
}

// seal returns the layer with a diffID. One that an earlier build sealed with other times is
// replaced by one with those that are wanted now.
func seal(ctx context.Context, s *cache.Store, id string, epoch *time.Time) (layer.Layer, error) {
	l, err := s.Layers.Seal(ctx, id, epoch)
	if err != nil || epoch == nil {
		return l, err
	}
	return s.Layers.Clamp(ctx, l.ID, *epoch)
}

// blob returns the layer as the manifest has it: the blob it came from, so that its digest stays what
// it is in its registry, or one that is made.
func blob(ctx context.Context, s *cache.Store, l Layer, sealed layer.Layer, o Options) (ocispec.Descriptor, error) {
	if l.Blob != nil && l.Blob.Digest != sealed.DiffID && (!o.Recompress || compressionOf(l.Blob.MediaType) == o.Compression) {
		if ok, err := s.Content.Exists(ctx, *l.Blob); err != nil || ok {
			d := *l.Blob
			d.MediaType = content.OCIType(d.MediaType)
			return d, err
		}
	}
	switch o.Compression {
	case "gzip":
		return s.CompressLayer(ctx, l.ID, ocispec.MediaTypeImageLayerGzip)
	case "zstd":
		return s.CompressLayer(ctx, l.ID, ocispec.MediaTypeImageLayerZstd)
	case "uncompressed":
		return s.CompressLayer(ctx, l.ID, ocispec.MediaTypeImageLayer)
	case "":
		return s.PlainLayer(ctx, sealed)
	}
	return ocispec.Descriptor{}, fmt.Errorf("compression %q is none of gzip, zstd and uncompressed: %w", o.Compression, errdefs.ErrInvalidArgument)
}

// compressionOf returns the name of the compression that a media type of layers says.
func compressionOf(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "zstd"):
		return "zstd"
	}
	return "uncompressed"
}

// mediaType returns what an OCI media type is called in the image.
func (o Options) mediaType(t string) string {
	if o.DockerTypes {
		return content.DockerType(t)
	}
	return t
}

// put stores v as JSON in the form BuildKit writes manifests in.
func put(ctx context.Context, s *cache.Store, mediaType string, v any) (ocispec.Descriptor, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return content.PushBytes(ctx, s.Content, mediaType, b)
}
