package runner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/cache/statefile"
)

// A new volume gets what the image has at its place: all of it or nothing, whoever is killed. The files are
// copied beside the volume and moved into it when they are complete:
//
//	volumes/NAME/_data       the volume
//	volumes/NAME/fill/*      copies being made, each locked by its maker; without one they are swept
//	volumes/NAME/filled      a complete one, of which some may have been moved already
//	    data                 what is to be moved
//	    into                 a link that says where to in _data; without it there is nothing left to move
//
// Whoever makes or starts a container with the volume moves what is left first. Nothing that is in the volume
// is ever replaced or removed for it. What is complete is on the disk: nothing tells a half of it after a power loss
// from what the containers want.

func (e *Engine) filling(volume string) string { return filepath.Join(e.volumeDir(volume), "fill") }
func (e *Engine) filled(volume string) string  { return filepath.Join(e.volumeDir(volume), "filled") }

// view opens the container's root filesystem as its image and its changes make it, for
// reading only. It works whether the container runs or not.
func view(sn snapshot.Snapshot) (*rootfs.Dir, error) {
	f, err := sn.View().Open()
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}

// fillVolume copies what the image has at target to dir, which is empty and the volume or at the path below it,
// with the directory's own mode and owner, as docker does.
func (e *Engine) fillVolume(ctx context.Context, store *cache.Store, c *Container, target string, v Volume, below, dir string) error {
	sn, err := store.Snapshots.Get(c.ID)
	if err != nil {
		return err
	}
	root, err := view(sn)
	if err != nil {
		return fmt.Errorf("reading the image for volume %s: %w", target, err)
	}
	defer root.Close()
	f, err := root.OpenFile(target, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		if !c.UserIDs.copied() {
			return nil
		}
		uid, gid := c.UserIDs.outside(0, 0)
		return os.Chown(dir, uid, gid)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	from := rootfs.FromFile(f)
	if names, _ := f.Readdirnames(1); len(names) == 0 || v.driven() || !sameFilesystem(dir, e.volumeDir(v.Name)) {
		err = rootfs.CopyTree(from, dir, rootfs.CopyOptions{})
	} else {
		err = e.fillBeside(ctx, from, v.Name, below, dir)
	}
	if err != nil {
		return fmt.Errorf("copying %s of the image to its volume: %w", target, err)
	}
	return nil
}

// sameFilesystem says whether one can rename from one directory to the other.
func sameFilesystem(a, b string) bool {
	var of [2]unix.Stat_t
	return unix.Stat(a, &of[0]) == nil && unix.Stat(b, &of[1]) == nil && of[0].Dev == of[1].Dev
}

// fillBeside copies from to dir, the path below the volume, unless somebody else has filled that meanwhile.
func (e *Engine) fillBeside(ctx context.Context, from *rootfs.Dir, volume, below, dir string) (err error) {
	scratch, err := e.fillScratch(volume)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	data := filepath.Join(scratch.Path(), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		return err
	}
	if err := rootfs.CopyTree(from, data, rootfs.CopyOptions{}); err != nil {
		return err
	}
	if err := os.Symlink(filepath.Join(".", below), filepath.Join(scratch.Path(), "into")); err != nil {
		return err
	}
	// Moving files out of data changes its time, so that is kept with what is around it.
	info, err := os.Stat(data)
	if err == nil {
		err = os.Chtimes(scratch.Path(), info.ModTime(), info.ModTime())
	}
	if err != nil {
		return err
	}
	if err := syncTree(scratch.Path()); err != nil {
		return err
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.moveFilled(volume); err != nil {
		return err
	}
	if !isEmpty(dir) {
		return nil
	}
	if err := os.Rename(scratch.Path(), e.filled(volume)); err != nil {
		return err
	}
	return e.moveFilled(volume)
}

// So many files and directories are synced one by one, which does not wait for what others have written. For more, one
// syncfs(2) is faster.
const fewFiles = 32

// syncTree writes everything below dir to the disk.
func syncTree(dir string) (err error) {
	var files []*os.File
	defer func() {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
	}()
	many := errors.New("more than a few files")
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() && !d.IsDir() {
			return err
		}
		if len(files) > fewFiles {
			return many
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		files = append(files, f) // dir first
		// All on their way, the disk can order them; the first sync below then waits for most.
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		return nil
	})
	if errors.Is(err, many) {
		return os.NewSyscallError("syncfs", unix.Syncfs(int(files[0].Fd())))
	}
	if err != nil {
		return err
	}
	for _, f := range slices.Backward(files) {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	return nil
}

// fillScratch makes a directory for a copy, and removes those of the dead.
func (e *Engine) fillScratch(volume string) (*statefile.Scratch, error) {
	dir := e.filling(volume)
	for {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		scratch, err := statefile.NewScratch(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // another has finished and removed dir
		}
		if err == nil {
			err = statefile.SweepScratch(dir)
		}
		return scratch, err
	}
}

// finishFilling moves into the volume what somebody who died has left complete beside it.
func (e *Engine) finishFilling(ctx context.Context, volume string) error {
	if _, err := os.Lstat(e.filled(volume)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	unlock, err := e.lockVolumes(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return e.moveFilled(volume)
}

// moveFilled moves what is left of a complete copy into its volume. The lock of the volumes is held.
func (e *Engine) moveFilled(volume string) error {
	filled := e.filled(volume)
	link, data := filepath.Join(filled, "into"), filepath.Join(filled, "data")
	into, err := os.Readlink(link)
	if errors.Is(err, fs.ErrNotExist) {
		return e.removeFilled(volume)
	}
	if err != nil {
		return err
	}
	p := MountPoint{Type: "volume", Source: filepath.Join(e.volumeDir(volume), "_data"), MountDetails: MountDetails{Subpath: into}}
	to, err := p.openSubpath()
	if err == nil {
		defer to.Close()
	}
	if err != nil || !isDirectory(to) {
		// The path was in the volume, and whoever removed it does not want what belonged there.
		return errors.Join(os.Remove(link), e.removeFilled(volume))
	}
	if err := moveEntries(data, to); err != nil {
		return fmt.Errorf("filling volume %s: %w", volume, err)
	}
	// What is left of data is its owner, mode and the like.
	info, err := os.Stat(filled)
	if err == nil {
		err = os.Chtimes(data, info.ModTime(), info.ModTime())
	}
	if err != nil {
		return err
	}
	from, err := os.Open(data)
	if err != nil {
		return err
	}
	err = rootfs.CopyTree(rootfs.FromFile(from), fmt.Sprintf("/proc/self/fd/%d/.", to.Fd()), rootfs.CopyOptions{})
	if err := errors.Join(err, from.Close()); err != nil {
		return fmt.Errorf("filling volume %s: %w", volume, err)
	}
	return errors.Join(os.Remove(link), e.removeFilled(volume))
}

func isDirectory(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.IsDir()
}

// moveEntries moves what is in a directory to another. What has a name that is taken is dropped.
func moveEntries(from string, to *os.File) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, d := range entries {
		path := filepath.Join(from, d.Name())
		err := unix.Renameat2(unix.AT_FDCWD, path, int(to.Fd()), d.Name(), unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			err = statefile.RemoveAll(path)
		}
		if err != nil {
			return &os.PathError{Op: "rename", Path: d.Name(), Err: err}
		}
	}
	return nil
}

// removeFilled removes what is left of a copy that was moved, and the directory of copies if nobody makes one.
func (e *Engine) removeFilled(volume string) error {
	_ = os.Remove(e.filling(volume))
	return statefile.RemoveAll(e.filled(volume))
}
