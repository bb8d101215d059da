package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
)

// push pushes the image, in each form under its names, and returns the last that was pushed. A blob goes once to each
// repository, and where a repository of the same registry has it, it does not travel at all.
func (r *run) push(ctx context.Context, s solved) (res Result, err error) {
	r.sealer.wait() // or what is on its way would be sent twice
	src := &blobs{r: r, layers: map[digest.Digest]op.Layer{}}
	for _, state := range s.states {
		for _, l := range state.Layers {
			if l.Blob != nil {
				src.layers[l.Blob.Digest] = l
			}
		}
	}
	var pushed []reference.Named
	for _, p := range r.names.push {
		if err := r.image(ctx, &res, s, variant{p.form, r.stated(false)}, nil); err != nil {
			return res, err
		}
		manifest, err := content.ReadAll(ctx, r.b.Store.Content, res.Target)
		if err != nil {
			return res, err
		}
		name := p.name
		err = r.step(ctx, "pushing "+name.String(), func(c *solver.Console) error {
			repo, err := r.repository(name, src, pushed)
			if err != nil {
				return err
			}
			if err := content.Copy(ctx, repo, src, res.Target, content.CopyOptions{Progress: progress(c)}); err != nil {
				return err
			}
			if r.names.forms[p.form].ByDigest {
				return nil
			}
			return repo.Tag(ctx, res.Target, name.(reference.Tagged).Tag(), manifest)
		})
		if err != nil {
			return res, err
		}
		pushed = append(pushed, name)
	}
	return res, nil
}

// repository returns where name is pushed to. Repositories of its registry that have a blob are asked
// first: that of the base image or of the shared cache it came from, and those in pushed.
func (r *run) repository(name reference.Named, src *blobs, pushed []reference.Named) (*registry.Repository, error) {
	repo, err := r.b.Registry.Repository(name)
	if err != nil {
		return nil, err
	}
	repo.Source = src
	repo.MountFrom = func(d digest.Digest) (from []string) {
		candidates := pushed
		if l, ok := src.layers[d]; ok {
			where := ""
			switch {
			case l.Origin != nil:
				where = l.Origin.Ref
			case l.From != nil:
				where = l.From.String()
			}
			if named, err := reference.ParseNormalizedNamed(where); err == nil {
				candidates = append([]reference.Named{named}, candidates...)
			}
		}
		for _, c := range candidates {
			if reference.Domain(c) == reference.Domain(name) && !slices.Contains(from, reference.Path(c)) {
				from = append(from, reference.Path(c))
			}
		}
		return from
	}
	return repo, nil
}

// blobs are what an image is made of: in the store, or where a layer that nobody needed here is.
type blobs struct {
	r      *run
	layers map[digest.Digest]op.Layer
}

// Fetch implements content.Fetcher. What is elsewhere is only asked for when it is read, as it may turn
// out that it can be mounted.
func (b *blobs) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	body, err := b.r.b.Store.Content.Fetch(ctx, d)
	l, ok := b.layers[d.Digest]
	if !errdefs.IsNotFound(err) || !ok {
		return body, err
	}
	var from content.Fetcher = l.From
	if l.From == nil {
		if l.Origin == nil {
			return nil, err
		}
		if from, err = b.r.env.Source(*l.Origin); err != nil {
			return nil, err
		}
	}
	return &lateReader{open: func() (io.ReadCloser, error) { return from.Fetch(ctx, d) }}, nil
}

// A lateReader opens its source when it is first read.
type lateReader struct {
	open func() (io.ReadCloser, error)
	body io.ReadCloser
	err  error
}

func (l *lateReader) Read(p []byte) (int, error) {
	if l.body == nil && l.err == nil {
		l.body, l.err = l.open()
	}
	if l.err != nil {
		return 0, l.err
	}
	return l.body.Read(p)
}

func (l *lateReader) Close() error {
	if l.body == nil {
		l.err = errors.New("closed before it was read")
		return nil
	}
	return l.body.Close()
}

// sendEarly compresses a layer of the image and sends it to where the image will be pushed, while the
// build goes on. Whatever goes wrong is met again, and told, at the end.
func (r *run) sendEarly(ctx context.Context, id string) error {
	if r.sealer.mediaType == "" {
		return nil
	}
	d, err := r.b.Store.CompressLayer(ctx, id, r.sealer.mediaType)
	if err != nil || r.early == nil {
		return err
	}
	repo := r.early
	if there, err := repo.Exists(ctx, d); there || err != nil {
		return err
	}
	body, err := r.b.Store.Content.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := repo.Push(ctx, d, body); err != nil {
		return fmt.Errorf("sending layer %s: %w", d.Digest, err)
	}
	return nil
}
