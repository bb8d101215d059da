package runner

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/archive"
	"github.com/teu-dev/teu/runner/keeper"
)

// PathStat is a file of a container, in the shape of docker's X-Docker-Container-Path-Stat.
type PathStat struct {
	Name       string      `json:"name"`
	Size       int64       `json:"size"`
	Mode       fs.FileMode `json:"mode"`
	Mtime      time.Time   `json:"mtime"`
	LinkTarget string      `json:"linkTarget"` // a link's whole path in the container
}

// CopyToOptions change how CopyTo works.
type CopyToOptions struct {
	NoOverwriteDirNonDir bool // refuse to replace a directory by something else, and the other way round
	CopyUIDGID           bool // give everything to the user the container is configured with, if any, instead of the archive's owners
}

// StatPath describes a file of a container, which may run or not. Nothing there is an
// errdefs.ErrNotFound.
func (e *Engine) StatPath(ctx context.Context, ref, p string) (st PathStat, err error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return st, err
	}
	err = e.withFiles(ctx, c, filesOptions{}, func(root *rootfs.Dir, _ *UserIDs) error {
		st, err = statPath(root, p)
		return noSuchFile(err, p, ref)
	})
	return st, e.whole(c, ref, err)
}

func noSuchFile(err error, p, ref string) error {
	if errors.Is(err, unix.ENOTDIR) && strings.HasSuffix(p, "/") {
		return worded(errdefs.ErrInvalidArgument, "%s in container %s: not a directory", p, ref)
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return worded(errdefs.ErrNotFound, "Could not find the file %s in container %s", p, ref)
	}
	return err
}

// asGiven is a path as docker understands it: from the root, cleaned, but a slash or dot
// at its end means that it must be a directory and links to one are followed.
func asGiven(p string) (clean, name string, follow bool) {
	clean = path.Clean("/" + p)
	last := p[strings.LastIndexByte(p, '/')+1:]
	switch {
	case clean == "/" && strings.Contains(p, "."):
		return clean, ".", false // the files below it, without a name for the root
	case clean == "/":
		return clean, "/", false
	case last == ".":
		return clean + "/.", ".", true
	case strings.HasSuffix(p, "/"):
		return clean + "/", path.Base(clean), true
	}
	return clean, path.Base(clean), false
}

func statPath(root *rootfs.Dir, p string) (PathStat, error) {
	p, name, follow := asGiven(p)
	stat := root.Lstat
	if follow {
		stat = root.Stat
	}
	fi, err := stat(p)
	if err != nil {
		return PathStat{}, err
	}
	st := PathStat{Name: name, Size: fi.Size(), Mode: fi.Mode(), Mtime: fi.ModTime()}
	if fi.Mode()&fs.ModeSymlink != 0 {
		st.LinkTarget = linkTarget(root, p)
	}
	return st, nil
}

// linkTarget is where a link leads in the container, as far as it leads anywhere.
func linkTarget(root *rootfs.Dir, p string) string {
	if f, err := root.OpenFile(p, unix.O_PATH, 0); err == nil {
		defer f.Close()
		return nameIn(root, f)
	}
	text, err := root.Readlink(p)
	if err != nil || path.IsAbs(text) {
		return path.Clean("/" + text)
	}
	return path.Join(path.Dir(p), text)
}

// nameIn is the path of an open file in the tree it was opened in.
func nameIn(root *rootfs.Dir, f *os.File) string {
	name, e1 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	top, e2 := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", root.Fd()))
	if e1 != nil || e2 != nil {
		return ""
	}
	return path.Clean("/" + strings.TrimPrefix(name, strings.TrimSuffix(top, "/")))
}

