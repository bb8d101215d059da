package runner

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// CommitOptions say how the image is made.
type CommitOptions struct {
	Name            string // repository[:tag] to give it, or empty
	Author, Comment string
	Pause           bool     // freeze the container meanwhile
	Changes         []string // instructions of a Dockerfile: CMD ENTRYPOINT ENV EXPOSE LABEL ONBUILD USER VOLUME WORKDIR
	// Config, unless nil, replaces the container's own configuration.
	Config *ocispec.ImageConfig
}

// Commit makes an image of a container's root filesystem and returns its ID.
func (e *Engine) Commit(ctx context.Context, ref string, o CommitOptions) (digest.Digest, error) {
	return "", errdefs.ErrNotImplemented
}
