package op

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
)

// unpack extracts the archive at path of src into the directory to of dst. done is false if the
// file is no archive, which is decided as docker does: it is a regular file, and its first tar
// header can be read behind whatever compression. The mode of the copy is not for archives,
// as in BuildKit.
func unpack(ctx context.Context, src *source, path string, dst *rootfs.Dir, to string, o copyOptions) (done bool, err error) {
	from, err := realPath(src.Dir, path, true)
	if err != nil {
		return false, err
	}
	f, err := openRegular(src, from)
	if f == nil || err != nil {
		return false, err
	}
	defer f.Close()
	if ok, err := isArchive(ctx, f); !ok || err != nil {
		return false, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	made, err := makeDirs(dst, to, 0o755, o.owner, o.mtime)
	if err != nil {
		return false, err
	}
	dir, err := dst.OpenFile(to, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return false, err
	}
	root := rootfs.FromFile(dir) // links in the archive mean the directory, as in docker's chroot
	defer root.Close()
	r, err := content.Decompress(ctx, f)
	if err != nil {
		return false, err
	}
	defer r.Close()
	x := &extractor{root: root, owner: o.owner, warn: o.warn}
	if err := x.extract(ctx, tar.NewReader(r)); err != nil {
		return false, fmt.Errorf("unpacking /%s: %w", from, err)
	}
	c := copier{copyOptions: o, dst: destination{Dir: dst}, made: made}
	return true, c.timeParents()
}

// openRegular opens the regular file at path; nil if it is something else.
func openRegular(src *source, path string) (*os.File, error) {
	if !src.sees(path) {
		return nil, nil
	}
	fi, err := src.Lstat(path)
	if missing(err) || err == nil && !fi.Mode().IsRegular() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f, err := src.OpenFile(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if src.local != nil {
		if err := src.local.changed("/"+path, &st); err != nil {
			return nil, errors.Join(err, f.Close())
		}
	}
	return f, nil
}

// isArchive is an error only for what is compressed and cannot be read here, and when ctx ends first.
func isArchive(ctx context.Context, r io.Reader) (bool, error) {
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return false, nil
	}
	defer plain.Close()
	_, err = tar.NewReader(plain).Next()
	if errdefs.IsOutOfRange(err) || ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		return false, err
	}
	return err == nil, nil
}
