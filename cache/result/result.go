// Package result owns the build cache's records: what a key of the solver led to.
//
//	DIR/records/HH/HEX    the record whose canonical key is sha256:HHHEX
//	DIR/aliases/HH/HEX    the canonical key that the key sha256:HHHEX stands for
//	DIR/locks/HHH         locks of keys, held by whoever works on one, with the key whose work failed last
//
// Everything in it can be made again, so nothing is fsynced; a document that is missing,
// damaged or not understood is one that was never written. Any number of processes may
// use one directory at the same time.
package result

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/statefile"
)

// A Record is what is known under a key.
type Record struct {
	Key         digest.Digest   `json:"key"`
	Plain       []digest.Digest `json:"plain,omitempty"`       // keys the solver remembers with it; they are no aliases
	Value       json.RawMessage `json:"value"`                 // means nothing to this package
	Description string          `json:"description,omitempty"` // for people: the step that made it
	Layers      []string        `json:"layers,omitempty"`      // IDs of layers the value needs, a root for GC
	Blobs       []digest.Digest `json:"blobs,omitempty"`       // blobs the value needs, a root for GC
	Size        int64           `json:"size"`                  // bytes this record alone keeps, about
	Created     time.Time       `json:"created"`
	LastUsed    time.Time       `json:"-"` // by Get or Touch
}

// alias is the document behind a key that is not canonical.
type alias struct {
	Key       digest.Digest `json:"key"`
	Canonical digest.Digest `json:"canonical"`
}

// A Store keeps records in a directory of its own. It may be used by many goroutines.
type Store struct {
	dir string
}

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) {
	for _, sub := range []string{"records", "aliases", "locks"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("opening the build cache: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// path returns where the document of key is. key must have been checked.
func (s *Store) path(kind string, key digest.Digest) string {
	hex := key.Encoded()
	return filepath.Join(s.dir, kind, hex[:2], hex[2:])
}

func check(key digest.Digest) error {
	if err := key.Validate(); err != nil || key.Algorithm() != digest.SHA256 {
		return fmt.Errorf("build cache key %q: %w", key, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Get returns the record that key names, directly or as an alias, and counts as a use.
// Anything else, a damaged record too, is an errdefs.ErrNotFound.
func (s *Store) Get(ctx context.Context, key digest.Digest) (Record, error) {
	if err := check(key); err != nil {
		return Record{}, err
	}
	r, err := s.read(s.canonical(key))
	if err != nil {
		return Record{}, err
	}
	// A use that cannot be noted only makes the record look older.
	now := time.Now()
	if os.Chtimes(s.path("records", r.Key), now, now) == nil {
		r.LastUsed = now
	}
	return r, nil
}

// canonical follows the alias key, if it is one.
func (s *Store) canonical(key digest.Digest) digest.Digest {
	var a alias // one that is damaged names nothing
	if statefile.Read(s.path("aliases", key), &a) != nil || a.Key != key || check(a.Canonical) != nil {
		return key
	}
	return a.Canonical
}

func (s *Store) read(key digest.Digest) (Record, error) {
	var r Record
	path := s.path("records", key)
	err := statefile.Read(path, &r)
	if err != nil || r.Key != key || len(r.Value) == 0 {
		return Record{}, fmt.Errorf("build cache record %s: %w", key, errdefs.ErrNotFound)
	}
	if fi, err := os.Stat(path); err == nil {
		r.LastUsed = fi.ModTime()
	}
	return r, nil
}

// Put stores r under r.Key, replacing what is there. Created is set if it is zero.
func (s *Store) Put(ctx context.Context, r Record) error {
	if err := check(r.Key); err != nil {
		return err
	}
	if r.Created.IsZero() {
		r.Created = time.Now().UTC()
	}
	if err := write(s.path("records", r.Key), r); err != nil {
		return fmt.Errorf("build cache record %s: %w", r.Key, err)
	}
	return remove(s.path("aliases", r.Key))
}

// Alias makes key another name of the record of canonical, replacing what key named.
func (s *Store) Alias(ctx context.Context, key, canonical digest.Digest) error {
	if err := errors.Join(check(key), check(canonical)); err != nil {
		return err
	}
	if key == canonical {
		return remove(s.path("aliases", key))
	}
	if err := write(s.path("aliases", key), alias{key, canonical}); err != nil {
		return fmt.Errorf("build cache alias %s: %w", key, err)
	}
	return nil
}

// write makes the directory of path only when it is missing, which is rare.
func write(path string, v any) error {
	err := statefile.Write(path, v, statefile.WriteOptions{})
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return statefile.Write(path, v, statefile.WriteOptions{})
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Touch says that the record of the canonical key is used now, and whether it exists.
func (s *Store) Touch(key digest.Digest) (bool, error) {
	if err := check(key); err != nil {
		return false, err
	}
	now := time.Now()
	err := os.Chtimes(s.path("records", key), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Delete forgets the record of a canonical key. Its aliases then lead nowhere. A missing
// record is not an error.
func (s *Store) Delete(ctx context.Context, key digest.Digest) error {
	if err := check(key); err != nil {
		return err
	}
	return remove(s.path("records", key))
}

// Lock waits until nobody else, in this process or another, holds key. unlock takes what the work under the lock came
// to: if it failed, those who waited for it hold no lock, and need not wait for each other. Two keys may share a lock, so
// who holds one must not ask for another.
func (s *Store) Lock(ctx context.Context, key digest.Digest) (unlock func(failed error) error, err error) {
	if err := check(key); err != nil {
		return nil, err
	}
	// A lock file can never be removed, so there is not one for each key that ever was. It says what failed last.
	path := filepath.Join(s.dir, "locks", key.Encoded()[:3])
	before, err := lastFailure(path)
	if err != nil {
		return nil, err
	}
	release, err := statefile.Lock(ctx, path, statefile.LockOptions{})
	if err != nil {
		return nil, err
	}
	now, err := lastFailure(path)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	if now != before && strings.HasPrefix(now, key.String()+" ") {
		return func(error) error { return nil }, release()
	}
	return func(failed error) error {
		if failed != nil {
			// Where it cannot be written, for the disk is full, they wait for each other.
			_ = os.WriteFile(path, []byte(key.String()+" "+rand.Text()), 0o600)
		}
		return release()
	}, nil
}

// lastFailure returns what the lock file path says: a key, and what no other failure has.
func lastFailure(path string) (string, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(text), err
}
