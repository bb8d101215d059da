package content

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// usualWindow is the largest window of zstd's levels up to 19, and what RFC 8878 asks for at least.
const usualWindow = 8 << 20

// largeWindows are held by the one stream of this process that may use a window larger than usualWindow: memory
// belongs to the process, whoever asked for the layers. Its holder waits for its source and its reader, and they
// for no lock whose holder reads another stream: an archive is read to its end before its layers are, and where
// layers are locked, the lock comes before the first byte.
var largeWindows = newWindows(time.Minute)

type windows struct {
	slot     chan struct{}
	holder   atomic.Pointer[turn]
	patience time.Duration // with a holder whose source is slow
}

func newWindows(patience time.Duration) *windows {
	return &windows{slot: make(chan struct{}, 1), patience: patience}
}

// leastBytes is what a source must bring while another stream waits for the time of patience.
const leastBytes = 16 << 20

// A turn is one stream's hold on windows.
type turn struct {
	ctx    context.Context // of the stream
	of     *windows
	src    *sourceReader
	giveUp func() // unless nil, ends the stream, which keeps others waiting
	held   bool
	err    error // why it was not waited for any more
}

// take waits until no other stream holds the windows.
func (t *turn) take() error {
	if t.held {
		return nil
	}
	var slow *turn
	var brought int64
	for {
		select {
		case t.of.slot <- struct{}{}:
			t.held = true
			t.of.holder.Store(t)
			return nil
		case <-t.ctx.Done():
			t.err = context.Cause(t.ctx)
			return t.err
		case <-time.After(t.of.patience):
		}
		h := t.of.holder.Load()
		if h == nil || h.giveUp == nil {
			continue
		}
		now := h.src.bytes.Load()
		if h == slow && now-brought < leastBytes {
			h.giveUp()
		}
		slow, brought = h, now
	}
}

// end is called when nothing refers to the window any more.
func (t *turn) end() {
	if t.held {
		t.held = false
		t.of.holder.Store(nil)
		// A collection alone leaves the next window no place of its size, once something small is where this one was.
		debug.FreeOSMemory()
		<-t.of.slot
	}
}

// A frameReader follows the frames of the compressed stream that is read through it, RFC 8878, 3.1, and takes turn before
// the header of one with a large window.
type frameReader struct {
	r    *bufio.Reader
	turn *turn
	left int64 // bytes before the next header, of a frame or of a block

	inFrame, checksum bool
}

func (f *frameReader) Read(p []byte) (int, error) {
	if f.left == 0 {
		if err := f.header(); err != nil {
			return 0, err
		}
	}
	n, err := f.r.Read(p[:min(int64(len(p)), f.left)])
	f.left -= int64(n)
	return n, err
}

// header looks at the header that comes, and sets left to the end of what it announces.
func (f *frameReader) header() error {
	if f.inFrame {
		return f.block()
	}
	head, err := f.r.Peek(zstd.HeaderMaxSize)
	if len(head) == 0 || err != nil && err != io.EOF {
		return err
	}
	var h zstd.Header
	if err := h.Decode(head); err != nil {
		return fmt.Errorf("header of a frame: %w", err) // as it is, the decoder would take one that is cut for the end
	}
	f.left = int64(h.HeaderSize) + int64(h.SkippableSize)
	if h.Skippable {
		return nil
	}
	f.inFrame, f.checksum = true, h.HasCheckSum
	window := h.WindowSize
	if h.SingleSegment {
		window = h.FrameContentSize
	}
	switch {
	case window > maxWindow:
		return zstd.ErrWindowSizeExceeded
	case window > usualWindow:
		return f.turn.take()
	}
	return nil
}

// block is header for a block, RFC 8878, 3.1.1.2.
func (f *frameReader) block() error {
	head, err := f.r.Peek(3)
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	const rle = 1
	b := uint32(head[0]) | uint32(head[1])<<8 | uint32(head[2])<<16
	f.left = 3 + int64(b>>3)
	if b>>1&3 == rle {
		f.left = 3 + 1
	}
	if last := b&1 != 0; last {
		f.inFrame = false
		if f.checksum {
			f.left += 4
		}
	}
	return nil
}
