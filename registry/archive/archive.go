// Package archive reads and writes images as one tar stream: what `docker save` and
// `docker load`, podman and skopeo exchange.
//
// Save writes a single form that all of them read, docker's manifest.json on top of an
// OCI image layout, as docker itself does since version 25:
//
//	blobs/sha256/HEX   every config, layer and manifest
//	oci-layout         {"imageLayoutVersion": "1.0.0"}
//	index.json         the images as descriptors, named by annotations
//	manifest.json      the images as docker knows them, for one platform
//
// Load also reads docker's older archives, whose layers are plain tars under any name,
// possibly symbolic links to each other, and whose order is arbitrary. Both only stream:
// nothing but manifests and configs is held in memory. Open does the same with a file, whose
// layers it leaves where they are.
package archive

import (
	"context"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const dockerManifestFile = "manifest.json"

// Image is an image in an archive.
type Image struct {
	Names  []string // canonical with a tag, "docker.io/library/x:latest"; none: known by digest only
	Tag    string   // a bare tag, which only OCI archives have, in the place of names
	Target ocispec.Descriptor
	Chosen []ocispec.Descriptor // the manifests for LoadOptions.Platforms, in their order
	Blobs  []ocispec.Descriptor // what Open left in the archive

	Annotations map[string]string // of what index.json says of it, beside its names
}

// Sink is where Load puts blobs; content.Store is one.
type Sink interface {
	content.Fetcher
	content.Pusher
	Stat(ctx context.Context, dgst digest.Digest) (content.Info, error)
	Writer(ctx context.Context) (*content.Writer, error)
}

var _ Sink = (*content.Store)(nil)
