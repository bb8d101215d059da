package content

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types, distribution docs "Image Manifest Version 2, Schema 2". Each has an OCI
// equivalent of the same structure.
const (
	MediaTypeDockerIndex         = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerConfig        = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer         = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerLayerZstd     = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	MediaTypeDockerForeign       = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	MediaTypeDockerForeignGzip   = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeDockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeDockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	mediaTypeNondistributable    = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// equivalents are Docker's media types and those of OCI for the same.
var equivalents = [...]struct{ docker, oci string }{
	{MediaTypeDockerIndex, ocispec.MediaTypeImageIndex},
	{MediaTypeDockerManifest, ocispec.MediaTypeImageManifest},
	{MediaTypeDockerConfig, ocispec.MediaTypeImageConfig},
	{MediaTypeDockerLayer, ocispec.MediaTypeImageLayer},
	{MediaTypeDockerLayerGzip, ocispec.MediaTypeImageLayerGzip},
	{MediaTypeDockerLayerZstd, ocispec.MediaTypeImageLayerZstd},
	{MediaTypeDockerForeign, mediaTypeNondistributable},
	{MediaTypeDockerForeignGzip, mediaTypeNondistributable + "+gzip"},
}

// OCIType returns what OCI calls a type of Docker's, or mediaType itself.
func OCIType(mediaType string) string {
	for _, e := range equivalents {
		if mediaType == e.docker {
			return e.oci
		}
	}
	return mediaType
}

// DockerType returns what Docker calls a type of OCI's, or mediaType itself.
func DockerType(mediaType string) string {
	for _, e := range equivalents {
		if mediaType == e.oci {
			return e.docker
		}
	}
	return mediaType
}

// IsIndex says whether mediaType is that of a list of manifests.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerIndex
}

// IsManifest says whether mediaType is that of an image's or artifact's manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsConfig says whether mediaType is that of an image's config.
func IsConfig(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageConfig || mediaType == MediaTypeDockerConfig
}

// IsLayer says whether mediaType is that of a tar of files, compressed or not.
func IsLayer(mediaType string) bool {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		MediaTypeDockerLayer, MediaTypeDockerLayerGzip, MediaTypeDockerLayerZstd:
		return true
	}
	return IsForeign(mediaType)
}

// IsForeign says whether mediaType is that of a layer that must not be distributed: its bytes are
// where the URLs of its descriptor say, and registries do not have them as a rule.
func IsForeign(mediaType string) bool {
	switch mediaType {
	case MediaTypeDockerForeign, MediaTypeDockerForeignGzip:
		return true
	}
	return mediaType == mediaTypeNondistributable || strings.HasPrefix(mediaType, mediaTypeNondistributable+"+")
}

// isSchema1 knows the manifests of before 2016.
func isSchema1(mediaType string) bool {
	return mediaType == mediaTypeDockerSchema1 || mediaType == mediaTypeDockerSchema1Signed
}
