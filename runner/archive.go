package runner

import (
	"context"
	"io"
	"io/fs"
	"time"

	"github.com/containerd/errdefs"
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
	CopyUIDGID           bool // keep the owners of the archive; otherwise all is root's
}

// StatPath describes a file of a container, which may run or not. Nothing there is an
// errdefs.ErrNotFound.
func (e *Engine) StatPath(ctx context.Context, ref, path string) (PathStat, error) {
	return PathStat{}, errdefs.ErrNotImplemented
}

// CopyFrom returns a file or directory of a container as a tar archive whose only entry
// at the top has the name of the path.
func (e *Engine) CopyFrom(ctx context.Context, ref, path string) (io.ReadCloser, PathStat, error) {
	return nil, PathStat{}, errdefs.ErrNotImplemented
}

// CopyTo unpacks a tar archive (plain, gzip, bzip2 is not, xz is not, zstd) in a directory
// of a container.
func (e *Engine) CopyTo(ctx context.Context, ref, path string, archive io.Reader, o CopyToOptions) error {
	return errdefs.ErrNotImplemented
}

// Export writes the container's root filesystem, without what is mounted in it, as a tar
// archive.
func (e *Engine) Export(ctx context.Context, ref string, w io.Writer) error {
	return errdefs.ErrNotImplemented
}
