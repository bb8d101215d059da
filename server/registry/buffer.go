package registry

import (
	"sync"
	"sync/atomic"
)

const (
	// bufferSize is how much of an upload is read, hashed and written at a time.
	bufferSize = 128 << 10
	// smallBufferSize is the same when many upload at once, so that the memory does not grow
	// with their number by more than their connections take.
	smallBufferSize = 16 << 10
	// largeBufferSize is the same for a few uploads that have more than that: the kernel
	// keeps what is written at once in one piece, which takes a fifth less of its time.
	largeBufferSize = 1 << 20
	// maxBuffers and maxLargeBuffers are how many are lent of each.
	maxBuffers      = 64
	maxLargeBuffers = 8
)

// buffers lends buffers of the three sizes. The zero value is ready.
type buffers struct {
	small, usual, large sizedBuffers
}

// sizedBuffers lends buffers of one size.
type sizedBuffers struct {
	pool sync.Pool // *[]byte
	lent atomic.Int32
}

// take returns a buffer of size bytes, or nil if so many are lent. most 0: any number.
func (s *sizedBuffers) take(size int, most int32) *[]byte {
	if s.lent.Add(1) > most && most > 0 {
		s.lent.Add(-1)
		return nil
	}
	if p, ok := s.pool.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, size)
	return &p
}

func (s *sizedBuffers) put(p *[]byte) {
	s.pool.Put(p)
	s.lent.Add(-1)
}

// get returns a buffer of bufferSize, or of smallBufferSize if many are lent. The caller puts it back.
func (b *buffers) get() *[]byte {
	if p := b.usual.take(bufferSize, maxBuffers); p != nil {
		return p
	}
	return b.small.take(smallBufferSize, 0)
}

// grow exchanges a buffer for a larger one with the same bytes, if there is one to be had.
func (b *buffers) grow(p *[]byte) *[]byte {
	var larger *[]byte
	if len(*p) < largeBufferSize {
		larger = b.large.take(largeBufferSize, maxLargeBuffers)
	}
	if larger == nil && len(*p) < bufferSize {
		larger = b.usual.take(bufferSize, maxBuffers)
	}
	if larger == nil {
		return p
	}
	copy(*larger, *p)
	b.put(p)
	return larger
}

func (b *buffers) put(p *[]byte) {
	switch len(*p) {
	case smallBufferSize:
		b.small.put(p)
	case bufferSize:
		b.usual.put(p)
	default:
		b.large.put(p)
	}
}
