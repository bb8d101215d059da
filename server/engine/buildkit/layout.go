package buildkit

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// bringLayouts brings the images of named contexts that are OCI layouts of the client: attributes
// context:NAME=oci-layout://STORE@DIGEST. Of an index only what is built for comes.
func (c *caller) bringLayouts(ctx context.Context, attrs map[string]string) error {
	var wanted []ocispec.Platform
	for text := range strings.SplitSeq(attrs["platform"], ",") {
		if text == "" {
			wanted = append(wanted, content.Host())
			continue
		}
		p, err := platforms.Parse(text)
		if err != nil {
			return fmt.Errorf("platform %q: %w: %w", text, errdefs.ErrInvalidArgument, err)
		}
		wanted = append(wanted, p)
	}
	for name, value := range attrs {
		ref, ok := strings.CutPrefix(value, "oci-layout://")
		if !ok || !strings.HasPrefix(name, "context:") {
			continue
		}
		if err := c.bringLayout(ctx, ref, wanted); err != nil {
			return fmt.Errorf("%s: %w", strings.TrimPrefix(name, "context:"), err)
		}
	}
	return nil
}

// bringLayout makes a layout here of the image ref, STORE@DIGEST, of the client.
func (c *caller) bringLayout(ctx context.Context, ref string, wanted []ocispec.Platform) error {
	named, err := reference.Parse(ref)
	if err != nil {
		return fmt.Errorf("OCI layout %q: %w: %w", ref, errdefs.ErrInvalidArgument, err)
	}
	image, ok := named.(reference.Canonical)
	if !ok {
		return fmt.Errorf("OCI layout %q has no digest: %w", ref, errdefs.ErrInvalidArgument)
	}
	s, err := c.of(ctx, "")
	if err != nil {
		return err
	}
	from := newClientStore(s, "oci:"+image.Name())
	root, err := from.describe(ctx, image.Digest())
	if err != nil {
		return err
	}
	dir, release, err := c.builder.Mirror("", "", func(dir string) error {
		to, err := content.Open(dir)
		if err != nil {
			return err
		}
		return content.Copy(ctx, to, from, root, content.CopyOptions{Platforms: wanted})
	})
	if err != nil {
		return err
	}
	c.keep(release)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.layouts == nil {
		c.layouts = map[string]string{}
	}
	c.layouts[image.Name()] = dir
	return nil
}

// layout returns the directory of a layout that was brought.
func (c *caller) layout(store string) (dir string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	dir, ok = c.layouts[store]
	return dir, ok
}
