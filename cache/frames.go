package cache

import (
	"errors"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// frameSize is how much of the input goes into one zstd frame. It decides the output, so it is part
// of what makes equal layers equal blobs.
const frameSize = 4 << 20

// A frameWriter compresses blocks of its input at the same time, each to a frame of its own: frames that
// follow each other are a zstd stream (RFC 8878, section 3). What it writes depends on its input alone.
// Memory: two blocks for each worker.
type frameWriter struct {
	w     io.Writer
	z     *zstd.Encoder
	block []byte
	queue chan chan []byte // frames in their order, some still being made
	spare sync.Pool
	done  chan struct{} // closed when all frames are written
	wrote bool

	mu  sync.Mutex
	err error // the first of w
}

func newFrameWriter(w io.Writer, workers int) (*frameWriter, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithEncoderConcurrency(workers))
	if err != nil {
		return nil, err
	}
	f := &frameWriter{w: w, z: z, block: make([]byte, 0, frameSize), queue: make(chan chan []byte, workers), done: make(chan struct{})}
	f.spare.New = func() any { return make([]byte, 0, frameSize) }
	go f.drain()
	return f, nil
}

// drain writes frames in their order.
func (f *frameWriter) drain() {
	defer close(f.done)
	for frame := range f.queue {
		data := <-frame
		if f.failed() == nil {
			if _, err := f.w.Write(data); err != nil {
				f.mu.Lock()
				f.err = err
				f.mu.Unlock()
			}
		}
	}
}

func (f *frameWriter) failed() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Write implements io.Writer.
func (f *frameWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if err := f.failed(); err != nil {
			return n - len(p), err
		}
		take := min(len(p), frameSize-len(f.block))
		f.block, p = append(f.block, p[:take]...), p[take:]
		if len(f.block) == frameSize {
			f.flush()
		}
	}
	return n, nil
}

// flush gives the block to a worker; it waits while too many are on their way.
func (f *frameWriter) flush() {
	frame, block := make(chan []byte, 1), f.block
	f.queue <- frame
	f.block = f.spare.Get().([]byte)[:0]
	f.wrote = true
	go func() {
		frame <- f.z.EncodeAll(block, nil)
		f.spare.Put(block) //lint:ignore SA6002 a header is little beside a block
	}()
}

// Close writes what is left and ends the goroutines. It does not close w.
func (f *frameWriter) Close() error {
	if len(f.block) > 0 || !f.wrote {
		f.flush()
	}
	close(f.queue)
	<-f.done
	return errors.Join(f.failed(), f.z.Close())
}
