package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// A leased object is a document with an owner. Who wants to work on what it describes writes
// himself into it, by a conditional request, and writes it again and again while he works.
// If it does not change for the time of a lease its owner is dead, and the next one takes
// it. No clocks are compared: each who waits looks at his own.

// errLost says that another server took what was leased here.
var errLost = fmt.Errorf("another server took over: %w", errdefs.ErrUnavailable)

// errHeld is the cause of a lease that could not be had in time.
var errHeld = errors.New("held by another request")

// lease is an object that is held. It is renewed until end.
type lease struct {
	b    *bucket
	key  string
	body func() []byte // what to renew it with

	mu      sync.Mutex // held while it is written
	etag    string
	written time.Time
	unsure  []string // nonces of what was written since, perhaps: nobody said
	err     error    // errLost, or nil

	stop context.CancelFunc
	done chan struct{}
}

// hold takes the object at key. held tells whether a body has an owner, take returns the
// body to own it with, and body the one to renew it with, under lease.mu. A ctx that ends
// is answered with its cause, and an error of held with that; errdefs.ErrNotFound: there is no object.
func (b *bucket) hold(ctx context.Context, key string, held func([]byte) (bool, error), take, body func([]byte) []byte) (*lease, error) {
	var seen string
	var since time.Time
	for wait := 20 * time.Millisecond; ; wait = min(2*wait, b.lease/8) {
		o, err := b.get(ctx, key)
		if err != nil {
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, err
		}
		if o.etag != seen {
			seen, since = o.etag, time.Now()
		}
		owned, err := held(o.body)
		if err != nil {
			return nil, err
		}
		if !owned || time.Since(since) > b.lease {
			etag, ok, err := b.replace(ctx, key, o.etag, take(o.body))
			if err != nil {
				return nil, err
			}
			if ok {
				return b.startLease(ctx, key, etag, func() []byte { return body(o.body) }), nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
	}
}

func (b *bucket) startLease(ctx context.Context, key, etag string, body func() []byte) *lease {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	l := &lease{b: b, key: key, body: body, etag: etag, written: time.Now(), stop: stop, done: make(chan struct{})}
	go l.renew(ctx)
	return l
}

func (l *lease) renew(ctx context.Context) {
	defer close(l.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(l.b.lease / 4):
		}
		l.mu.Lock()
		if l.err == nil && ctx.Err() == nil {
			_ = l.write(ctx, l.body())
		}
		l.mu.Unlock()
	}
}

// write replaces the object. The caller holds l.mu.
func (l *lease) write(ctx context.Context, body []byte) error {
	if l.err != nil {
		return l.err
	}
	ctx, cancel := context.WithTimeout(ctx, l.b.lease)
	defer cancel()
	nonce := newNonce()
	etag, ok, err := l.b.replaceAs(ctx, l.key, l.etag, nonce, body)
	if err == nil && !ok && len(l.unsure) > 0 {
		there, readErr := l.b.get(ctx, l.key)
		if err = ignoreNotFound(readErr); readErr == nil && slices.Contains(l.unsure, there.nonce) {
			etag, ok, err = l.b.replaceAs(ctx, l.key, there.etag, nonce, body)
		}
	}
	switch {
	case err != nil:
		l.unsure = append(l.unsure, nonce)
		return err // the next renewal may go better
	case !ok:
		l.err = errLost
		return l.err
	}
	l.etag, l.written, l.unsure = etag, time.Now(), nil
	return nil
}

// check returns errLost when another server has taken over. Who has been asleep asks.
func (l *lease) check(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Since(l.written) > l.b.lease/2 {
		return l.write(ctx, l.body())
	}
	return l.err
}

// end stops the renewal. The object stays as it is.
func (l *lease) end() {
	l.stop()
	<-l.done
}
