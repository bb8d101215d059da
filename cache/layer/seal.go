package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/statefile"
)

// Seal computes the DiffID of a layer made by Adopt and records it with the epoch that was
// used, so that each later Diff gives the same bytes. A layer with a DiffID is returned as it is.
func (s *Store) Seal(ctx context.Context, id string, epoch *time.Time) (Layer, error) {
	return s.SealTo(ctx, id, epoch, SealTee{})
}

// A SealTee takes the tar that Seal makes, for those who want it anyway.
type SealTee struct {
	Writer io.Writer // may be nil
	// Done, unless nil, is called when the tar is complete and its DiffID known, before anybody who
	// waits for Seal goes on. Its error is that of Seal.
	Done func(Layer) error
}

// SealTo is Seal that writes the tar to tee as well. A layer that has a DiffID is returned as it is, and
// nothing is written.
func (s *Store) SealTo(ctx context.Context, id string, epoch *time.Time, tee SealTee) (_ Layer, err error) {
	r, err := s.sealable(id)
	if err != nil || r.DiffID != "" {
		return r.layer(), err
	}
	unlock, err := statefile.Lock(ctx, s.sealLock(id), statefile.LockOptions{})
	if err != nil {
		return Layer{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(s.sealLock(id)), unlock()) }()
	if r, err = s.sealable(id); err != nil || r.DiffID != "" {
		return r.layer(), err
	}
	h := newAsyncHash()
	var w io.Writer = h
	if tee.Writer != nil {
		w = io.MultiWriter(h, tee.Writer)
	}
	r.Size, err = writeTar(ctx, s.Path(id), w, r.UserXattr, epoch)
	r.DiffID, r.TarSize = h.finish(), h.size
	if err != nil {
		return Layer{}, fmt.Errorf("computing the diffID of the layer %s: %w", id, err)
	}
	r.Sealed = true
	if epoch != nil {
		t := epoch.UTC().Truncate(time.Second)
		r.Epoch = &t
	}
	// Sync asks for the lock too, so the marker does not come in between.
	_, err = os.Lstat(s.marker(id))
	if err := statefile.Write(s.record(id), r, statefile.WriteOptions{Durable: err == nil}); err != nil {
		return Layer{}, err
	}
	if err := s.index(r.DiffID, id); err != nil { // Touch will do it, if we are killed before
		return r.layer(), err
	}
	if tee.Done != nil {
		return r.layer(), tee.Done(r.layer())
	}
	return r.layer(), nil
}

// sealable reads the record; on error it returns an empty one.
func (s *Store) sealable(id string) (*record, error) {
	r, err := s.read(id)
	if err == nil && r.stale {
		err = fmt.Errorf("layer %s is from before the last start of the machine: %w", id, errdefs.ErrNotFound)
	}
	if err != nil {
		return &record{}, err
	}
	return r, nil
}

// An asyncHash computes a digest beside the one who writes to it.
type asyncHash struct {
	full, empty chan []byte
	hash        hash.Hash
	size        int64 // bytes written
	done        chan struct{}
}

func newAsyncHash() *asyncHash {
	const buffers = 3
	h := &asyncHash{full: make(chan []byte, buffers), empty: make(chan []byte, buffers), hash: sha256.New(), done: make(chan struct{})}
	for range buffers {
		h.empty <- nil
	}
	go func() {
		defer close(h.done)
		for buf := range h.full {
			h.hash.Write(buf)
			h.empty <- buf
		}
	}()
	return h
}

// Write never fails.
func (h *asyncHash) Write(p []byte) (int, error) {
	h.size += int64(len(p))
	h.full <- append((<-h.empty)[:0], p...)
	return len(p), nil
}

// finish ends the goroutine and returns the digest.
func (h *asyncHash) finish() digest.Digest {
	close(h.full)
	<-h.done
	return digest.NewDigest(digest.SHA256, h.hash)
}
