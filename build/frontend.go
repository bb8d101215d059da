package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"

	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// A backend answers the frontend of a run.
type backend run

var _ dockerfile.Backend = (*backend)(nil)

// Files implements dockerfile.Backend.
func (b *backend) Files(ctx context.Context, def *pb.Definition) (dockerfile.Files, error) {
	r := (*run)(b)
	state, err := b.State(ctx, def)
	if err != nil {
		return nil, err
	}
	view, err := r.env.View(ctx, solver.NewConsole("", "", nil), state)
	if err != nil {
		return nil, err
	}
	r.views.add(view)
	return files{view}, nil
}

// ResolveImage implements dockerfile.Backend.
func (b *backend) ResolveImage(ctx context.Context, name, ref string, o dockerfile.ImageOptions) (dockerfile.ImageConfig, error) {
	r := (*run)(b)
	ref, o, err := r.permitImage(ctx, ref, o)
	if err != nil {
		return dockerfile.ImageConfig{}, fmt.Errorf("%s: %w", name, err)
	}
	return (*unasked)(r).ResolveImage(ctx, name, ref, o)
}

// ResolveImage implements Sources.
func (b *unasked) ResolveImage(ctx context.Context, name, ref string, o dockerfile.ImageOptions) (dockerfile.ImageConfig, error) {
	r := (*run)(b)
	p := content.Host()
	if o.Platform != nil {
		p = *o.Platform
	}
	var img op.Image
	var chain *op.Chain
	err := r.step(ctx, name, func(*solver.Console) (err error) {
		if o.Layout != "" {
			img, err = r.env.ResolveLayoutImage(ctx, o.Layout, ref, p)
		} else {
			img, err = r.env.ResolveImage(ctx, ref, op.ResolveMode(o.Mode), p)
		}
		if err == nil && o.Chain && o.Layout == "" {
			chain, err = r.env.Chain(ctx, img, o.Statements)
		}
		return err
	})
	if err != nil {
		return dockerfile.ImageConfig{}, err
	}
	r.record.Image(ref, o.Platform, img.Target.Digest, o.Layout != "")
	return dockerfile.ImageConfig{Ref: ref, Digest: img.Target.Digest.String(), Config: img.RawConfig, Chain: told(chain)}, nil
}

func told(c *op.Chain) *dockerfile.Chain {
	if c == nil {
		return nil
	}
	out := &dockerfile.Chain{
		Root: c.Root.String(), Image: c.Image.String(), Statements: c.Statements.String(), Signature: c.Signature.String(),
		Blobs: map[string]dockerfile.Blob{},
	}
	for d, b := range c.Blobs {
		out.Blobs[d.String()] = dockerfile.Blob(b)
	}
	return out
}

// DescribeSource implements dockerfile.Backend.
func (b *backend) DescribeSource(ctx context.Context, name string, s *pb.SourceOp) (dockerfile.SourceInfo, error) {
	r := (*run)(b)
	if _, err := r.permitSource(ctx, s, nil); err != nil {
		return dockerfile.SourceInfo{}, fmt.Errorf("%s: %w", name, err)
	}
	return (*unasked)(r).DescribeSource(ctx, name, s)
}

// DescribeSource implements Sources.
func (b *unasked) DescribeSource(ctx context.Context, name string, s *pb.SourceOp) (dockerfile.SourceInfo, error) {
	r := (*run)(b)
	var info op.SourceInfo
	err := r.step(ctx, name, func(*solver.Console) (err error) {
		info, err = r.env.Describe(ctx, s)
		return err
	})
	return dockerfile.SourceInfo{
		Ref: info.Ref, Commit: info.Commit, Tagged: info.Tagged, Object: info.Object, Tag: info.Tag, Digest: info.Digest.String(), Filename: info.Filename, Modified: info.Modified,
	}, err
}

// Warn implements dockerfile.Backend.
func (b *backend) Warn(w dockerfile.Warning) { b.journal.warn(w) }

// views are the filesystems the frontend looked into. They stay open, as it comes back to them.
type views struct {
	mu   sync.Mutex
	list []*op.View
}

func (v *views) add(view *op.View) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.list = append(v.list, view)
}

func (v *views) close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var errs []error
	for _, view := range v.list {
		errs = append(errs, view.Close())
	}
	v.list = nil
	return errors.Join(errs...)
}

// files shows a view to the frontend.
type files struct{ view *op.View }

var _ dockerfile.Files = files{}

func (f files) ReadFile(_ context.Context, path string, from, most int64) ([]byte, error) {
	file, err := f.view.Dir.OpenRegular(path)
	if err != nil {
		var failed *fs.PathError
		if errors.As(err, &failed) && failed.Op == "openat2" {
			err = &fs.PathError{Op: "open", Path: failed.Path, Err: failed.Err} // how it is opened is nobody's business
		}
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.NewSectionReader(file, from, most))
}

func (f files) Stat(_ context.Context, path string) (dockerfile.FileInfo, error) {
	fi, err := f.view.Dir.Lstat(path)
	if err != nil {
		return dockerfile.FileInfo{}, err
	}
	return f.info(path, fi), nil
}

func (f files) ReadDir(_ context.Context, path string) ([]dockerfile.FileInfo, error) {
	dir, err := f.view.Dir.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	var list []dockerfile.FileInfo
	for _, e := range entries {
		fi, err := f.view.Dir.Lstat(path + "/" + e.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		list = append(list, f.info(path+"/"+e.Name(), fi))
	}
	return list, nil
}

func (f files) info(path string, fi fs.FileInfo) dockerfile.FileInfo {
	info := dockerfile.FileInfo{Name: fi.Name(), Mode: uint32(fi.Mode()), Size: fi.Size(), ModTime: fi.ModTime()}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		info.UID, info.GID = st.Uid, st.Gid
	}
	if fi.Mode()&fs.ModeSymlink != 0 {
		info.Linkname, _ = f.view.Dir.Readlink(path)
	}
	return info
}
