package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// When a large blob is fetched over several connections, each asking for a segment at a time. One
// connection is often held back, by the window of TCP over a long way or by a limit of the server;
// several are not. Where the reader is what holds back, one connection does, and so it does beside others that
// read: all of them together are several, and what is on its way to a connection that is left is lost.
const (
	segmentSize = 2 << 20 // bytes
	// A Client has so many buffers of a segment, which all its downloads share. So memory does not
	// grow with the number or the size of blobs.
	segmentBuffers = 8
	// How many connections fetch segments of a blob.
	segmentConnections = 4
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

// spread goes on over several connections if that may help and the buffers are free. The present one brings a
// segment more, until the others do. Whatever goes wrong with them is as if one connection broke: restart goes
// on with one.
func (b *blobReader) spread() {
	o := b.repository.client.spread
	rest := b.desc.Size - b.offset
	if b.alone || rest < 3*o.size || b.repository.client.readers.Load() > 1 || !b.pace.heldBack(o) {
		return
	}
	buffers := b.repository.client.takeBuffers(int(rest/o.size) - 1)
	if len(buffers) == 0 {
		return // perhaps later
	}
	b.alone = true // there is one try
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

// segments is the body of a blob from some byte on, fetched in segments over several connections. A connection
// that is free fetches the next segment, into the slot of the one that is as many before it as there are slots,
// when that has been read.
type segments struct {
	blob   *blobReader // whose body it is
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	slots  []segmentSlot

	mu   sync.Mutex
	next int64 // where the next segment to be fetched begins
	turn int   // its slot

	first io.ReadCloser // the connection that was there before
	lead  int64         // what it still has to bring
	slot  int           // of the segment being read
	cur   []byte        // what is left of it
	open  bool          // cur is a buffer of the slot
}

type segmentSlot struct {
	buf   []byte
	full  chan segment  // capacity 1
	empty chan struct{} // capacity 1: buf may be filled
}

type segment struct {
	data []byte
	err  error
}

func (b *blobReader) startSegments(buffers [][]byte) *segments {
	s := &segments{blob: b, slots: make([]segmentSlot, len(buffers)), first: b.body, lead: b.repository.client.spread.size}
	s.ctx, s.cancel = context.WithCancel(b.ctx)
	s.next = b.offset + s.lead
	for i, buf := range buffers {
		s.slots[i] = segmentSlot{buf: buf, full: make(chan segment, 1), empty: make(chan struct{}, 1)}
		s.slots[i].empty <- struct{}{}
	}
	for range min(segmentConnections, len(buffers)) {
		s.done.Go(s.fill)
	}
	return s
}

// fill fetches segments, one after the other.
func (s *segments) fill() {
	for {
		s.mu.Lock()
		slot, from := s.slots[s.turn], s.next
		s.turn, s.next = (s.turn+1)%len(s.slots), from+int64(len(slot.buf))
		s.mu.Unlock()
		if from >= s.blob.desc.Size {
			return
		}
		select {
		case <-slot.empty:
		case <-s.ctx.Done():
			return
		}
		part := slot.buf[:min(int64(len(slot.buf)), s.blob.desc.Size-from)]
		err := s.blob.fetchSegment(s.ctx, part, from)
		slot.full <- segment{part, err} // there is room: the one before has been read
		if err != nil {
			return
		}
	}
}

// fetchSegment fetches the bytes from a byte on. It does not change the blob's reader.
func (b *blobReader) fetchSegment(ctx context.Context, buf []byte, from int64) error {
	part := &blobReader{ctx: ctx, repository: b.repository, desc: b.desc, offset: from, end: from + int64(len(buf)), alone: true, direct: b.direct}
	err := part.open()
	if err == nil {
		_, err = io.ReadFull(part, buf)
		err = errors.Join(err, part.Close())
	}
	if err != nil {
		return fmt.Errorf("bytes from %d: %w", from, notEOF(err))
	}
	return nil
}

// Read implements io.Reader. It is not called after the last byte.
func (s *segments) Read(p []byte) (int, error) {
	if s.lead > 0 {
		n, err := s.first.Read(p[:min(int64(len(p)), s.lead)])
		if s.lead -= int64(n); s.lead == 0 {
			s.first.Close()
			err = nil
		}
		return n, err
	}
	if len(s.cur) == 0 {
		if s.open {
			s.slots[s.slot].empty <- struct{}{}
			s.slot, s.open = (s.slot+1)%len(s.slots), false
		}
		select {
		case got := <-s.slots[s.slot].full:
			if got.err != nil {
				return 0, got.err
			}
			s.cur, s.open = got.data, true
		case <-s.ctx.Done():
			return 0, context.Cause(s.ctx)
		}
	}
	n := copy(p, s.cur)
	s.cur = s.cur[n:]
	return n, nil
}

// Close ends the goroutines and gives the buffers back.
func (s *segments) Close() error {
	s.cancel()
	s.first.Close()
	s.done.Wait()
	if s.slots != nil {
		s.blob.repository.client.giveBuffers(len(s.slots))
		s.slots = nil
	}
	return nil
}
