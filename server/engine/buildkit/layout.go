package buildkit

import (
	"context"
	"fmt"
	"io"
	"strings"

	containerd "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
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
	from := clientStore{sessioncontent.NewCallerStore(s, "oci:"+image.Name())}
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

// clientStore are the blobs of a client.
type clientStore struct{ containerd.Store }

var _ content.Fetcher = clientStore{}

// Fetch implements content.Fetcher.
func (s clientStore) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	at, err := s.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return content.Verify(struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(at, 0, d.Size), at}, d)
}

// describe finds out what the manifest d is.
func (s clientStore) describe(ctx context.Context, d digest.Digest) (desc ocispec.Descriptor, err error) {
	info, err := s.Info(ctx, d)
	if err != nil {
		return desc, err
	}
	return op.DescribeManifest(ctx, s, ocispec.Descriptor{Digest: d, Size: info.Size})
}
