package op

import (
	"context"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
)

// hands are what one piece of work may have besides the goroutine it is done by, however deep it
// goes. The zero value has none: all is done in order.
type hands chan struct{}

func newHands() hands {
	const most = 16 // more only wait for each other in the filesystem
	return make(hands, min(runtime.GOMAXPROCS(0), most)-1)
}

// share calls do for all names, for portions of them beside each other while there are free hands. It
// returns when all is done, or has ended after the first error.
func (h hands) share(ctx context.Context, names []string, do func(context.Context, string) error) error {
	const portion = 16
	if cap(h) == 0 || len(names) <= portion {
		return each(ctx, names, do)
	}
	g, ctx := errgroup.WithContext(ctx)
	for part := range slices.Chunk(names, portion) {
		select {
		case h <- struct{}{}:
			g.Go(func() error {
				defer func() { <-h }()
				return each(ctx, part, do)
			})
			continue
		default:
		}
		if err := each(ctx, part, do); err != nil {
			g.Go(func() error { return err }) // ends the others
			break
		}
	}
	return g.Wait()
}

func each(ctx context.Context, names []string, do func(context.Context, string) error) error {
	for _, name := range names {
		if err := do(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// links are the files with several names that are being copied: the first name that comes is
// copied, the others are linked to it.
type links struct {
	mu   sync.Mutex
	made map[inode]*link
}

type inode struct{ dev, ino uint64 }

type link struct {
	path string        // of the copy
	done chan struct{} // closed when it is there, or err says why not
	err  error
}

// first returns the path of the copy of id, once it is there; without one, ok is false, and path
// is where the caller makes it and then calls finish.
func (l *links) first(ctx context.Context, id inode, path string) (first string, ok bool, err error) {
	l.mu.Lock()
	m, ok := l.made[id]
	if !ok {
		if l.made == nil {
			l.made = map[inode]*link{}
		}
		l.made[id] = &link{path: path, done: make(chan struct{})}
	}
	l.mu.Unlock()
	if !ok {
		return "", false, nil
	}
	select {
	case <-m.done:
		return m.path, true, m.err
	case <-ctx.Done():
		return "", false, context.Cause(ctx)
	}
}

func (l *links) finish(id inode, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.made[id].err = err
	close(l.made[id].done)
}
