package layer

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// DiffOptions change how Diff writes.
type DiffOptions struct {
	// Epoch clamps later times to it, as SOURCE_DATE_EPOCH asks. A sealed layer ignores it and
	// uses the epoch it was sealed with.
	Epoch *time.Time

	// Unverified accepts a tar whose digest is not the layer's DiffID. Without it such a tar
	// ends in an errdefs.ErrFailedPrecondition: a layer that was pulled cannot in general be
	// turned back into the tar it came from. A layer without DiffID is never verified.
	Unverified bool
}

// Diff writes to w the uncompressed OCI layer tar of the layer id. Entries are sorted by path,
// so equal layers give equal tars; times are cut to seconds as docker does.
// On error w holds a prefix of the tar; the caller discards it.
func (s *Store) Diff(ctx context.Context, id string, w io.Writer, o DiffOptions) error {
	r, err := s.readRecord(id)
	if err != nil {
		return err
	}
	if r.Sealed {
		o.Epoch = r.Epoch
	}
	var got digest.Digest
	if r.DiffID == "" || o.Unverified {
		got = r.DiffID
		_, err = writeTar(ctx, s.Path(id), w, r.UserXattr, o.Epoch)
	} else {
		h := newAsyncHash()
		_, err = writeTar(ctx, s.Path(id), io.MultiWriter(h, w), r.UserXattr, o.Epoch)
		got = h.finish()
	}
	if err != nil {
		return fmt.Errorf("writing the tar of the layer %s: %w", id, err)
	}
	if got != r.DiffID {
		return fmt.Errorf("the layer %s cannot be turned back into its tar %s: %w", id, r.DiffID, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// TarOptions change how WriteTar writes.
type TarOptions struct {
	UserXattr bool
	// Skip, unless nil, leaves out the files it is true for, by their path from the root
	// without a slash in front.
	Skip func(path string) bool
	// Owner, unless nil, translates the owners of files to those of the layer.
	Owner func(uid, gid int) (int, int)
}

// WriteTar writes an overlay upper directory that is not in a store, and may be in use, as
// the uncompressed OCI layer tar it would be.
func WriteTar(ctx context.Context, dir string, w io.Writer, o TarOptions) error {
	_, err := writeDir(ctx, dir, w, &differ{userXattr: o.UserXattr, skip: o.Skip, owner: o.Owner})
	return err
}

// A differ writes one overlay directory as a tar.
type differ struct {
	skip      func(path string) bool
	owner     func(uid, gid int) (int, int)
	tw        *tar.Writer
	userXattr bool
	epoch     *time.Time
	buf       []byte           // for the content of large files; nil until needed
	links     map[inode]string // first names of files that have several
	size      int64
}

type inode struct{ dev, ino uint64 }

// writeTar writes the overlay directory dir as an OCI layer and returns the bytes it has on disk, about.
func writeTar(ctx context.Context, dir string, w io.Writer, userXattr bool, epoch *time.Time) (size int64, err error) {
	return writeDir(ctx, dir, w, &differ{userXattr: userXattr, epoch: epoch})
}

func writeDir(ctx context.Context, dir string, w io.Writer, d *differ) (size int64, err error) {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	g := &gatherer{w: w}
	d.tw, d.links = tar.NewWriter(g), map[inode]string{}
	if err := d.portions(ctx, root); err != nil {
		return 0, err
	}
	if err := d.tw.Close(); err != nil {
		return 0, err
	}
	return d.size, g.flush()
}

// A gatherer passes bytes on in portions of bufferSize. Unlike a bufio.Writer it has no more memory than
// that takes: most layers are small.
type gatherer struct {
	w   io.Writer
	buf []byte
}

func (g *gatherer) Write(p []byte) (n int, err error) {
	n = len(p)
	for len(g.buf)+len(p) >= bufferSize {
		k := bufferSize - len(g.buf)
		portion := p[:k]
		if k < bufferSize {
			g.buf = append(g.buf, portion...)
			portion = g.buf
		}
		if _, err := g.w.Write(portion); err != nil {
			return 0, err
		}
		g.buf, p = g.buf[:0], p[k:]
	}
	g.buf = append(g.buf, p...)
	return n, nil
}

func (g *gatherer) flush() error {
	_, err := g.w.Write(g.buf)
	return err
}

// portions writes what is in the directory root, which it closes.
func (d *differ) portions(ctx context.Context, root int) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w := newWalk(ctx, root, d.skip)
	for p := range w.order {
		<-p.ready
		for i := range p.items {
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err == nil {
				err = d.item(ctx, p, &p.items[i])
			}
		}
		if err != nil {
			cancel()
		}
		w.done(p)
	}
	if err == nil && ctx.Err() != nil { // it ended without an item to say so
		err = context.Cause(ctx)
	}
	return err
}

func (d *differ) item(ctx context.Context, p *portion, it *item) error {
	err := it.err
	switch {
	case it.path == "":
		return err // of the walk itself, which says where
	case err != nil:
	case isWhiteout(&it.st):
		return d.marker(it.path[:len(it.path)-len(it.name)] + whiteoutPrefix + it.name)
	case strings.HasPrefix(it.name, whiteoutPrefix):
		return invalid("the name %s cannot be part of an image: it would remove a file", shorten(it.path))
	case it.st.Mode&unix.S_IFMT == unix.S_IFSOCK:
		return nil // tar has none, and nobody listens any more
	default:
		err = d.entry(ctx, p, it)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(it.path), err)
	}
	return nil
}

func (d *differ) entry(ctx context.Context, p *portion, it *item) error {
	hdr, err := d.header(it)
	if err == nil {
		err = d.attributes(it.xattrs, hdr)
	}
	if err != nil {
		return err
	}
	if err := d.tw.WriteHeader(hdr); err != nil {
		return err
	}
	switch {
	case hdr.Typeflag == tar.TypeDir && d.opaque(it.xattrs):
		return d.marker(it.path + "/" + opaqueMarker)
	case hdr.Typeflag != tar.TypeReg:
		return nil
	case it.large >= 0:
		return d.content(ctx, it.large, hdr.Size)
	}
	_, err = d.tw.Write(p.data[it.data[0]:it.data[1]])
	return err
}

// marker writes a whiteout or opaque marker: an empty file without any date.
func (d *differ) marker(path string) error {
	return d.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, ModTime: time.Unix(0, 0)})
}

// opaque says whether a directory hides those of lower layers.
func (d *differ) opaque(xs []xattr) bool {
	return slices.Contains(xs, xattr{overlayXattr(d.userXattr, "opaque"), "y"})
}

// content writes what is in the file fd.
func (d *differ) content(ctx context.Context, fd int, size int64) error {
	if d.buf == nil {
		d.buf = make([]byte, bufferSize)
	}
	for rest := size; rest > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := min(int64(len(d.buf)), rest)
		if err := readFull(fd, d.buf[:n]); err != nil {
			return err
		}
		if _, err := d.tw.Write(d.buf[:n]); err != nil {
			return err
		}
		rest -= n
	}
	return nil
}

// changed is the error of a file that is not what it was a moment ago.
func changed(how string) error { return fmt.Errorf("it %s: %w", how, errdefs.ErrAborted) }
