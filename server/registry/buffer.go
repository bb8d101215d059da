package registry

import (
	"sync"
	"sync/atomic"
)

const (
	// bufferSize is how much of an upload is read, hashed and written at a time.
	bufferSize = 128 << 10
	// largeBufferSize is the same for a few uploads that have more than that: the kernel
	// keeps what is written at once in one piece, which takes a fifth less of its time.
	largeBufferSize = 1 << 20
	// maxLargeBuffers bounds the memory of many uploads at once.
	maxLargeBuffers = 16
)

// buffers lends buffers of bufferSize, and a few of largeBufferSize. The zero value is ready.
type buffers struct {
	small, large sync.Pool // *[]byte
	lent         atomic.Int32
}

// get returns a buffer of bufferSize. The caller puts it back.
func (b *buffers) get() *[]byte {
	if p, ok := b.small.Get().(*[]byte); ok {
		return p
	}
	p := make([]byte, bufferSize)
	return &p
}

// grow exchanges a buffer for a large one with the same bytes, if there is one to be had.
func (b *buffers) grow(p *[]byte) *[]byte {
	if len(*p) == largeBufferSize {
		return p
	}
	if b.lent.Add(1) > maxLargeBuffers {
		b.lent.Add(-1)
		return p
	}
	large, ok := b.large.Get().(*[]byte)
	if !ok {
		l := make([]byte, largeBufferSize)
		large = &l
	}
	copy(*large, *p)
	b.put(p)
	return large
}

func (b *buffers) put(p *[]byte) {
	if len(*p) == bufferSize {
		b.small.Put(p)
		return
	}
	b.large.Put(p)
	b.lent.Add(-1)
}
