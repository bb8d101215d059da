package event

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/runner/watch"
)

// Range chooses events by their time.
type Range struct {
	Since time.Time // zero: only what happens from now on
	Until time.Time // zero: until the context ends
	Begun func()    // called as soon as whatever happens from then on will be told; may be nil
}

// Follow calls fn for the events of a range in the order they were written, and returns
// fn's first error, or nil when the range or ctx has ended. A line that is no event is
// passed over.
func (j Journal) Follow(ctx context.Context, r Range, fn func(Event) error) error {
	if !r.Until.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, r.Until)
		defer cancel()
	}
	changes := watch.New(j.Dir)
	defer changes.Close()
	f := &follower{j: j, r: r, fn: fn}
	defer f.close()
	if err := f.begin(); err != nil {
		return err
	}
	if r.Begun != nil {
		r.Begun()
	}
	for {
		over := ctx.Err() != nil // before reading: what was written before then is there
		if err := f.read(); err != nil {
			return err
		}
		next, err := f.next()
		if err != nil {
			return err
		}
		if next {
			continue
		}
		if over {
			return nil
		}
		changes.Wait(ctx) // a context that ends is seen above
	}
}

type follower struct {
	j    Journal
	r    Range
	fn   func(Event) error
	f    *os.File
	rd   *bufio.Reader
	line []byte // the beginning of a line
}

// begin opens the oldest file the range can be in.
func (f *follower) begin() error {
	if f.r.Since.IsZero() {
		if err := f.use(f.j.current()); err != nil || f.f == nil {
			return err
		}
		_, err := f.f.Seek(0, io.SeekEnd)
		return err
	}
	if err := f.use(f.j.older()); err != nil || f.f != nil {
		return err
	}
	return f.use(f.j.current())
}

func (f *follower) use(path string) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	f.close()
	f.f, f.rd, f.line = file, bufio.NewReaderSize(file, 64<<10), nil
	return nil
}

func (f *follower) close() {
	if f.f != nil {
		f.f.Close()
	}
}

// read passes on what the present file holds.
func (f *follower) read() error {
	for f.f != nil {
		part, err := f.rd.ReadSlice('\n')
		f.line = append(f.line, part...)
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
		var e Event
		bad := coldjson.Unmarshal(bytes.TrimSpace(f.line), &e) != nil
		f.line = f.line[:0]
		if bad || !f.wanted(e) {
			continue
		}
		if err := f.fn(e); err != nil {
			return err
		}
	}
	return nil
}

func (f *follower) wanted(e Event) bool {
	t := time.Unix(0, e.TimeNano)
	return !t.Before(f.r.Since) && (f.r.Until.IsZero() || !t.After(f.r.Until))
}

// next goes on to the present file of the journal if that is another. What a slow writer
// put into the one before is read first.
func (f *follower) next() (bool, error) {
	now, err := os.Stat(f.j.current())
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	if f.f != nil {
		st, err := f.f.Stat()
		if err != nil || os.SameFile(st, now) {
			return false, err
		}
		if err := f.read(); err != nil {
			return false, err
		}
	}
	// Two rotations before this one is seen would take 16 MB of events.
	return true, f.use(f.j.current())
}
