package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// collector is one collection.
//
// Each repository in turn: its manifests are read without a lock, then the links that none
// of them names are removed by small batches under its locks, if their inodes are old even
// then. A manifest that was pushed since the reading began has touched what it refers to.
// Last the files in blobs/ that no repository links go; they need no lock.
type collector struct {
	s    *directory
	o    GCOptions
	cut  time.Time // what changed since is fresh
	pace pacer
	gone map[uint64]uint64 // of a dry run: how many links of an inode would be gone

	report GCReport
	errs   []error
}

const (
	// gcBatch is how many names are removed under one lock.
	gcBatch = 32
	// gcWait is how long to wait for that lock in a repository that is pushed to all the time.
	gcWait = 20 * time.Second
	// maxGCErrors bounds the errors of a collection that are told.
	maxGCErrors = 10
)

var algorithms = [...]digest.Algorithm{digest.SHA256, digest.SHA512}

// Collect implements storage.
func (s *directory) Collect(ctx context.Context, o GCOptions) (GCReport, error) {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Grace < MinGrace {
		return GCReport{}, fmt.Errorf("a grace of %s is too short, it is at least %s: %w", o.Grace, MinGrace, errdefs.ErrInvalidArgument)
	}
	if !o.DryRun {
		unlock, err := s.lockGC()
		if err != nil {
			return GCReport{}, err
		}
		defer unlock()
	}
	c := s.newCollector(o)
	err := c.run(ctx)
	return c.report, err
}

