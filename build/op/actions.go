package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// timestamp returns the time of an action, nil for now or for that of the source.
func timestamp(ns int64) *time.Time {
	if ns == -1 {
		return nil
	}
	t := time.Unix(0, ns)
	return &t
}

// mkdir makes a directory. One that exists is left alone, as in BuildKit.
func mkdir(dir *rootfs.Dir, a *pb.FileActionMkDir, own *owner) error {
	perm, mtime := uint32(a.Mode)&0o777, timestamp(a.Timestamp)
	p, err := realPath(dir, a.Path, true)
	if err != nil {
		return err
	}
	if a.MakeParents {
		_, err := makeDirs(dir, p, perm, own, mtime)
		return err
	}
	if _, err := dir.Lstat(p); err == nil {
		return nil
	}
	if _, err := dir.Stat(path.Join("/", parentPath(p))); err != nil {
		return fmt.Errorf("making the directory /%s: %w", p, err)
	}
	_, err = makeDirs(dir, p, perm, own, mtime)
	return err
}

// mkfile puts a file in the place of whatever but a directory is there. What is there is never opened: it
// could be a FIFO, or a device, which is one of the host.
func mkfile(dir *rootfs.Dir, a *pb.FileActionMkFile, own *owner) (err error) {
	p, err := realPath(dir, a.Path, true)
	if err != nil {
		return err
	}
	parent, base, err := dir.Parent(p)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Unlinkat(int(parent.Fd()), base, 0); err != nil && err != unix.ENOENT {
		return fmt.Errorf("replacing /%s: %w", p, err)
	}
	fd, err := unix.Openat(int(parent.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("writing /%s: %w", p, err)
	}
	f := os.NewFile(uintptr(fd), p)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := unix.Fchmod(fd, uint32(a.Mode)&0o777); err != nil {
		return fmt.Errorf("mode of /%s: %w", p, err)
	}
	if _, err := f.Write(a.Data); err != nil {
		return err
	}
	if own != nil {
		if err := unix.Fchown(fd, own.uid, own.gid); err != nil {
			return fmt.Errorf("owner of /%s: %w", p, err)
		}
	}
	if t := timestamp(a.Timestamp); t != nil {
		return setTimes(fd, "", *t)
	}
	return nil
}

func symlink(dir *rootfs.Dir, a *pb.FileActionSymlink, own *owner) error {
	p, err := realPath(dir, a.Newpath, true)
	if err != nil {
		return err
	}
	parent, base, err := dir.Parent(p)
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Symlinkat(a.Oldpath, int(parent.Fd()), base); err != nil {
		return fmt.Errorf("making the link /%s: %w", p, err)
	}
	if own != nil {
		if err := unix.Fchownat(int(parent.Fd()), base, own.uid, own.gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("owner of /%s: %w", p, err)
		}
	}
	if t := timestamp(a.Timestamp); t != nil {
		return setTimes(int(parent.Fd()), base, *t)
	}
	return nil
}

// rm removes files and directories; a link is removed itself.
func rm(dir *rootfs.Dir, a *pb.FileActionRm) error {
	paths := []string{a.Path}
	if a.AllowWildcard {
		var err error
		if paths, err = (&source{Dir: dir}).expand(cleanPath(a.Path), false); err != nil {
			return err
		}
	}
	for _, p := range paths {
		if err := rmPath(dir, p, a.AllowNotFound); err != nil {
			return fmt.Errorf("removing %s: %w", p, err)
		}
	}
	return nil
}

func rmPath(dir *rootfs.Dir, p string, allowNotFound bool) error {
	p = strings.TrimPrefix(path.Join("/", p), "/")
	if p == "" {
		return fmt.Errorf("that is the root: %w", errdefs.ErrInvalidArgument)
	}
	parent, base, err := dir.Parent(p)
	if missing(err) && allowNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	defer parent.Close()
	if !allowNotFound {
		var st unix.Stat_t
		if err := unix.Fstatat(int(parent.Fd()), base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
	}
	return statefile.RemoveAllAt(int(parent.Fd()), base)
}

// copyAction copies what a selects of src into dst.
func copyAction(ctx context.Context, src *source, dst destination, a *pb.FileActionCopy, own *owner, warn func(string, ...any)) error {
	from, to := cleanPath(a.Src), cleanPath(a.Dest)
	o, err := optionsOf(a, own)
	if err != nil {
		return err
	}
	o.warn = warn
	if !a.CreateDestPath {
		p, err := realPath(dst.Dir, a.Dest, true)
		if err != nil {
			return err
		}
		if _, err := dst.Lstat(path.Join("/", parentPath(p))); err != nil {
			return fmt.Errorf("the directory of %s: %w", a.Dest, err)
		}
	}
	paths := []string{from}
	if a.AllowWildcard {
		if paths, err = src.expand(from, a.FollowSymlink); err != nil {
			return err
		}
		if len(paths) == 0 && !a.AllowEmptyWildcard {
			return fmt.Errorf("%s: nothing matches: %w", from, errdefs.ErrNotFound)
		}
	}
	for _, p := range paths {
		if a.AttemptUnpackDockerCompatibility {
			done, err := unpack(ctx, src, p, dst.Dir, to, o)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := copyTree(ctx, src, p, dst, to, o); err != nil {
			return err
		}
	}
	return nil
}

func optionsOf(a *pb.FileActionCopy, own *owner) (copyOptions, error) {
	o := copyOptions{
		owner:       own,
		mtime:       timestamp(a.Timestamp),
		dirContents: a.DirCopyContents,
		followLinks: a.FollowSymlink,
		include:     a.IncludePatterns,
		exclude:     a.ExcludePatterns,
		replace:     a.AlwaysReplaceExistingDestPaths,
	}
	if a.ModeStr != "" {
		set, err := mode.ParseWithUmask(a.ModeStr, 0)
		if err != nil {
			return o, fmt.Errorf("mode %q: %w: %w", a.ModeStr, errdefs.ErrInvalidArgument, err)
		}
		o.modes = &set
	} else if a.Mode != -1 {
		m := uint32(a.Mode)
		o.mode = &m
	}
	return o, nil
}
