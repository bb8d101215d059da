package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// sweepBlobs removes the links of a repository that are not marked.
func (c *collector) sweepBlobs(ctx context.Context, repo string, a digest.Algorithm, marked marks) error {
	dir := c.s.repo(repo) + "/_blobs/" + a.String()
	names, err := readNames(dir)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	var batch []string
	for i, name := range names {
		if _, err := parseDigest(a.String() + ":" + name); err != nil {
			continue // not ours
		}
		c.report.Blobs++
		if !marked.has(name) && c.old(filepath.Join(dir, name)) {
			batch = append(batch, name)
		}
		if len(batch) == gcBatch || len(batch) > 0 && i == len(names)-1 {
			if err := c.unlinkBlobs(ctx, repo, dir, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
		if err := c.pace.did(ctx, 1); err != nil {
			return err
		}
	}
	return nil
}

// old looks at garbage without a lock, to spare the locks for what is old.
func (c *collector) old(path string) bool {
	st, err := lstat(path)
	if err != nil {
		return false
	}
	if !changed(&st).Before(c.cut) {
		c.report.Fresh++
		return false
	}
	return true
}

// unlinkBlobs removes blobs from a repository that are still old once nobody can make,
// confirm or refer to one.
func (c *collector) unlinkBlobs(ctx context.Context, repo, dir string, names []string) error {
	if !c.o.DryRun {
		unlock, err := c.lock(ctx, repo)
		if err != nil {
			return err
		}
		defer unlock()
		unlockBlobs, err := lockBlobs(ctx, dir, unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer unlockBlobs()
	}
	for _, name := range names {
		st, links, removed, err := c.unlink(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !removed {
			continue
		}
		c.report.RemovedLinks++
		if links <= 1 { // it was not in blobs/
			c.report.RemovedBlobs++
			c.report.Bytes += st.Size
		}
	}
	return c.pace.did(ctx, 10*len(names))
}

// unlink removes a file that is old, and tells how many links it had.
func (c *collector) unlink(path string) (st unix.Stat_t, links uint64, removed bool, err error) {
	st, err = lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return st, 0, false, nil
	}
	if err != nil {
		return st, 0, false, err
	}
	if !changed(&st).Before(c.cut) {
		c.report.Fresh++
		return st, 0, false, nil
	}
	links = c.links(&st)
	if c.o.DryRun {
		c.gone[st.Ino]++
		return st, links, true, nil
	}
	err = os.Remove(path)
	return st, links, err == nil, err
}

// links is how many links a file has, or would have in a run that is not dry.
func (c *collector) links(st *unix.Stat_t) uint64 { return uint64(st.Nlink) - c.gone[st.Ino] }

// sweepShared removes the files in blobs/ that are in no repository. Should a push link one
// in that moment it has the bytes, and only the sharing is lost.
func (c *collector) sweepShared(ctx context.Context) error {
	for _, a := range algorithms {
		for i := range 256 {
			dir := filepath.Join(c.s.root, "blobs", a.String(), fmt.Sprintf("%02x", i))
			names, err := readNames(dir)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			for _, name := range names {
				if err := c.sweepOne(filepath.Join(dir, name)); err != nil {
					return err
				}
				if err := c.pace.did(ctx, 1); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c *collector) sweepOne(path string) error {
	st, err := lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.links(&st) > 1 || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	if !c.o.DryRun {
		if err := os.Remove(path); err != nil {
			return err
		}
		c.pace.done += 9
	}
	c.report.RemovedBlobs++
	c.report.Bytes += st.Size
	return nil
}