// lockGC makes this the only collection. Its end is the mtime of the lock.
func (s *directory) lockGC() (unlock func(), err error) {
	f, err := os.OpenFile(s.gcLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == unix.EWOULDBLOCK {
		err = fmt.Errorf("another collection is running: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() {
		now := time.Now()
		_ = os.Chtimes(s.gcLock(), now, now) // else the next collection comes early
		f.Close()
	}, nil
}

// LastCollection implements storage.
func (s *directory) LastCollection() time.Time {
	fi, err := os.Lstat(s.gcLock())
	if err != nil {
		return time.Time{}
	}
	return fi.ModTime()
}

func (s *directory) newCollector(o GCOptions) *collector {
	now := time.Now()
	return &collector{s: s, o: o, cut: now.Add(-o.Grace), pace: pacer{rate: o.Rate, start: now}, gone: map[uint64]uint64{}}
}

func (c *collector) run(ctx context.Context) error {
	err := c.s.eachRepository("", func(repo string) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		// One repository that cannot be read keeps its garbage, not everybody's.
		if err := c.repository(ctx, repo); err != nil && len(c.errs) < maxGCErrors {
			c.errs = append(c.errs, fmt.Errorf("repository %s: %w", repo, err))
		}
		return ctx.Err()
	})
	if err == nil {
		err = c.sweepShared(ctx)
	}
	return errors.Join(append(c.errs, err)...)
}

// eachRepository calls f with the name of every directory below prefix that was pushed to.
func (s *directory) eachRepository(prefix string, f func(repo string) error) error {
	names, err := readNames(s.repo(prefix))
	if errdefs.IsNotFound(err) {
		return nil // removed meanwhile, or a file of somebody else
	}
	if err != nil {
		return err
	}
	for _, name := range names {
		repo := strings.TrimPrefix(prefix+"/"+name, "/")
		if !validName(repo) {
			continue
		}
		if s.exists(repo) {
			if err := f(repo); err != nil {
				return err
			}
		}
		if err := s.eachRepository(repo, f); err != nil {
			return err
		}
	}
	return nil
}

func (c *collector) repository(ctx context.Context, repo string) error {
	c.report.Repositories++
	stamp := c.s.stampRepository(repo)
	if c.s.clean.is(repo, stamp) && !c.o.Untagged {
		c.report.Unchanged++
		return nil
	}
	before := c.report
	if err := c.barrier(ctx, repo); err != nil {
		return err
	}
	if c.o.Untagged {
		if err := c.sweepManifests(ctx, repo); err != nil {
			return err
		}
	}
	marked, err := c.mark(ctx, repo)
	if err != nil {
		return err
	}
	for _, a := range algorithms {
		if err := c.sweepBlobs(ctx, repo, a, marked); err != nil {
			return err
		}
	}
	if c.report.Fresh == before.Fresh && c.report.Busy == before.Busy && c.report.RemovedLinks == before.RemovedLinks {
		c.s.clean.set(repo, stamp)
	}
	return nil
}

// barrier waits until every manifest whose references were seen, and touched, before the
// collection began is visible.
func (c *collector) barrier(ctx context.Context, repo string) error {
	if c.o.DryRun {
		return nil
	}
	// The directory is the lock: a repository that has only blobs needs it too.
	if err := c.s.sync.mkdir(c.s.repo(repo) + "/_manifests"); err != nil {
		return err
	}
	unlock, err := c.lock(ctx, repo)
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// lock is lockRepository, exclusively and with a limit.
func (c *collector) lock(ctx context.Context, repo string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, gcWait, errBusy)
	defer cancel()
	unlock, err = c.s.lockRepository(ctx, repo, unix.LOCK_EX)
	if errors.Is(err, errBusy) {
		c.report.Busy++
	}
	return unlock, err
}

var errBusy = errors.New("too many pushes to wait for their end")

// marks are the digests that manifests refer to, by the first 64 bits: what collides is
// kept, and a million take 30 MB.
type marks map[uint64]struct{}

func (m marks) add(d digest.Digest)      { m[markOf(d.Encoded())] = struct{}{} }
func (m marks) has(hex string) (ok bool) { _, ok = m[markOf(hex)]; return ok }

func markOf(hex string) uint64 {
	n, _ := strconv.ParseUint(hex[:16], 16, 64) // digests have been checked
	return n
}

// mark reads the manifests of a repository. If one cannot be read nothing is known.
func (c *collector) mark(ctx context.Context, repo string) (marks, error) {
	m := marks{}
	err := c.eachRecord(ctx, repo, func(r record) error {
		c.report.Manifests++
		refs, _, err := referencesOf(r)
		for _, d := range refs {
			m.add(d)
		}
		return err
	})
	return m, err
}

// eachRecord calls f with every manifest of a repository.
func (c *collector) eachRecord(ctx context.Context, repo string, f func(record) error) error {
	for _, a := range algorithms {
		dir := c.s.repo(repo) + "/_manifests/" + a.String()
		names, err := readNames(dir)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		for _, name := range names {
			if _, err := parseDigest(a.String() + ":" + name); err != nil {
				continue // not ours
			}
			r, _, err := readRecord(filepath.Join(dir, name))
			if errdefs.IsNotFound(err) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = f(r)
			}
			if err == nil {
				err = c.pace.did(ctx, 1)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

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
		st, removed, err := c.unlink(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if !removed {
			continue
		}
		c.report.RemovedLinks++
		if st.Nlink <= 1 { // it was not in blobs/
			c.report.RemovedBlobs++
			c.report.Bytes += st.Size
		}
	}
	return c.pace.did(ctx, 10*len(names))
}

// unlink removes a file that is old. The Nlink of the result counts the links there were, or
// would have been in a run that is not dry.
func (c *collector) unlink(path string) (st unix.Stat_t, removed bool, err error) {
	st, err = lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return st, false, nil
	}
	if err != nil {
		return st, false, err
	}
	if !changed(&st).Before(c.cut) {
		c.report.Fresh++
		return st, false, nil
	}
	if c.o.DryRun {
		st.Nlink -= c.gone[st.Ino]
		c.gone[st.Ino]++
		return st, true, nil
	}
	err = os.Remove(path)
	return st, err == nil, err
}

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
	if st.Nlink-c.gone[st.Ino] > 1 || st.Mode&unix.S_IFMT != unix.S_IFREG {
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
