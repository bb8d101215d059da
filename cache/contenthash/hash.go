package contenthash

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// A todo is a file whose digest is to be computed.
type todo struct {
	node *node
	path string
	read time.Time // when it was looked at
}

// hashAll computes the digests of files that are not known, from the cache or by reading them.
func (t *Tree) hashAll(ctx context.Context, files []todo) error {
	t.openCache()
	left := files[:0]
	for _, f := range files {
		if f.node.own != "" {
			continue
		}
		if f.node.own = t.cache.get(f.path, f.node); f.node.own == "" {
			left = append(left, f)
		}
	}
	if len(left) == 0 {
		return nil
	}
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range min(runtime.GOMAXPROCS(0), len(left)) {
		g.Go(func() error {
			buf := make([]byte, 256<<10)
			for i := next.Add(1) - 1; i < int64(len(left)); i = next.Add(1) - 1 {
				if err := ctx.Err(); err != nil {
					return context.Cause(ctx)
				}
				left[i].read = time.Now()
				if err := t.hash(left[i].node, left[i].path, buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, f := range left {
		t.cache.put(f.path, f.node, f.read)
	}
	return nil
}

func (t *Tree) openCache() {
	if t.cache == nil {
		t.cache = loadCache(t.o.CacheFile, t.o.ResetOwner)
	}
}

// hash computes the digest of one file or of the header of one directory.
func (t *Tree) hash(n *node, p string, buf []byte) error {
	// Nothing but files and directories is opened: that may block, or do something.
	flags, byPath := unix.O_PATH|unix.O_NOFOLLOW, true
	switch n.kind() {
	case unix.S_IFREG:
		flags, byPath = unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, false
	case unix.S_IFDIR:
		flags, byPath = unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, false
	case unix.S_IFLNK:
		if _, err := t.readlink(n, p); err != nil {
			return err
		}
	}
	f, err := t.dir.OpenFile(trimSlash(p), flags, 0)
	if err != nil {
		return fmt.Errorf("hashing %s: %w", p, err)
	}
	defer f.Close()
	if err := n.unchanged(f, p); err != nil {
		return err
	}
	xs, err := readXattrs(int(f.Fd()), byPath)
	if err != nil {
		return fmt.Errorf("hashing %s: %w", p, err)
	}
	h := sha256.New()
	n.writeHeader(h, t.o.ResetOwner, xs)
	if n.kind() == unix.S_IFREG && n.size > 0 {
		if _, err := copyAll(h, f, buf); err != nil {
			return fmt.Errorf("hashing %s: %w", p, err)
		}
		if err := n.unchanged(f, p); err != nil {
			return err
		}
	}
	n.own = digest.NewDigest(digest.SHA256, h)
	return nil
}

// unchanged makes sure that an open file is what the tree was made of.
func (n *node) unchanged(f *os.File, p string) error {
	st, err := fstat(f)
	if err != nil {
		return fmt.Errorf("hashing %s: %w", p, err)
	}
	if !n.sameFile(&st) {
		return fmt.Errorf("%s changed while it was read: %w", p, errdefs.ErrAborted)
	}
	return nil
}
