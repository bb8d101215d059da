package registry

import (
	"context"
	"errors"
	"fmt"
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
	if c.s.clean.is(repo, stamp) && !c.o.untagged(repo) {
		c.report.Unchanged++
		return nil
	}
	before := c.report
	if err := c.barrier(ctx, repo); err != nil {
		return err
	}
	if c.o.untagged(repo) {
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
			d, err := parseDigest(a.String() + ":" + name)
			if err != nil {
				continue // not ours
			}
			r, _, err := readRecord(filepath.Join(dir, name))
			if errdefs.IsNotFound(err) {
				continue // deleted meanwhile
			}
			if err == nil && !r.is(d) {
				err = otherBytes(d)
			}
			if err == nil {
				err = f(r)
			}
			if err == nil {
				err = c.pace.did(ctx, 5) // opened, read and parsed
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
