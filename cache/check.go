package cache

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/result"
)

// A Problem is something wrong in the store.
type Problem struct {
	Object string // "blob sha256:...", "image NAME"
	Err    error
}

// Check reads the whole store and reports what is wrong in it: blobs and layers whose
// bytes are not those of their digest, and names, layers and build results that lead to
// something missing. What a running command is just making or removing may be reported too.
func (s *Store) Check(ctx context.Context) ([]Problem, error) {
	c := checker{s: s, ctx: ctx}
	for _, step := range []func() error{c.blobs, c.layers, c.images, c.results} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("checking the store: %w", err)
		}
	}
	return c.problems, nil
}

type checker struct {
	s        *Store
	ctx      context.Context // of the one call of Check
	problems []Problem
}

func (c *checker) found(err error, format string, args ...any) {
	if err != nil && c.ctx.Err() == nil {
		c.problems = append(c.problems, Problem{Object: fmt.Sprintf(format, args...), Err: err})
	}
}

func (c *checker) blobs() error {
	return c.s.Content.Walk(c.ctx, func(b content.Info) error {
		r, err := c.s.Content.Fetch(c.ctx, ocispec.Descriptor{Digest: b.Digest, Size: b.Size})
		if err == nil {
			_, err = io.Copy(io.Discard, r) // verifies
			r.Close()
		}
		c.found(err, "blob %s", b.Digest)
		return c.ctx.Err()
	})
}

// layers computes the diffID of every layer that has one. A pulled layer is compared by
// its own order of entries, which we do not keep, so only those made here can be.
func (c *checker) layers() error {
	return c.s.Layers.Walk(c.ctx, func(l layer.Info) error {
		if l.Stale {
			return nil
		}
		if l.DiffID == "" || l.ID == l.DiffID.Encoded() {
			_, err := c.s.Layers.Get(l.ID)
			c.found(err, "layer %s", l.ID)
			return c.ctx.Err()
		}
		err := c.s.Layers.Diff(c.ctx, l.ID, io.Discard, layer.DiffOptions{}) // verifies
		c.found(err, "layer %s", l.ID)
		return c.ctx.Err()
	})
}

// images follows every name to its layers. An image has each as a blob or unpacked.
func (c *checker) images() error {
	images, err := c.s.Images.All(c.ctx)
	if err != nil {
		return err
	}
	for _, img := range images {
		name := img.Name
		if name == "" {
			name = img.Target.Digest.String()
		}
		c.found(c.image(img.Target), "image %s", name)
	}
	return c.ctx.Err()
}

func (c *checker) image(target ocispec.Descriptor) error {
	resolved, err := content.Resolve(c.ctx, c.s.Content, target, content.Host())
	if errdefs.IsNotFound(err) && content.IsIndex(target.MediaType) {
		return nil // an index of other platforms only
	}
	if err != nil {
		return err
	}
	for i, d := range resolved.Manifest.Layers {
		if ok, err := c.s.Content.Exists(c.ctx, d); ok || err != nil {
			if err != nil {
				return err
			}
			continue
		}
		var diffID digest.Digest
		if ids := resolved.Config.RootFS.DiffIDs; i < len(ids) {
			diffID = ids[i]
		}
		if _, err := c.s.Layers.ByDiffID(diffID); err != nil {
			return fmt.Errorf("layer %d: neither blob %s nor layer %s: %w", i, d.Digest, diffID, errdefs.ErrNotFound)
		}
	}
	return nil
}

func (c *checker) results() error {
	return c.s.Results.Walk(c.ctx, func(r result.Record) error {
		for _, id := range r.Layers {
			if _, err := c.s.Layers.Get(id); err != nil {
				c.found(err, "build result %s", r.Key)
				break
			}
		}
		return c.ctx.Err()
	})
}
