package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Pids are the processes of the group and of the groups below it, in no order. A group
// that is gone has none.
func (g *Group) Pids() ([]int, error) {
	seen := map[int]bool{}
	for _, hi := range g.host.inUse() {
		dirs, err := tree(g.dir(hi))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			pids, err := readPids(dir)
			if err != nil && !absent(err) {
				return nil, err
			}
			for _, p := range pids {
				seen[p] = true
			}
		}
	}
	pids := make([]int, 0, len(seen))
	for p := range seen {
		pids = append(pids, p)
	}
	return pids, nil
}

// tree is dir and the directories below it, parents first; nothing if dir is gone.
func tree(dir string) ([]string, error) {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			dirs = append(dirs, path)
		}
		return nil
	})
	return dirs, err
}

// Freeze stops or continues all processes, and waits until they are. The end of ctx leaves
// the group as it then is.
func (g *Group) Freeze(ctx context.Context, frozen bool) error {
	dir, file, value, done := "", "freezer.state", "THAWED", "THAWED"
	if frozen {
		value, done = "FROZEN", "FROZEN"
	}
	switch g.host.mode {
	case V2:
		dir, file, value, done = g.dir(g.host.hierarchies[0]), "cgroup.freeze", "0", "frozen 0"
		if frozen {
			value, done = "1", "frozen 1"
		}
	case V1:
		hi, ok := g.host.find("freezer")
		if !ok {
			return fmt.Errorf("pausing without a freezer: %w", errdefs.ErrNotImplemented)
		}
		dir = g.dir(hi)
	default:
		return fmt.Errorf("pausing without control groups: %w", errdefs.ErrNotImplemented)
	}
	return poll(ctx, func() (bool, error) {
		if err := writeFile(dir, file, value); err != nil {
			return false, fmt.Errorf("pausing control group %s: %w", g.path, err)
		}
		state := file
		if g.host.mode == V2 {
			state = "cgroup.events"
		}
		now, err := readFile(dir, state)
		return slices.Contains(strings.Split(now, "\n"), done), err
	})
}

// Frozen says whether the group has been stopped. One that is gone has not.
func (g *Group) Frozen() (bool, error) {
	switch g.host.mode {
	case V2:
		return frozenAbove(g.dir(g.host.hierarchies[0]))
	case V1:
		hi, ok := g.host.find("freezer")
		if !ok {
			return false, nil
		}
		state, err := readFile(g.dir(hi), "freezer.state")
		if absent(err) {
			return false, nil
		}
		return state == "FROZEN", err
	}
	return false, nil
}

// frozenAbove says whether dir or a group above it is to be frozen. Unlike in version 1, the file of a group
// says nothing of those above it; the root has none. cgroup-v2.rst, "cgroup.freeze".
func frozenAbove(dir string) (bool, error) {
	for ; ; dir = filepath.Dir(dir) {
		now, err := readFile(dir, "cgroup.freeze")
		if absent(err) {
			return false, nil
		}
		if err != nil || now == "1" {
			return err == nil, err
		}
	}
}

// Kill sends SIGKILL to every process until none is left or ctx ends.
func (g *Group) Kill(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		if g.host.mode == V2 && writeFile(g.dir(g.host.hierarchies[0]), "cgroup.kill", "1") == nil { // Linux 5.14
			pids, err := g.Pids()
			return len(pids) == 0, err
		}
		n, err := g.killOnce()
		return n == 0, err
	})
}

// killOnce signals by pidfd, after the pid was seen in the group once more: so the pid
// cannot belong to somebody else by now.
func (g *Group) killOnce() (left int, err error) {
	pids, err := g.Pids()
	if err != nil || len(pids) == 0 {
		return 0, err
	}
	held := map[int]int{}
	for _, p := range pids {
		if fd, err := unix.PidfdOpen(p, 0); err == nil {
			held[p] = fd
		}
	}
	again, err := g.Pids()
	for p, fd := range held {
		if err == nil && slices.Contains(again, p) {
			if e := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); e != nil && e != unix.ESRCH {
				err = fmt.Errorf("killing process %d: %w", p, e)
			}
		}
		unix.Close(fd)
	}
	return len(again), err
}

// AwaitEmpty says whether no process is left in the group, which it may take some time to find.
func (g *Group) AwaitEmpty(ctx context.Context, within time.Duration) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := poll(ctx, func() (bool, error) {
		pids, err := g.Pids()
		return len(pids) == 0, err
	})
	if errors.Is(err, context.DeadlineExceeded) {
		return false, nil
	}
	return err == nil, err
}

// End kills what is left in the group and removes it with the groups below. A group that
// does not exist is no error.
func (g *Group) End(ctx context.Context) error {
	if g.RemoveEmpty() { // most are, and this says so for nothing
		return nil
	}
	return errors.Join(g.Kill(ctx), g.Remove(ctx))
}

// RemoveEmpty removes the group where nothing is in it, and says whether it is gone.
func (g *Group) RemoveEmpty() bool {
	gone := true
	for _, hi := range g.host.inUse() {
		if err := unix.Rmdir(g.dir(hi)); err != nil && err != unix.ENOENT {
			gone = false
		}
	}
	return gone
}

// Remove removes the group and the groups below it. Processes that are just ending are
// waited for until ctx ends. A group that does not exist is no error.
func (g *Group) Remove(ctx context.Context) error {
	return poll(ctx, func() (bool, error) {
		busy := false
		for _, hi := range g.host.inUse() {
			dirs, err := tree(g.dir(hi))
			if err != nil {
				return false, err
			}
			for _, dir := range slices.Backward(dirs) {
				switch err := unix.Rmdir(dir); err {
				case nil, unix.ENOENT:
				case unix.EBUSY:
					busy = true
				default:
					return false, &os.PathError{Op: "rmdir", Path: dir, Err: err}
				}
			}
		}
		return !busy, nil
	})
}

// poll asks until the answer is yes, at growing intervals.
func poll(ctx context.Context, try func() (bool, error)) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		done, err := try()
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}
