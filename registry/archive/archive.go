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
// nothing but manifests and configs is held in memory.
package archive

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

var errTODO = errors.New("not written yet")

// Image is an image in an archive.
type Image struct {
	Names  []string // canonical with a tag, "docker.io/library/x:latest"; none: known by digest only
	Target ocispec.Descriptor
}

// SaveOptions change how Save works.
type SaveOptions struct {
	Platform *ocispec.Platform // manifest.json describes this one; nil means the host's
	Progress content.Progress
}

// Save writes images and all they refer to into w. Manifests of other platforms that
// src does not have are left out, as an index may be pulled for one platform only.
func Save(ctx context.Context, w io.Writer, src content.Fetcher, images []Image, o SaveOptions) error {
	return errTODO
}

// Sink is where Load puts blobs; content.Store is one.
type Sink interface {
	content.Fetcher
	content.Pusher
	Writer(ctx context.Context) (*content.Writer, error)
}

// LoadOptions change how Load works.
type LoadOptions struct {
	Progress content.Progress
}

// Load reads an archive, plain or compressed by gzip or zstd, from r, stores its blobs
// in dst and returns its images in the order of the archive. Layers are not unpacked
// and so their diffIDs not verified yet; everything else is.
func Load(ctx context.Context, dst Sink, r io.Reader, o LoadOptions) ([]Image, error) {
	return nil, errTODO
}
