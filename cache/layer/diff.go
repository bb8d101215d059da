package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
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
	verify := r.DiffID != "" && !o.Unverified
	h := sha256.New()
	if verify {
		w = io.MultiWriter(w, h)
	}
	if _, err := writeTar(ctx, s.Path(id), w, r.UserXattr, o.Epoch); err != nil {
		return fmt.Errorf("writing the tar of the layer %s: %w", id, err)
	}
	if got := digest.NewDigest(digest.SHA256, h); verify && got != r.DiffID {
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
}

// WriteTar writes an overlay upper directory that is not in a store, and may be in use, as
// the uncompressed OCI layer tar it would be.
func WriteTar(ctx context.Context, dir string, w io.Writer, o TarOptions) error {
	_, err := writeDir(ctx, dir, w, &differ{userXattr: o.UserXattr, skip: o.Skip})
	return err
}

// A differ writes one overlay directory as a tar.
type differ struct {
	skip      func(path string) bool
	tw        *tar.Writer
	userXattr bool
	epoch     *time.Time
	buf       []byte
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
	bw := bufio.NewWriterSize(w, bufferSize)
	d.tw, d.buf, d.links = tar.NewWriter(bw), make([]byte, bufferSize), map[inode]string{}
	if err := d.dir(ctx, root, ""); err != nil {
		return 0, err
	}
	if err := d.tw.Close(); err != nil {
		return 0, err
	}
	return d.size, bw.Flush()
}

// dir writes what is in the open directory fd, which it closes.
func (d *differ) dir(ctx context.Context, fd int, path string) error {
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if len(path) > maxPath {
		return invalid("the directory %s has a name of %d bytes", shorten(path), len(path))
	}
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		below := joinPath(path, name)
		if d.skip != nil && d.skip(below) {
			continue
		}
		if err := d.entry(ctx, fd, name, below); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(ctx context.Context, dirfd int, name, path string) error {
	st, err := statAt(dirfd, name)
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(path), err)
	}
	if isWhiteout(&st) {
		return d.marker(path[:len(path)-len(name)] + whiteoutPrefix + name)
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return invalid("the name %s cannot be part of an image: it would remove a file", shorten(path))
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // tar has none, and nobody listens any more
	}
	hdr, err := d.header(dirfd, name, path, &st)
	if err == nil {
		err = d.attributes(fdPath(dirfd, name), hdr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(path), err)
	}
	switch hdr.Typeflag {
	case tar.TypeDir:
		return d.subdir(ctx, dirfd, name, path, hdr)
	case tar.TypeReg:
		err = d.file(ctx, dirfd, name, hdr)
	default:
		err = d.tw.WriteHeader(hdr)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(path), err)
	}
	return nil
}

// marker writes a whiteout or opaque marker: an empty file without any date.
func (d *differ) marker(path string) error {
	return d.tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path, ModTime: time.Unix(0, 0)})
}

func (d *differ) subdir(ctx context.Context, dirfd int, name, path string, hdr *tar.Header) error {
	fd, err := openInside(dirfd, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	if err := d.tw.WriteHeader(hdr); err != nil {
		unix.Close(fd)
		return err
	}
	opaque, err := isOpaque(fdPath(dirfd, name), d.userXattr)
	if err == nil && opaque {
		err = d.marker(path + "/" + opaqueMarker)
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	return d.dir(ctx, fd, path)
}

// isOpaque says whether the directory at path hides those of lower layers.
func isOpaque(path string, userXattr bool) (bool, error) {
	var value [1]byte
	n, err := unix.Lgetxattr(path, overlayXattr(userXattr, "opaque"), value[:])
	switch {
	case err == nil:
		return n == 1 && value[0] == 'y', nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ERANGE):
		return false, nil
	}
	return false, &os.PathError{Op: "lgetxattr", Path: path, Err: err}
}

func (d *differ) file(ctx context.Context, dirfd int, name string, hdr *tar.Header) error {
	fd, err := unix.Openat(dirfd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if err := d.tw.WriteHeader(hdr); err != nil {
		return err
	}
	for rest := hdr.Size; rest > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n, err := unix.Read(fd, d.buf[:min(int64(len(d.buf)), rest)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return fmt.Errorf("it shrank while it was read: %w", errdefs.ErrAborted)
		}
		if _, err := d.tw.Write(d.buf[:n]); err != nil {
			return err
		}
		rest -= int64(n)
	}
	return nil
}
