package solver

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// A Record is a result that is known, under its canonical key.
type Record[R any] struct {
	Key         digest.Digest
	Description string // for people: the name of the vertex that made it
	Outputs     []R
	// Plain, of a result that was made in spite of the cache or stands on one, are the keys it would have
	// without that, the canonical one first. Key says that it is not the old result; whoever has never
	// seen the old one, nor what this one stands on, asks for it under a plain key.
	Plain []digest.Digest
}

// plain is the canonical key r would have if nothing had been made in spite of the cache.
func (r Record[R]) plain() digest.Digest {
	if len(r.Plain) > 0 {
		return r.Plain[0]
	}
	return r.Key
}

// A Cache remembers records between builds. It is used by several goroutines, and its files
// by several processes, at once.
type Cache[R any] interface {
	// Get returns the record which key names, directly or as an alias. ok is false if
	// there is none or if its results are no longer there. The Key of the record that is
	// returned is its canonical key, which is not the key asked for if that was an alias.
	Get(ctx context.Context, key digest.Digest) (r Record[R], ok bool, err error)
	// Put stores r under r.Key.
	Put(ctx context.Context, r Record[R]) error
	// Alias makes key another name of the record of canonical, replacing what key named.
	Alias(ctx context.Context, key, canonical digest.Digest) error
	// Lock waits until nobody else, in this process or another, works on key. unlock takes what the work came to. Those
	// who waited for work that failed hold no lock: they would fail one after another.
	Lock(ctx context.Context, key digest.Digest) (unlock func(failed error) error, err error)
}
