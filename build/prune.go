package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/statefile"
)

// Types of cache entries, in BuildKit's words.
const (
	CacheRegular = "regular"             // the result of a step
	CacheLocal   = "source.local"        // files that a client of the engine sent
	CacheMount   = "exec.cachemount"     // the directory of a RUN --mount=type=cache
	CacheGit     = "source.git.checkout" // what was fetched from a repository
)

// A CacheEntry is something the build cache keeps.
type CacheEntry struct {
	ID          string // 25 hex digits
	Type        string // CacheRegular, CacheLocal, CacheMount or CacheGit
	Description string
	Size        int64 // bytes that go with it
	Created     time.Time
	LastUsed    time.Time
	InUse       bool // a step works with it now, so it cannot go
	Shared      bool // an image or a container needs its bytes too

	key    digest.Digest // of a result
	dir    string        // of a cache mount
	mirror string        // of files that were sent
	repo   string        // of a repository
}

func shortKey(hex string) string { return hex[:min(25, len(hex))] }

// Cache lists the build cache, the least recently used first.
func (b *Builder) Cache(ctx context.Context) ([]CacheEntry, error) {
	records, err := b.Store.BuildRecords(ctx)
	if err != nil {
		return nil, err
	}
	var list []CacheEntry
	for _, r := range records {
		list = append(list, CacheEntry{
			ID: shortKey(r.Key.Encoded()), Type: CacheRegular, Description: r.Description, Size: r.Size,
			Created: r.Created, LastUsed: r.LastUsed, Shared: r.Shared, key: r.Key,
		})
	}
	env := b.mounts()
	mounts, err := env.CacheMounts()
	if err != nil {
		return nil, err
	}
	for _, m := range mounts {
		if err := env.Measure(ctx, &m); err != nil {
			return nil, err
		}
		list = append(list, CacheEntry{
			ID: shortKey(m.Key), Type: CacheMount, Description: "cached mount " + m.ID, Size: m.Size,
			Created: m.LastUsed, LastUsed: m.LastUsed, InUse: m.InUse, dir: m.Key,
		})
	}
	mirrors, err := b.mirrorEntries(ctx)
	if err != nil {
		return nil, err
	}
	list = append(list, mirrors...)
	repos, err := env.GitRepos()
	if err != nil {
		return nil, err
	}
	for _, r := range repos {
		e := CacheEntry{
			ID: shortKey(r.Key), Type: CacheGit, Description: strings.TrimSpace("git repository " + r.Remote),
			Created: r.LastUsed, LastUsed: r.LastUsed, InUse: r.InUse, repo: r.Key,
		}
		if e.Size, err = sizeBelow(ctx, r.Dir); err != nil {
			return nil, fmt.Errorf("measuring the %s: %w", e.Description, err)
		}
		list = append(list, e)
	}
	slices.SortStableFunc(list, func(a, b CacheEntry) int { return a.LastUsed.Compare(b.LastUsed) })
	return list, nil
}

// mounts returns what knows of cache mounts and of repositories.
func (b *Builder) mounts() *op.Env {
	return &op.Env{Store: b.Store, Dir: filepath.Join(b.Store.Root(), "build")}
}

// PruneOptions say which entries of the build cache may stay.
type PruneOptions struct {
	All     bool                  // also what an image needs too, which frees nothing
	Keep    int64                 // bytes that may stay, the most recently used; 0: none
	MaxUsed int64                 // if not 0, no more goes than until so many bytes are left; Keep stays even then
	MinFree int64                 // if not 0, no more goes than until the disk has so many bytes free; likewise
	Matches func(CacheEntry) bool // only these may go; nil: all
	DryRun  bool
	// Collected says that garbage was just collected, which need not be done again for nothing.
	Collected bool
}

// Prune removes the least recently used entries until o is content, what only they kept in the
// store, and what builds that were killed have left.
func (b *Builder) Prune(ctx context.Context, o PruneOptions) ([]CacheEntry, error) {
	all, err := b.Cache(ctx)
	if err != nil {
		return nil, fmt.Errorf("pruning the build cache: %w", err)
	}
	_, free, err := diskSpace(b.Store.Root())
	if err != nil {
		return nil, fmt.Errorf("pruning the build cache: %w", err)
	}
	gone := o.choose(all, free)
	if o.DryRun {
		return gone, nil
	}
	if err := b.sweep(ctx); err != nil {
		return nil, fmt.Errorf("removing what builds that were killed have left: %w", err)
	}
	if err := b.forget(time.Now().Add(-notesLife)); err != nil {
		return nil, fmt.Errorf("pruning the build cache: %w", err)
	}
	if len(gone) == 0 && o.Collected {
		return nil, nil
	}
	return gone, b.remove(ctx, gone)
}