// CopyFrom returns a file or directory of a container as a tar archive whose only entry
// at the top has the name of the path. It is read while the container may run.
func (e *Engine) CopyFrom(ctx context.Context, ref, p string) (io.ReadCloser, PathStat, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, PathStat{}, err
	}
	type found struct {
		st  PathStat
		err error
	}
	r, w := io.Pipe()
	ctx, cancel := context.WithCancel(ctx)
	first := make(chan found, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		err := e.withFiles(ctx, c, filesOptions{}, func(root *rootfs.Dir, ids *UserIDs) error {
			st, err := statPath(root, p)
			if err != nil {
				return noSuchFile(err, p, ref)
			}
			first <- found{st: st}
			given, _, _ := asGiven(p)
			return archive.Write(ctx, w, root, given, st.Name, archive.WriteOptions{Owner: ids.inside})
		})
		err = e.whole(c, ref, err)
		select {
		case first <- found{err: err}: // it came to nothing, or was a stat that nobody waits for
		default:
		}
		w.CloseWithError(err)
	}()
	out := &copyReader{PipeReader: r, cancel: cancel, done: done}
	f := <-first
	if f.err != nil {
		return nil, f.st, errors.Join(f.err, out.Close())
	}
	e.tell(c, "archive-path", map[string]string{"path": p})
	return out, f.st, nil
}

// copyReader ends the work of CopyFrom when it is closed.
type copyReader struct {
	*io.PipeReader
	cancel context.CancelFunc
	done   chan struct{}
}

func (r *copyReader) Close() error {
	r.cancel()
	err := r.PipeReader.Close()
	<-r.done
	return err
}

// CopyTo unpacks a tar archive, plain or compressed by gzip or zstd, in a directory of a
// container.
func (e *Engine) CopyTo(ctx context.Context, ref, p string, r io.Reader, o CopyToOptions) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return err
	}
	defer plain.Close()
	err = e.withFiles(ctx, c, filesOptions{Write: true}, func(root *rootfs.Dir, ids *UserIDs) error {
		dir, err := extractionPoint(root, p, ref)
		if err != nil {
			return err
		}
		x := archive.ExtractOptions{NoOverwriteDirNonDir: o.NoOverwriteDirNonDir, Outside: ids.outside}
		if o.CopyUIDGID && cmp.Or(c.Options.User, c.ImageConfig.User) != "" { // moby daemon/archive_unix.go tarCopyOptions
			if x.Owner, err = e.ownerOf(c); err != nil {
				return err
			}
		}
		return archive.Extract(ctx, root, dir, plain, x)
	})
	if errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errdefs.ErrNotFound) { // what a hard link means
		err = fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err == nil {
		e.tell(c, "extract-to-dir", map[string]string{"path": p})
	}
	return err
}

// extractionPoint is the directory's own path, which the archive's links cannot change.
func extractionPoint(root *rootfs.Dir, p, ref string) (string, error) {
	f, err := root.OpenFile(path.Clean("/"+p), unix.O_PATH, 0)
	if err != nil {
		return "", noSuchFile(err, p, ref)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	if !fi.IsDir() {
		return "", worded(errdefs.ErrInvalidArgument, "extraction point is not a directory")
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return "", err
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return "", worded(errdefs.ErrPermissionDenied, "container rootfs is marked read-only")
	}
	return nameIn(root, f), nil
}

// ownerOf is the user a container runs as.
func (e *Engine) ownerOf(c *Container) (*archive.Owner, error) {
	sn, err := e.snapshot(c.ID)
	if err != nil {
		return nil, err
	}
	s, _, err := e.spec(c, sn, joined{pid: c.Options.ownPID()})
	if err != nil {
		return nil, err
	}
	return &archive.Owner{UID: int(s.Process.User.UID), GID: int(s.Process.User.GID)}, nil
}

// Export writes the container's root filesystem, without what is mounted in it, as a tar
// archive.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if err := e.whole(c, ref, e.export(ctx, c, w)); err != nil {
		return err
	}
	e.tell(c, "export", nil)
	return nil
}

func (e *Engine) export(ctx context.Context, c *Container, w io.Writer) error {
	sn, err := e.snapshot(c.ID)
	if err != nil {
		return err
	}
	root, err := view(sn)
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	defer root.Close()
	o := archive.WriteOptions{}
	if c.UserIDs.copied() {
		o.Owner = c.UserIDs.inside
	}
	if err := archive.Write(ctx, w, root, ".", "", o); err != nil {
		return fmt.Errorf("exporting %s: %w", c.Name, err)
	}
	return nil
}

// whole is what has become of reading a container's files: who removes it takes them away meanwhile, and what was
// read may lack some.
func (e *Engine) whole(c *Container, ref string, err error) error {
	if _, gone := e.snapshot(c.ID); errors.Is(gone, errdefs.ErrNotFound) && c.State.Status != keeper.Dead {
		return noSuchContainer(ref)
	}
	return err
}
