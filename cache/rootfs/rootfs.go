// Package rootfs opens paths inside an untrusted tree without ever leaving it.
//
// A symbolic link in a container image may be absolute. It then means the root of
// the image, not ours, which os.Root refuses to follow; so we use openat2(2) with
// RESOLVE_IN_ROOT. A Dir stays valid when its tree is renamed.
package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

var errTODO = errors.New("not written yet")

// A Dir holds the root of an untrusted tree open. It may be used by many goroutines.
type Dir struct {
	f *os.File
}

// Open holds the directory at path, a path of the host, as the root of a tree.
func Open(path string) (*Dir, error) { return nil, errTODO }

// FromFile makes a Dir of an open directory, which may be an O_PATH or a detached
// mount. The Dir owns f from then on.
func FromFile(f *os.File) *Dir { return &Dir{f: f} }

// Close gives the root back.
func (d *Dir) Close() error { return d.f.Close() }

// Fd returns the descriptor of the root. It is valid until Close.
func (d *Dir) Fd() int { return int(d.f.Fd()) }

// OpenFile opens path, which is relative to the tree whether or not it starts with a
// slash, with the flags and permissions of open(2). Symbolic links are followed inside
// the tree, unless flags has O_NOFOLLOW for the last one. O_CLOEXEC is added.
func (d *Dir) OpenFile(path string, flags int, perm uint32) (*os.File, error) { return nil, errTODO }

// ReadFile returns the content of the regular file at path. Something else than a regular file is an
// errdefs.ErrInvalidArgument, a file larger than limit bytes an errdefs.ErrResourceExhausted.
func (d *Dir) ReadFile(path string, limit int64) ([]byte, error) { return nil, errTODO }

// Parent opens, as O_PATH, the directory that holds the last component of path, and
// returns that component, which is not followed. The root itself has the base ".".
func (d *Dir) Parent(path string) (parent *os.File, base string, err error) { return nil, "", errTODO }

// MkdirOptions say what the directories made by MkdirAll are like.
type MkdirOptions struct {
	UID, GID int
	Mtime    time.Time // zero: now
}

// MkdirAll makes the directory path and the missing ones above it, following symbolic links
// inside the tree. Directories that exist are left alone. perm is not reduced by the umask.
func (d *Dir) MkdirAll(path string, perm uint32, o MkdirOptions) error { return errTODO }

// Lstat describes path without following a symbolic link at its end.
func (d *Dir) Lstat(path string) (fs.FileInfo, error) { return nil, errTODO }

// Stat describes what path leads to.
func (d *Dir) Stat(path string) (fs.FileInfo, error) { return nil, errTODO }

// Readlink returns the text of the symbolic link at path.
func (d *Dir) Readlink(path string) (string, error) { return "", errTODO }
