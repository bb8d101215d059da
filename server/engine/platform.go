package engine

import (
	"github.com/moby/moby/api/types/image"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/listing"
)

// platform reads the parameter platform, which an operation has since a version; nil: it is not given.
func (r *request) platform(since version) (*ocispec.Platform, error) {
	list := r.query["platform"]
	if r.version < since || len(list) == 0 {
		return nil, nil
	}
	if len(list) > 1 {
		return nil, invalid("only one platform value is currently supported")
	}
	return parsePlatform(list[0])
}

// platforms reads the parameter platform of a save or a load, which takes several of them since 1.52.
func (r *request) platforms() (list []ocispec.Platform, err error) {
	if r.version < 48 {
		return nil, nil
	}
	if len(r.query["platform"]) > 1 && r.version < 52 {
		return nil, invalid("multiple platform parameters are not supported in this API version; use API version 1.52 or later")
	}
	for _, text := range r.query["platform"] {
		p, err := parsePlatform(text)
		if err != nil {
			return nil, err
		}
		if p != nil {
			list = append(list, *p)
		}
	}
	return list, nil
}

// manifests are the images for all platforms that target stands for.
func (s *Server) manifests(r *request, target ocispec.Descriptor, users map[digest.Digest][]string) ([]image.ManifestSummary, error) {
	variants, err := listing.Variants(r.Context(), s.Store, target)
	if err != nil {
		return nil, err
	}
	list := []image.ManifestSummary{}
	for _, v := range variants {
		one := image.ManifestSummary{
			ID: v.Target.Digest.String(), Descriptor: v.Target, Available: v.ID != "", Kind: image.ManifestKindImage,
			ImageData: &image.ImageProperties{Platform: v.Platform, Containers: []string{}},
		}
		one.Size.Content, one.Size.Total, one.ImageData.Size.Unpacked = v.Content, v.Content+v.Unpacked, v.Unpacked
		if v.ID != "" {
			one.ImageData.Containers = append(one.ImageData.Containers, users[v.ID]...)
		}
		list = append(list, one)
	}
	return list, nil
}
