package op

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

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
	r, err := decompress(ctx, f)
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

func isArchive(ctx context.Context, r io.Reader) (bool, error) {
	plain, err := decompress(ctx, r)
	if errors.Is(err, exec.ErrNotFound) {
		return false, err
	}
	if err != nil {
		return false, nil
	}
	defer plain.Close()
	_, err = tar.NewReader(plain).Next()
	return err == nil, nil
}

// decompress returns the plain bytes of r: gzip, zstd, bzip2, xz or none, by their magic.
func decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	magic, err := b.Peek(6)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), nil
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		return xz(ctx, b)
	}
	return content.Decompress(b, "")
}

// xz has no decoder in Go that we want to depend on; BuildKit too uses the program.
func xz(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	path, err := exec.LookPath("xz")
	if err != nil {
		return nil, fmt.Errorf("unpacking xz needs the program xz: %w: %w", errdefs.ErrFailedPrecondition, err)
	}
	cmd := exec.CommandContext(ctx, path, "-d", "-c", "-q")
	cmd.Stdin = r
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &program{cmd: cmd, out: out, stderr: &stderr}, nil
}

// A program is the output of a process; its failure is an error at the end of it.
type program struct {
	cmd    *exec.Cmd
	out    io.ReadCloser
	stderr *bytes.Buffer
	waited bool
}

func (p *program) Read(b []byte) (int, error) {
	n, err := p.out.Read(b)
	if err == io.EOF && !p.waited {
		p.waited = true
		if werr := p.cmd.Wait(); werr != nil {
			return n, fmt.Errorf("%s: %w: %s", p.cmd.Args[0], werr, p.stderr.String())
		}
	}
	return n, err
}

// Close ends the process if it has not ended.
func (p *program) Close() error {
	if p.waited {
		return nil
	}
	p.waited = true
	_ = p.out.Close() // so that it cannot wait for us
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // killed, so it fails
	return nil
}
