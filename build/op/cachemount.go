package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/statefile"
)

// A cacheDir is the directory of a cache mount, held by its lock.
//
//	DIR/cache-mounts/HEX/info.json   what it is for; its time is that of the last use
//	DIR/cache-mounts/HEX/lock        held, shared, while an N is chosen; alone by who looks which are used
//	DIR/cache-mounts/HEX/N.lock      held while N is used: shared, or alone for locked and private
//	DIR/cache-mounts/HEX/N/          the files
//
// HEX is a digest, so an ID is never part of a path (CVE-2024-9675). There is more than
// one N if several steps wanted the directory for themselves at the same time.
type cacheDir struct {
	*rootfs.Dir
	unlock func() error
}

func (d *cacheDir) close() error { return errors.Join(d.Dir.Close(), d.unlock()) }

// A CacheMount describes the directories of one cache mount.
type CacheMount struct {
	Key      string    `json:"-"`
	ID       string    `json:"id"`
	Size     int64     `json:"-"` // bytes on disk, of Measure
	InUse    bool      `json:"-"` // a step uses it now
	LastUsed time.Time `json:"-"`
}

func (e *Env) cacheRoot() string { return filepath.Join(e.Dir, "cache-mounts") }

// cacheKey names the cache mount id. One that begins with files of another state is another
// one for each such state.
func (e *Env) cacheKey(ctx context.Context, c *solver.Console, id string, base *Result) (string, error) {
	if base == nil {
		return digest.FromString(id).Encoded(), nil
	}
	var of any
	if len(base.Layers) == 1 && base.Layers[0].DiffID == "" || base.Local != nil {
		// The directory made for uid= and mode=, which may be made anew with the same content.
		content, err := e.contentDigest(ctx, c, *base, nil)
		if err != nil {
			return "", err
		}
		of = content
	} else {
		ids := make([]string, len(base.Layers))
		for i, l := range base.Layers {
			ids[i] = l.ID + l.DiffID.String()
		}
		of = ids
	}
	text, err := json.Marshal([]any{id, of})
	return digest.FromBytes(text).Encoded(), err
}

// openCache opens a directory of the cache mount key as opt.Sharing says. With fresh it is
// emptied before its first use in this build, as in BuildKit.
func (e *Env) openCache(ctx context.Context, c *solver.Console, key string, opt *pb.CacheOpt, base *Result, fresh bool) (*cacheDir, error) {
	dir := filepath.Join(e.cacheRoot(), key)
	e.noteCache(key)
	if fresh && e.firstPrune(key) {
		if err := e.RemoveCacheMount(key); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := statefile.Write(filepath.Join(dir, "info.json"), CacheMount{ID: opt.ID}, statefile.WriteOptions{}); err != nil {
		return nil, err
	}
	n, unlock, err := lockCache(ctx, dir, opt.Sharing)
	if err != nil {
		return nil, err
	}
	files := filepath.Join(dir, strconv.Itoa(n))
	if err := e.fillCache(ctx, c, key, files, base, fresh); err != nil {
		return nil, errors.Join(err, unlock())
	}
	root, err := rootfs.Open(files)
	if err != nil {
		return nil, errors.Join(err, unlock())
	}
	return &cacheDir{root, unlock}, nil
}

func (e *Env) firstPrune(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.pruned == nil {
		e.pruned = map[string]bool{}
	}
	first := !e.pruned[key]
	e.pruned[key] = true
	return first
}

// lockCache chooses one of the directories and locks it.
func lockCache(ctx context.Context, dir string, sharing pb.CacheSharingOpt) (n int, unlock func() error, err error) {
	lock := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)+".lock") }
	var o statefile.LockOptions
	switch sharing {
	case pb.CacheSharingOpt_LOCKED:
		unlock, err := statefile.Lock(ctx, lock(0), o)
		return 0, unlock, err
	case pb.CacheSharingOpt_SHARED:
		o.Shared = true
	case pb.CacheSharingOpt_PRIVATE:
	default:
		return 0, nil, fmt.Errorf("cache sharing %d: %w", sharing, errdefs.ErrInvalidArgument)
	}
	// Who looks whether a directory is used locks it for a moment, which would give us another, empty one.
	chosen, err := statefile.Lock(ctx, chooseLock(dir), statefile.LockOptions{Shared: true})
	if err != nil {
		return 0, nil, err
	}
	defer func() { err = errors.Join(err, chosen()) }()
	const most = 1000
	for n := range most {
		unlock, ok, err := statefile.TryLock(lock(n), o)
		if ok || err != nil {
			return n, unlock, err
		}
	}
	return 0, nil, fmt.Errorf("%d steps use the cache mount: %w", most, errdefs.ErrUnavailable)
}

func chooseLock(dir string) string { return filepath.Join(dir, "lock") }

