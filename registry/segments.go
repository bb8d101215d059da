package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// When a large blob is fetched over several connections, each asking for a segment at a time. One
// connection is often held back, by the window of TCP over a long way or by a limit of the server;
// several are not. Where the reader is what holds back, one connection does.
const (
	segmentSize = 4 << 20 // bytes
	// A Client has so many buffers of a segment, which all its downloads share. So memory does not
	// grow with the number or the size of blobs.
	segmentBuffers = 4
	// Nothing is decided before so many bytes.
	segmentsAfter = 4 << 20
	// A connection that brings this much is not worth a second one: bytes a second.
	fastEnough = 250 << 20
)

// spreadOptions say when a download uses several connections.
type spreadOptions struct {
	after, size int64
	fast        int64 // bytes a second
}

// pace is how a connection does.
type pace struct {
	bytes         int64
	began         time.Time
	waited, spent time.Duration // in Read, and since began
}

// heldBack says whether the reader of a connection mostly waits for it.
func (p *pace) heldBack(o spreadOptions) bool {
	if p.bytes < o.after || p.spent == 0 {
		return false
	}
	return p.waited > p.spent/2 && float64(p.bytes)/p.spent.Seconds() < float64(o.fast)
}

// timedRead reads from the connection and keeps its pace.
func (b *blobReader) timedRead(p []byte) (int, error) {
	before := time.Now()
	if b.pace.began.IsZero() {
		b.pace.began = before
	}
	n, err := b.body.Read(p)
	after := time.Now()
	b.pace.bytes += int64(n)
	b.pace.waited += after.Sub(before)
	b.pace.spent = after.Sub(b.pace.began)
	return n, err
}

// spread goes on over several connections if that may help. Whatever goes wrong with them is as if
// one connection broke: restart goes on with one.
func (b *blobReader) spread() {
	o := b.repository.client.spread
	rest := b.desc.Size - b.offset
	if b.alone || rest < 4*o.size || !b.pace.heldBack(o) {
		return
	}
	b.alone = true // there is one try
	buffers := b.repository.client.takeBuffers(int(rest / o.size))
	if len(buffers) == 0 {
		return
	}
	b.body.Close()
	b.begun = b.offset
	b.body = b.startSegments(buffers)
}

// takeBuffers returns at most n of the client's buffers, and none if there are less than two.
func (c *Client) takeBuffers(n int) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	n = min(n, segmentBuffers-c.buffersInUse)
	if n < 2 {
		return nil
	}
	c.buffersInUse += n
	buffers := make([][]byte, n)
	for i := range buffers {
		buffers[i] = make([]byte, c.spread.size)
	}
	return buffers
}

func (c *Client) giveBuffers(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buffersInUse -= n
}

// segments is the body of a blob from some byte on, fetched in segments by as many goroutines as it
// has slots: slot i fetches segment i, and when that has been read, segment i + slots.
type segments struct {
	client *Client
	cancel context.CancelFunc
	done   sync.WaitGroup
	slots  []segmentSlot
	next   int    // slot of the segment being read
	cur    []byte // what is left of it; nil: not begun
	open   bool   // cur is a buffer of the slot
}

type segmentSlot struct {
	full  chan segment  // capacity 1
	empty chan struct{} // its buffer may be filled again
}

type segment struct {
	data []byte
	err  error
}

func (b *blobReader) startSegments(buffers [][]byte) *segments {
	ctx, cancel := context.WithCancel(b.ctx)
	s := &segments{client: b.repository.client, cancel: cancel, slots: make([]segmentSlot, len(buffers))}
	for i, buf := range buffers {
		s.slots[i] = segmentSlot{full: make(chan segment, 1), empty: make(chan struct{}, 1)}
		first := b.offset + int64(i)*int64(len(buf))
		s.done.Go(func() { s.slots[i].fill(ctx, b.repository, b.desc, buf, first, int64(len(buffers)*len(buf))) })
	}
	return s
}

// fill fetches the segments of a slot, the first of which begins at the byte from.
func (s segmentSlot) fill(ctx context.Context, r *Repository, d ocispec.Descriptor, buf []byte, from, step int64) {
	defer close(s.full)
	for ; from < d.Size; from += step {
		part := buf[:min(int64(len(buf)), d.Size-from)]
		err := fetchSegment(ctx, r, d, part, from)
		s.full <- segment{part, err} // there is room: the one before has been read
		if err != nil {
			return
		}
		select {
		case <-s.empty:
		case <-ctx.Done():
			return
		}
	}
}

func fetchSegment(ctx context.Context, r *Repository, d ocispec.Descriptor, buf []byte, from int64) error {
	b := &blobReader{ctx: ctx, repository: r, desc: d, offset: from, end: from + int64(len(buf)), alone: true}
	err := b.open()
	if err == nil {
		_, err = io.ReadFull(b, buf)
		err = errors.Join(err, b.Close())
	}
	if err != nil {
		return fmt.Errorf("bytes from %d: %w", from, notEOF(err))
	}
	return nil
}

// Read implements io.Reader.
func (s *segments) Read(p []byte) (int, error) {
	if len(s.cur) == 0 {
		if s.open {
			s.slots[s.next].empty <- struct{}{}
			s.next, s.open = (s.next+1)%len(s.slots), false
		}
		got, ok := <-s.slots[s.next].full
		switch {
		case !ok:
			return 0, io.EOF
		case got.err != nil:
			return 0, got.err
		}
		s.cur, s.open = got.data, true
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// Close ends the goroutines and gives the buffers back.
func (s *segments) Close() error {
	s.cancel()
	s.done.Wait()
	if s.slots != nil {
		s.client.giveBuffers(len(s.slots))
		s.slots = nil
	}
	return nil
}
