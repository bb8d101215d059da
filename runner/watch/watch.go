// Package watch waits for changes of directories, for who follows files that other processes write.
package watch

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Dir waits for changes of one directory by inotify(7). Where that cannot be had, as when the user has
// all instances that user may have, it looks now and then.
type Dir struct {
	path     string
	f        *os.File      // nil: not yet
	watching time.Duration // how long Wait waits at most
}

// How long Wait waits at most. A change is missed where files are not written by this kernel, as on NFS.
const (
	watching = time.Second
	looking  = 50 * time.Millisecond
)

// changes are those of the files in a directory: written to, made, put in the place of another, removed.
const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ONLYDIR

// New watches a directory, which need not be there yet. What changes from now on ends a Wait.
func New(path string) *Dir {
	d := &Dir{path: path, watching: watching}
	d.open()
	return d
}

func (d *Dir) open() {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return
	}
	if _, err := unix.InotifyAddWatch(fd, d.path, changes); err != nil {
		unix.Close(fd)
		return
	}
	d.f = os.NewFile(uintptr(fd), "inotify")
}

// Wait returns nil when something has changed since New or the last Wait, or after a while without, and
// the error of a context that ends before.
func (d *Dir) Wait(ctx context.Context) error {
	if d.f == nil {
		select {
		case <-ctx.Done():
		case <-time.After(looking):
			d.open()
		}
		return ctx.Err()
	}
	f := d.f
	f.SetReadDeadline(time.Now().Add(d.watching))
	stop := context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) }) // which may come as late as after a Close
	defer stop()
	var events [16 << 10]byte // what happened does not matter; one event has 272 bytes at most
	if _, err := f.Read(events[:]); err != nil && !os.IsTimeout(err) {
		d.Close() // and look now and then
	}
	return ctx.Err()
}

// Close ends the watch.
func (d *Dir) Close() {
	if d.f != nil {
		d.f.Close()
		d.f = nil
	}
}