// fillCache makes the directory files, with the content of base if there is one. Whoever
// comes second, with a shared lock, keeps what the first made.
func (e *Env) fillCache(ctx context.Context, c *solver.Console, key, files string, base *Result, fresh bool) (err error) {
	if _, err := os.Lstat(files); err == nil {
		return nil
	}
	temp := files + newMark + strconv.FormatUint(rand.Uint64(), 36)
	if err := os.Mkdir(temp, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, statefile.RemoveAll(temp)) }()
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if base != nil {
		if err := e.copyAll(ctx, c, *base, temp); err != nil {
			return fmt.Errorf("filling the cache: %w", err)
		}
	}
	if e.FillCache != nil && !fresh {
		if err := e.FillCache(ctx, key, temp); err != nil {
			return fmt.Errorf("filling the cache: %w", err)
		}
	}
	err = unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, files, unix.RENAME_NOREPLACE)
	if err != nil && err != unix.EEXIST {
		return &fs.PathError{Op: "rename", Path: files, Err: err}
	}
	return nil
}

// copyAll copies the whole state r into the directory to of this machine.
func (e *Env) copyAll(ctx context.Context, c *solver.Console, r Result, to string) (err error) {
	src, err := e.source(ctx, c, r)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	dst, err := rootfs.Open(to)
	if err != nil {
		return err
	}
	defer dst.Close()
	return copyTree(ctx, src, "/", destination{Dir: dst}, "/", copyOptions{dirContents: true, rootToo: true, warn: e.warn})
}

func (e *Env) noteCache(key string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.caches == nil {
		e.caches = map[string]bool{}
	}
	e.caches[key] = true
}

// UsedCaches returns the keys of the cache mounts that steps used, sorted.
func (e *Env) UsedCaches() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Sorted(maps.Keys(e.caches))
}

// ReadCache calls read with the files of a cache mount, while no step has it for itself. A cache mount
// without files is left out.
func (e *Env) ReadCache(ctx context.Context, key string, read func(*rootfs.Dir) error) (err error) {
	files := filepath.Join(e.cacheRoot(), key, "0")
	unlock, err := statefile.Lock(ctx, files+".lock", statefile.LockOptions{Shared: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	dir, err := rootfs.Open(files)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(read(dir), dir.Close())
}

// CacheMounts returns the cache mounts there are.
func (e *Env) CacheMounts() ([]CacheMount, error) {
	entries, err := os.ReadDir(e.cacheRoot())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []CacheMount
	for _, entry := range entries {
		m := CacheMount{Key: entry.Name()}
		info := filepath.Join(e.cacheRoot(), entry.Name(), "info.json")
		fi, err := os.Stat(info)
		inside, _ := os.ReadDir(filepath.Join(e.cacheRoot(), entry.Name()))
		if err != nil || !slices.ContainsFunc(inside, holdsCache) || statefile.Read(info, &m) != nil {
			continue // being made or removed
		}
		m.LastUsed = fi.ModTime()
		list = append(list, m)
	}
	return list, nil
}

// Measure fills in what m weighs and whether a step uses it.
func (e *Env) Measure(ctx context.Context, m *CacheMount) (err error) {
	dir := filepath.Join(e.cacheRoot(), m.Key)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil // steps come and go while we look
		case err != nil:
			return err
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			m.Size += st.Blocks * 512
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("measuring the cache mount %s: %w", m.ID, err)
	}
	chosen, err := statefile.Lock(ctx, chooseLock(dir), statefile.LockOptions{})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, chosen()) }()
	entries, err := os.ReadDir(dir)
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".lock") {
			continue
		}
		unlock, ok, err := statefile.TryLock(filepath.Join(dir, entry.Name()), statefile.LockOptions{})
		if err != nil {
			return err
		}
		if !ok {
			m.InUse = true
			continue
		}
		if err := unlock(); err != nil {
			return err
		}
	}
	return err
}

// RemoveCacheMount removes the files of a cache mount, except those that a step uses now.
func (e *Env) RemoveCacheMount(key string) error {
	if digest.NewDigestFromEncoded(digest.SHA256, key).Validate() != nil {
		return fmt.Errorf("cache mount %q: %w", key, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Join(e.cacheRoot(), key)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if holdsCache(entry) {
			errs = append(errs, removeCache(dir, entry.Name()))
		}
	}
	return errors.Join(errs...)
}

func removeCache(dir, name string) (err error) {
	n, _, _ := strings.Cut(name, newMark)
	unlock, ok, err := statefile.TryLock(filepath.Join(dir, n+".lock"), statefile.LockOptions{})
	if !ok || err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return statefile.RemoveAll(filepath.Join(dir, name))
}

// newMark follows the number of a directory in the name it is filled under.
const newMark = ".new-"

// holdsCache says whether an entry of a cache mount is a directory of it, or one that a killed step was filling.
func holdsCache(entry fs.DirEntry) bool {
	n, _, _ := strings.Cut(entry.Name(), newMark)
	_, err := strconv.Atoi(n)
	return err == nil && entry.IsDir()
}
