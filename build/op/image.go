package op

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// A ResolveMode says where the meaning of a tag is looked up.
type ResolveMode string

const (
	ResolveDefault ResolveMode = "default" // the local store, else the registry
	ResolvePull    ResolveMode = "pull"    // the registry
	ResolveLocal   ResolveMode = "local"   // the local store, else the registry
)

// An Image is a base image of which only manifest and config are known to be here.
type Image struct {
	content.Image
	Ref    string             // canonical, with its tag if it has one
	Target ocispec.Descriptor // what Ref stands for: index or manifest
}

// ResolveImage finds out what ref stands for on p. The answer for one ref is the same for
// the whole life of e. Nothing but manifests and the config is fetched.
func (e *Env) ResolveImage(ctx context.Context, ref string, mode ResolveMode, p ocispec.Platform) (Image, error) {
	return Image{}, errTODO
}
