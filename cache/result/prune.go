package result

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/statefile"
)

// Walk calls fn for each record, in no order, until fn returns an error. Damaged records
// are left out, and deleted once they are old enough not to be in the making.
func (s *Store) Walk(ctx context.Context, fn func(Record) error) error {
	return s.keys(ctx, "records", func(key digest.Digest, path string) error {
		r, err := s.read(key)
		if err != nil {
			return sweep(path)
		}
		return fn(r)
	})
}

// keys calls fn for each document of a kind, and clears away what is none.
func (s *Store) keys(ctx context.Context, kind string, fn func(key digest.Digest, path string) error) error {
	root := filepath.Join(s.dir, kind)
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // deleted meanwhile
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.IsDir():
			return nil
		}
		key := digest.NewDigestFromEncoded(digest.SHA256, filepath.Base(filepath.Dir(path))+d.Name())
		if check(key) != nil {
			return sweep(path)
		}
		return fn(key, path)
	})
}

// sweep removes what a process left half written, when it cannot be writing any more.
func sweep(path string) error {
	const old = time.Hour
	fi, err := os.Lstat(path)
	if err != nil || time.Since(fi.ModTime()) < old {
		return nil
	}
	return remove(path)
}

// PruneOptions say which records may stay.
type PruneOptions struct {
	Keep    int64             // bytes that may stay, the most recently used; 0 means none
	Unused  time.Duration     // only what was not used for so long may go; 0 means all
	Matches func(Record) bool // only these may go; nil means all
	DryRun  bool              // only tell what would go
}

// Prune deletes the least recently used records until o is content, with the aliases that lead
// nowhere, and returns them. What they needed is freed by the next collection of the store.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]Record, error) {
	var all []Record
	err := s.Walk(ctx, func(r Record) error {
		all = append(all, r)
		return nil
	})
	if err != nil {
		return nil, err
	}
	gone := choose(all, o, time.Now())
	if o.DryRun {
		return gone, nil
	}
	keys := make([]digest.Digest, len(gone))
	for i, r := range gone {
		keys[i] = r.Key
	}
	return gone, s.Forget(ctx, keys)
}

// Forget deletes the records of canonical keys, with the aliases that then lead nowhere.
func (s *Store) Forget(ctx context.Context, keys []digest.Digest) error {
	for _, key := range keys {
		if err := s.Delete(ctx, key); err != nil {
			return err
		}
	}
	return s.dropAliases(ctx)
}

// choose returns the records that go, the least recently used first.
func choose(all []Record, o PruneOptions, now time.Time) []Record {
	slices.SortFunc(all, func(a, b Record) int { return a.LastUsed.Compare(b.LastUsed) })
	var total int64
	for _, r := range all {
		total += r.Size
	}
	var gone []Record
	for _, r := range all {
		if o.Keep > 0 && total <= o.Keep {
			break
		}
		if now.Sub(r.LastUsed) < o.Unused || o.Matches != nil && !o.Matches(r) {
			continue
		}
		gone = append(gone, r)
		total -= r.Size
	}
	return gone
}

// dropAliases removes the aliases without a record. One that is written at this moment, for a
// record that is written next, may be lost; its step is then found by content, or made again.
func (s *Store) dropAliases(ctx context.Context) error {
	return s.keys(ctx, "aliases", func(_ digest.Digest, path string) error {
		var a alias
		err := statefile.Read(path, &a)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && check(a.Canonical) == nil {
			if _, err := os.Lstat(s.path("records", a.Canonical)); err == nil {
				return nil
			}
		}
		return remove(path)
	})
}
