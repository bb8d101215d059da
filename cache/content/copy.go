package content

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// CopyOptions change how Copy works.
type CopyOptions struct {
	Platforms   []ocispec.Platform // only these out of an index; nil means all
	Concurrency int                // blobs at once; 0 means 4
	Foreign     bool               // also layers that must not be distributed
	Progress    Progress
}

// Copy copies root and everything it refers to from src to dst, children before parents,
// several blobs at once, each once. What dst has already is not fetched.
//
// Manifests are always looked into, even those dst has: a local store may have a manifest
// without its layers, where another run was killed or one platform of many was wanted.
func Copy(ctx context.Context, dst Pusher, src Fetcher, root ocispec.Descriptor, o CopyOptions) error {
	if o.Concurrency <= 0 {
		o.Concurrency = 4
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	c := &copier{dst: dst, src: src, opts: o, stop: stop, slots: make(chan struct{}, o.Concurrency), tasks: map[key]*task{}}
	if c.copy(ctx, root, 0) != nil {
		return context.Cause(ctx)
	}
	return nil
}

// A key tells descriptors apart that must be copied each: the same bytes called a layer here
// and a manifest there have children only there.
type key struct {
	digest    digest.Digest
	size      int64
	mediaType string
}

// A task is a descriptor being copied, or copied.
type task struct {
	done chan struct{}
	err  error
}

type copier struct {
	dst   Pusher
	src   Fetcher
	opts  CopyOptions
	stop  context.CancelCauseFunc // ends all tasks: several documents may wait for one
	slots chan struct{}           // one for each blob that moves; not held while waiting for children

	mu    sync.Mutex
	tasks map[key]*task
}

// copy copies d once and waits for it. There are no cycles to wait in: a digest cannot be in its own bytes.
func (c *copier) copy(ctx context.Context, d ocispec.Descriptor, depth int) error {
	k := key{d.Digest, d.Size, d.MediaType}
	c.mu.Lock()
	t, running := c.tasks[k]
	if !running {
		t = &task{done: make(chan struct{})}
		c.tasks[k] = t
	}
	c.mu.Unlock()
	if !running {
		if t.err = c.do(ctx, d, depth); t.err != nil {
			c.stop(t.err)
		}
		close(t.done)
	}
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (c *copier) do(ctx context.Context, d ocispec.Descriptor, depth int) error {
	switch {
	case IsForeign(d.MediaType) && !c.opts.Foreign:
		return nil
	case IsIndex(d.MediaType) || IsManifest(d.MediaType) || isSchema1(d.MediaType):
		return c.document(ctx, d, depth)
	}
	return c.slot(ctx, func() error { return c.blob(ctx, d) })
}

// slot calls fn when fewer than Concurrency blobs move.
func (c *copier) slot(ctx context.Context, fn func() error) error {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.slots }()
	return fn()
}

// maxWaiting is how many children of a document are looked at at once: a manifest has room for 30,000, and each that
// waits for its turn costs some memory.
const maxWaiting = 64

// document copies what the manifest or index d refers to, then d.
func (c *copier) document(ctx context.Context, d ocispec.Descriptor, depth int) error {
	const deepest = 8
	if depth > deepest {
		return fmt.Errorf("%s: indexes more than %d deep: %w", d.Digest, deepest, errdefs.ErrResourceExhausted)
	}
	var doc document
	var data []byte
	err := c.slot(ctx, func() (err error) {
		doc, data, err = readDocument(ctx, c.src, d)
		return err
	})
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(maxWaiting)
	for _, child := range c.wanted(doc) {
		g.Go(func() error { return c.copy(ctx, child, depth+1) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return c.slot(ctx, func() error {
		ok, err := c.dst.Exists(ctx, d)
		if err != nil {
			return err
		}
		if ok {
			c.opts.Progress.emit(Event{Kind: EventExists, Desc: d, Current: d.Size, Total: d.Size})
			return nil
		}
		if err := c.dst.Push(ctx, d, bytes.NewReader(data)); err != nil {
			return fmt.Errorf("copying manifest %s: %w", d.Digest, err)
		}
		c.opts.Progress.emit(Event{Kind: EventDone, Desc: d, Current: d.Size, Total: d.Size})
		return nil
	})
}

// wanted leaves out the platforms nobody asked for.
func (c *copier) wanted(doc document) []ocispec.Descriptor {
	if doc.index == nil || c.opts.Platforms == nil {
		return doc.children()
	}
	return SelectPlatforms(*doc.index, c.opts.Platforms)
}

// SelectPlatforms returns the entries of index that are best for each of the platforms, the
// statements about those, and the entries that tell no platform. The order is that of the index.
func SelectPlatforms(index ocispec.Index, platforms []ocispec.Platform) []ocispec.Descriptor {
	best := map[digest.Digest]bool{}
	for _, p := range platforms {
		var chosen digest.Digest
		score := 0
		for _, d := range index.Manifests {
			if d.Platform == nil || IsAttestation(d) {
				continue
			}
			if n := MatchPlatform(p, *d.Platform); n > score {
				chosen, score = d.Digest, n
			}
		}
		if score > 0 {
			best[chosen] = true
		}
	}
	var out []ocispec.Descriptor
	for _, d := range index.Manifests {
		if best[d.Digest] || IsAttestation(d) && best[AboutOf(d)] || d.Platform == nil && !IsAttestation(d) {
			out = append(out, d)
		}
	}
	return out
}

// blob copies the leaf d.
func (c *copier) blob(ctx context.Context, d ocispec.Descriptor) (err error) {
	ok, err := c.dst.Exists(ctx, d)
	if err != nil {
		return err
	}
	if ok {
		c.opts.Progress.emit(Event{Kind: EventExists, Desc: d, Current: d.Size, Total: d.Size})
		return nil
	}
	r, err := c.src.Fetch(ctx, d)
	if err != nil {
		return fmt.Errorf("copying %s: %w", d.Digest, err)
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := c.dst.Push(ctx, d, c.opts.Progress.Reader(r, d)); err != nil {
		return fmt.Errorf("copying %s: %w", d.Digest, err)
	}
	c.opts.Progress.emit(Event{Kind: EventDone, Desc: d, Current: d.Size, Total: d.Size})
	return nil
}

// Reader returns r, telling p how much of d has been read.
func (p Progress) Reader(r io.Reader, d ocispec.Descriptor) io.Reader { return p.ReaderFrom(r, d, 0) }

// ReaderFrom is Reader for an r that begins at the byte offset of d.
func (p Progress) ReaderFrom(r io.Reader, d ocispec.Descriptor, offset int64) io.Reader {
	if p == nil {
		return r
	}
	return &progressReader{r: r, p: p, event: Event{Kind: EventTransfer, Desc: d, Current: offset, Total: d.Size}}
}

type progressReader struct {
	r     io.Reader
	p     Progress
	event Event
	told  int64
}

func (r *progressReader) Read(b []byte) (int, error) {
	n, err := r.r.Read(b)
	r.event.Current += int64(n)
	const step = 128 << 10 // often enough for the eye
	if r.event.Current-r.told >= step || err != nil {
		r.told = r.event.Current
		r.p(r.event)
	}
	return n, err
}
