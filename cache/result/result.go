// Package result owns the build cache's records: what a key of the solver led to.
//
//	ROOT/records/HH/HEX    the record whose canonical key is sha256:HEX
//	ROOT/aliases/HH/HEX    the canonical key that the key sha256:HEX stands for
//	ROOT/locks/HH          locks of keys, held by whoever works on one
//
// Everything in it can be made again, so nothing is fsynced; a document that is missing,
// damaged or not understood is one that was never written. Any number of processes may
// use one directory at the same time.
package result

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
)

var errTODO = errors.New("not written yet")

// A Record is what is known under a key.
type Record struct {
	Key         digest.Digest   `json:"key"`
	Value       json.RawMessage `json:"value"`            // means nothing to this package
	Description string          `json:"description"`      // for people: the step that made it
	Layers      []string        `json:"layers,omitempty"` // IDs of layers the value needs, a root for GC
	Blobs       []digest.Digest `json:"blobs,omitempty"`  // blobs the value needs, a root for GC
	Size        int64           `json:"size"`             // bytes this record alone keeps, about
	Created     time.Time       `json:"created"`
	LastUsed    time.Time       `json:"-"` // by Get or Touch
}

// A Store keeps records in a directory of its own.
type Store struct {
	dir string
}

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) { return nil, errTODO }

// Get returns the record that key names, directly or as an alias, and counts as a use.
// Anything else, a damaged record too, is an errdefs.ErrNotFound.
func (s *Store) Get(ctx context.Context, key digest.Digest) (Record, error) {
	return Record{}, errTODO
}

// Put stores r under r.Key, replacing what is there. Created is set if it is zero.
func (s *Store) Put(ctx context.Context, r Record) error { return errTODO }

// Alias makes key another name of the record of canonical, replacing what key named.
func (s *Store) Alias(ctx context.Context, key, canonical digest.Digest) error { return errTODO }

// Touch says that the record of the canonical key is used now, and whether it exists.
func (s *Store) Touch(key digest.Digest) (bool, error) { return false, errTODO }

// Delete forgets the record of a canonical key. Its aliases then lead nowhere. A missing
// record is not an error.
func (s *Store) Delete(ctx context.Context, key digest.Digest) error { return errTODO }

// Walk calls fn for each record, in no order, until fn returns an error.
func (s *Store) Walk(ctx context.Context, fn func(Record) error) error { return errTODO }

// Lock waits until nobody else, in this process or another, holds key.
func (s *Store) Lock(ctx context.Context, key digest.Digest) (unlock func() error, err error) {
	return nil, errTODO
}

// PruneOptions say which records may stay.
type PruneOptions struct {
	Keep    int64         // bytes that may stay, the most recently used; 0 means none
	Unused  time.Duration // only what was not used for so long; 0 means all
	DryRun  bool
	Matches func(Record) bool // only these; nil means all
}

// Prune deletes the least recently used records until o is content, with aliases that lead
// nowhere, and returns them. What they needed is freed by the next collection of the store.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]Record, error) {
	return nil, errTODO
}
