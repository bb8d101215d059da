package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/outfile"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/registry/archive"
)

func openSource(ctx context.Context, c *registry.Client, p Place) (source, error) {
	switch p.Kind {
	case Registry:
		return openRemote(c, p)
	case Layout:
		return openLayout(p.Path, p.Name)
	}
	return openArchive(ctx, p)
}

func openTarget(c *registry.Client, dst, src Place) (target, error) {
	switch dst.Kind {
	case Registry:
		r, err := openRemote(c, dst)
		return remoteTarget{r}, err
	case Layout:
		return openLayoutTarget(dst.Path, dst.Name)
	}
	return openArchiveTarget(dst, src), nil
}

// unpacked is an archive whose blobs lie in a temporary layout. Archives may have their manifests
// at the end and their files in any order, so they are read as a whole.
type unpacked struct {
	*content.Store
	dir    string
	images []archive.Image
	name   string
}

func openArchive(ctx context.Context, p Place) (_ *unpacked, err error) {
	f := os.Stdin
	if p.Path != "-" {
		if f, err = os.Open(p.Path); err != nil {
			return nil, err
		}
		defer f.Close()
	}
	dir, err := os.MkdirTemp("", "teu-copy-")
	if err != nil {
		return nil, err
	}
	u := &unpacked{dir: dir, name: p.Name}
	if u.Store, err = content.Open(dir); err == nil {
		u.images, err = archive.Load(ctx, u.Store, f, archive.LoadOptions{})
	}
	if err != nil {
		return nil, errors.Join(err, u.close())
	}
	return u, nil
}

func (u *unpacked) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	var have []string
	var all []ocispec.Descriptor
	for _, img := range u.images {
		if u.name == img.Target.Digest.String() || u.name != "" && u.name == img.Tag {
			return img.Target, nil
		}
		for _, name := range img.Names {
			if u.name != "" && (u.name == name || strings.HasSuffix(name, ":"+u.name)) {
				return img.Target, nil
			}
		}
		have, all = append(append(have, img.Names...), img.Tag), append(all, img.Target)
	}
	if u.name == "" {
		all = images(ctx, u, all)
	}
	if u.name == "" && len(all) == 1 {
		return all[0], nil
	}
	if u.name == "" {
		return ocispec.Descriptor{}, fmt.Errorf("it has several images, say which: %s: %w", strings.Join(have, " "), errdefs.ErrInvalidArgument)
	}
	return ocispec.Descriptor{}, fmt.Errorf("it has no image %q, only %s: %w", u.name, strings.Join(have, " "), errdefs.ErrNotFound)
}

func (u *unpacked) referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, img := range u.images {
		subject, err := subjectOf(ctx, u.Store, img.Target)
		if err != nil {
			return nil, err
		}
		if subject == d.Digest {
			list = append(list, img.Target)
		}
	}
	return list, nil
}

func (u *unpacked) close() error { return os.RemoveAll(u.dir) }

// archiveTarget is a file that becomes an archive, which docker, podman and skopeo read as their own
// and as an OCI archive. It is written beside and renamed when it is whole.
type archiveTarget struct {
	path  string
	image archive.Image
	src   source
	opts  content.CopyOptions
	more  []archive.Image // what refers to the image
}

func openArchiveTarget(dst, src Place) *archiveTarget {
	a := &archiveTarget{path: dst.Path}
	switch {
	case dst.Name == "" && src.Kind == Registry:
		if tagged, ok := src.Ref.(reference.Tagged); ok {
			a.image.Names = []string{src.Ref.Name() + ":" + tagged.Tag()}
		}
	case dst.Kind == LayoutArchive:
		a.image.Tag = dst.Name
	case dst.Name != "":
		a.image.Names = []string{dst.Name}
	}
	return a
}

func (a *archiveTarget) put(_ context.Context, src source, root ocispec.Descriptor, o content.CopyOptions) error {
	a.src, a.opts, a.image.Target = src, o, root
	return nil
}

func (a *archiveTarget) attach(_ context.Context, _ source, d ocispec.Descriptor, _ content.CopyOptions) error {
	a.more = append(a.more, archive.Image{Target: d})
	return nil
}

// finish writes the archive, now that all that belongs into it is known.
func (a *archiveTarget) finish(ctx context.Context) error {
	return outfile.Write(a.path, 0o644, func(w io.Writer) error {
		return archive.Save(ctx, w, a.src, append([]archive.Image{a.image}, a.more...), archive.SaveOptions{Progress: a.opts.Progress})
	})
}