// remove removes entries, and collects what then nobody needs.
func (b *Builder) remove(ctx context.Context, gone []CacheEntry) error {
	var keys []digest.Digest
	var errs []error
	for _, e := range gone {
		if e.mirror != "" {
			errs = append(errs, b.removeMirror(e.mirror))
			continue
		}
		if e.repo != "" {
			errs = append(errs, b.mounts().RemoveGitRepo(e.repo))
			continue
		}
		if e.dir != "" {
			errs = append(errs, b.mounts().RemoveCacheMount(e.dir))
			continue
		}
		keys = append(keys, e.key)
	}
	errs = append(errs, b.Store.Results.Forget(ctx, keys))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("pruning the build cache: %w", err)
	}
	_, err := b.Store.GC(ctx, cache.GCOptions{})
	return err
}

// notesLife is how long small notes stay that builds make: of files of contexts, so as not to read them again, of downloads,
// and of steps, for --why. One that is still of use is made again.
const notesLife = 30 * 24 * time.Hour

// forget removes the notes that were not written since before.
func (b *Builder) forget(before time.Time) error {
	dir := filepath.Join(b.Store.Root(), "build")
	var errs []error
	for _, notes := range []string{"contexts", "http", "why"} {
		entries, err := os.ReadDir(filepath.Join(dir, notes))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries { // of steps, the directory has changed with each build
			if fi, err := e.Info(); err == nil && fi.ModTime().Before(before) {
				errs = append(errs, os.RemoveAll(filepath.Join(dir, notes, e.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// A sweeper is an op.Executor whose commands may leave something when it is killed.
type sweeper interface {
	Sweep(ctx context.Context) error
}

var _ sweeper = (*op.Containers)(nil)

// sweep takes away what builds that were killed have left outside of the store.
func (b *Builder) sweep(ctx context.Context) error {
	err := statefile.SweepScratch(filepath.Join(b.Store.RunRoot(), "build"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if s, ok := b.Executor.(sweeper); ok {
		err = errors.Join(err, s.Sweep(ctx))
	}
	return err
}

// stays returns how many bytes of total may stay, 0 for none, where the disk has free bytes.
func (o PruneOptions) stays(total, free int64) int64 {
	if o.MaxUsed == 0 && o.MinFree == 0 {
		return o.Keep
	}
	keep := total
	if o.MaxUsed != 0 {
		keep = min(keep, o.MaxUsed)
	}
	if missing := o.MinFree - free; missing > 0 {
		keep = min(keep, total-missing)
	}
	return max(keep, o.Keep, 1) // not 0, which would be none at all, also of what has no bytes
}

// choose returns what goes of all, which is sorted by use.
func (o PruneOptions) choose(all []CacheEntry, free int64) (gone []CacheEntry) {
	var total int64
	for _, e := range all {
		total += e.Size
	}
	keep := o.stays(total, free)
	for _, e := range all {
		if keep > 0 && total <= keep {
			break
		}
		if e.InUse || e.Shared && !o.All || o.Matches != nil && !o.Matches(e) {
			continue
		}
		gone = append(gone, e)
		total -= e.Size
	}
	return gone
}

// Between two looks at the size of the build cache there is at least this.
const collectEvery = time.Hour

// collect holds the build cache to its size, now and then.
func (b *Builder) collect(ctx context.Context) error {
	if b.CacheSize < 0 {
		return nil
	}
	stamp := filepath.Join(b.Store.Root(), "build", "collected")
	fi, statErr := os.Stat(stamp)
	if statErr == nil && time.Since(fi.ModTime()) < collectEvery {
		return nil
	}
	if err := os.WriteFile(stamp, nil, 0o600); err != nil {
		return err
	}
	if errors.Is(statErr, os.ErrNotExist) {
		return nil // the first build on this store, which may be the only one, as on a CI machine
	}
	if err := b.forget(time.Now().Add(-notesLife)); err != nil {
		return err
	}
	keep := b.CacheSize
	if keep == 0 {
		var err error
		if keep, err = defaultCacheSize(b.Store.Root()); err != nil {
			return err
		}
	}
	all, err := b.Cache(ctx)
	if err != nil {
		return err
	}
	gone := PruneOptions{All: true, Keep: keep}.choose(all, 0)
	if len(gone) == 0 {
		return nil
	}
	return b.remove(ctx, gone)
}

// diskSpace returns the bytes that the disk of dir has, and those that are left.
func diskSpace(dir string) (size, free int64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(fs.Blocks) * fs.Bsize, int64(fs.Bavail) * fs.Bsize, nil
}

// defaultCacheSize is a tenth of the disk, at least 10 GB if that is no more than half of it.
func defaultCacheSize(dir string) (int64, error) {
	disk, _, err := diskSpace(dir)
	if err != nil {
		return 0, err
	}
	return min(max(disk/10, 10e9), disk/2), nil
}
