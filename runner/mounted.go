package runner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/keeper"
)

// filesOptions say what somebody wants to do with a container's files.
type filesOptions struct {
	Write bool
}

// withFiles calls fn with the root filesystem of a container as the container sees it,
// with what is mounted in it. That of a container which does not run is mounted for the
// time of the call, where nobody else sees it, with the owners it has on disk. Where those are not
// the container's own, fn is told its user namespace, by which they are translated.
func (e *Engine) withFiles(ctx context.Context, c *Container, o filesOptions, fn func(root *rootfs.Dir, ids *UserIDs) error) error {
	root, c, err := e.runningRoot(ctx, c)
	if err != nil {
		return err
	}
	if root != nil {
		defer root.Close()
		if o.Write && c.UserIDs.shifted() {
			return asContainerRoot(c.UserIDs, func() error { return fn(root, c.UserIDs) })
		}
		return fn(root, c.UserIDs)
	}
	if c.State.Status == keeper.Created && len(c.Mounts) > 0 {
		o.Write = true // it has no places for its volumes yet, which are made
	}
	if o.Write { // nobody may start it meanwhile: two mounts must not share an upper directory
		unlock, err := e.lock(ctx, c.ID)
		if err != nil {
			return err
		}
		defer unlock()
		now, err := e.load(c.ID)
		if err != nil {
			return missing(err, c.ID)
		}
		if !ended(now.State) {
			return worded(errdefs.ErrConflict, "container %s was started meanwhile", c.ID)
		}
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread and its mounts end with the goroutine
		done <- e.mounted(c, o, func(root *rootfs.Dir) error {
			switch {
			case !c.UserIDs.copied():
				return fn(root, nil)
			case o.Write:
				return asContainerRoot(c.UserIDs, func() error { return fn(root, c.UserIDs) })
			}
			return fn(root, c.UserIDs)
		})
	}()
	return <-done
}

// asContainerRoot calls fn on a thread that makes files as root of a user namespace, which
// it must where the owners of a mount are mapped: nobody else's can be written to its disk.
// It keeps all capabilities of ours.
func asContainerRoot(ids *UserIDs, fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		uid, gid := ids.outside(0, 0)
		const noSetuidFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP, capabilities(7)
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
			done <- fmt.Errorf("keeping capabilities: %w", err)
			return
		}
		unix.SetfsgidRetGid(gid)
		unix.SetfsuidRetUid(uid)
		done <- fn()
	}()
	return <-done
}

// runningRoot opens the root of a container that runs. One whose process is just ending is
// waited for, until that is written down: then, and of one that does not run, root is nil.
func (e *Engine) runningRoot(ctx context.Context, c *Container) (*rootfs.Dir, *Container, error) {
	for runs(c.State) {
		root, err := rootOf(c)
		if err == nil && c.State.Alive() { // else the number may be another process's already
			return root, c, nil
		}
		if err == nil {
			root.Close()
		} else if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, nil, err
		}
		if err = pause(ctx, 5*time.Millisecond); err == nil {
			c, err = e.current(ctx, c.ID)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return nil, c, nil
}

// mounted mounts the container's root filesystem and volumes in a mount namespace that only
// this thread has.
func (e *Engine) mounted(c *Container, o filesOptions, fn func(root *rootfs.Dir) error) error {
	sn, err := e.snapshot(c.ID)
	if err != nil {
		return err
	}
	over := sn.Overlay()
	if !o.Write || c.Options.ReadOnly {
		over = sn.View()
	}
	f, err := over.Open()
	if err != nil {
		return fmt.Errorf("opening the root filesystem: %w", err)
	}
	root := rootfs.FromFile(f)
	defer root.Close()
	points := slices.DeleteFunc(slices.Clone(c.Mounts), func(p MountPoint) bool { return p.Type != "bind" && p.Type != "volume" })
	if len(points) == 0 && c.State.Status == keeper.Created {
		return fn(root)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	own, err := os.Open(e.dir(c.ID)) // what is in it can be reached when it is covered, too
	if err != nil {
		return err
	}
	defer own.Close()
	for _, name := range e.mountedFiles(c) {
		source := fmt.Sprintf("/proc/self/fd/%d/%s", own.Fd(), name)
		points = append(points, MountPoint{Type: "bind", Source: source, Destination: "/etc/" + name, RW: true})
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making the mounts private: %w", err)
	}
	if err := unix.MoveMount(root.Fd(), "", unix.AT_FDCWD, e.dir(c.ID), unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	slices.SortStableFunc(points, func(a, b MountPoint) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	for _, p := range points {
		if err := mountPoint(root, p, o); err != nil {
			return fmt.Errorf("mounting %s: %w", p.Destination, err)
		}
	}
	return fn(root)
}

// mountPoint mounts a volume or directory of the host in a mounted root filesystem, unless
// the container has never been started and has no place for it yet.
func mountPoint(root *rootfs.Dir, p MountPoint, o filesOptions) error {
	target, err := root.OpenFile(p.Destination, unix.O_PATH, 0)
	if fi, e := os.Stat(p.Source); errors.Is(err, unix.ENOENT) && o.Write && e == nil {
		if err = makePlace(root, p.Destination, fi.IsDir()); err == nil {
			target, err = root.OpenFile(p.Destination, unix.O_PATH, 0)
		}
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EROFS) {
		return nil
	}
	if err != nil {
		return err
	}
	defer target.Close()
	return bindAt(p.Source, target, p.RW)
}

// makePlace makes the directory or the file that something is mounted on.
func makePlace(root *rootfs.Dir, name string, dir bool) error {
	if dir {
		return root.MkdirAll(name, 0o755, rootfs.MkdirOptions{})
	}
	if err := root.MkdirAll(path.Dir(name), 0o755, rootfs.MkdirOptions{}); err != nil {
		return err
	}
	f, err := root.OpenFile(name, unix.O_WRONLY|unix.O_CREAT, 0o755)
	if err != nil {
		return err
	}
	return f.Close()
}

// bindAt mounts what is at source on target, with what is mounted below it. Without
// mount_setattr(2), Linux 5.12, what is read-only comes without that: a mount has to have a
// place to be changed then, each by itself.
func bindAt(source string, target *os.File, writable bool) error {
	flags := unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE
	late := !writable && !mount.CanSetAttr()
	if late {
		flags &^= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, uint(flags))
	if err != nil {
		return fmt.Errorf("open_tree %s: %w", source, err)
	}
	defer unix.Close(tree)
	if !writable && !late {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("mount_setattr: %w", err)
		}
	}
	if err := unix.MoveMount(tree, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	if !late {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(tree, &st); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	// In a user namespace flags that are there must stay; mount_namespaces(7).
	keep := uintptr(st.Flags) & (unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOATIME | unix.MS_NODIRATIME)
	if err := unix.Mount("", fmt.Sprintf("/proc/self/fd/%d", tree), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|keep, ""); err != nil {
		return fmt.Errorf("making it read-only: %w", err)
	}
	return nil
}
