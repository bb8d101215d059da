package remotecache

import (
	"crypto/sha256"
	"encoding/binary"
)

// Sizes of chunks in bytes. Tests take smaller ones.
type chunkSizes struct{ min, average, max int }

func usualSizes() chunkSizes { return chunkSizes{min: 256 << 10, average: 1 << 20, max: maxChunk} }

const maxChunk = 4 << 20

// A chunker cuts what is written to it where its content says so, and not at fixed places, so that
// bytes that are inserted somewhere change the chunks around them only: content-defined chunking
// with a gear hash, as in Xia and others, "FastCDC", USENIX ATC 2016, without its normalization.
type chunker struct {
	sizes chunkSizes
	gear  [256]uint64
	mask  uint64
	hash  uint64
	buf   []byte
	emit  func(chunk []byte) error // chunk is only valid during the call
}

func newChunker(sizes chunkSizes, emit func([]byte) error) *chunker {
	c := &chunker{sizes: sizes, emit: emit, buf: make([]byte, 0, sizes.max)}
	for i := range c.gear {
		sum := sha256.Sum256([]byte{byte(i)})
		c.gear[i] = binary.BigEndian.Uint64(sum[:])
	}
	// A cut where as many of the highest bits are zero as make it one in average-min bytes.
	for n := 1; n < sizes.average-sizes.min; n *= 2 {
		c.mask = c.mask>>1 | 1<<63
	}
	return c
}

// Write implements io.Writer.
func (c *chunker) Write(p []byte) (int, error) {
	for i, b := range p {
		c.buf = append(c.buf, b)
		if len(c.buf) <= c.sizes.min {
			continue
		}
		c.hash = c.hash<<1 + c.gear[b]
		if c.hash&c.mask == 0 || len(c.buf) == c.sizes.max {
			if err := c.cut(); err != nil {
				return i, err
			}
		}
	}
	return len(p), nil
}

func (c *chunker) cut() error {
	err := c.emit(c.buf)
	c.buf, c.hash = c.buf[:0], 0
	return err
}

// Close emits what is left.
func (c *chunker) Close() error {
	if len(c.buf) == 0 {
		return nil
	}
	return c.cut()
}
