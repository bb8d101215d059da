package runner

import (
	"context"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
)

// ImageNames are the images of containers as lists show them: by the name that a container was made with, and by ID
// once that is the name of another image or of none, as dockerd does (daemon/list.go, refreshImage).
func (e *Engine) ImageNames(ctx context.Context, list []*Container) []string {
	type made struct{ name, id string }
	store, err := e.Store()
	known, names := map[made]bool{}, make([]string, len(list))
	for i, c := range list {
		names[i] = c.Options.Image
		if err != nil || c.namesForGood() {
			continue
		}
		of := made{c.Options.Image, string(c.ImageID)}
		moved, ok := known[of]
		if !ok {
			moved = c.imageMoved(ctx, store)
			known[of] = moved
		}
		if moved {
			names[i] = string(c.ImageID)
		}
	}
	return names
}

// namesForGood says whether the container's image was named by what is never another's: its ID or a digest.
func (c *Container) namesForGood() bool {
	name := c.Options.Image
	return strings.Contains(name, "@") || strings.HasPrefix(c.ImageID.Encoded(), strings.TrimPrefix(name, "sha256:"))
}

// imageMoved says whether the name of the container's image is another's now. A listing shows what it can.
func (c *Container) imageMoved(ctx context.Context, store *cache.Store) bool {
	record, err := store.Lookup(ctx, c.Options.Image)
	if err != nil {
		return errdefs.IsNotFound(err)
	}
	if record.Target.Digest == c.Manifest {
		return false
	}
	p := content.Host()
	if c.Options.Platform != nil {
		p = *c.Options.Platform
	}
	img, err := content.Resolve(ctx, store.Content, record.Target, p)
	return err == nil && img.Manifest.Config.Digest != c.ImageID
}
