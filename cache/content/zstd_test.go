package content

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// zeros returns a frame with a window of 1<<log bytes and so many blocks of 128 KiB of zeros.
func zeros(log, blocks int) []byte {
	const size, rle = 128 << 10, 1
	frame := append([]byte("\x28\xb5\x2f\xfd\x00"), byte(log-10)<<3)
	for i := range blocks {
		header := uint32(size<<3 | rle<<1)
		if i == blocks-1 {
			header |= 1
		}
		frame = append(binary.LittleEndian.AppendUint32(frame, header)[:len(frame)+3], 0)
	}
	return frame
}

func decompress(t *testing.T, ctx context.Context, data []byte) io.ReadCloser {
	t.Helper()
	r, err := Decompress(ctx, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestLargeWindowsTakeTurns: one stream at a time has a large window, and the others go on beside it.
func TestLargeWindowsTakeTurns(t *testing.T) {
	holder := decompress(t, t.Context(), zeros(27, 3))
	if _, err := io.ReadFull(holder, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	xz := exec.Command("xz", "-c")
	xz.Stdin = strings.NewReader("something")
	xzData, err := xz.Output()
	if err != nil {
		t.Fatal(err)
	}
	const block = 128 << 10
	for name, tc := range map[string]struct {
		data  []byte
		plain int // bytes
		first int // of these, before it waits
	}{
		"usual":          {zeros(23, 3), 3 * block, 3 * block},
		"more than that": {append(zeros(23, 1)[:5], append([]byte{13<<3 | 1}, zeros(23, 1)[6:]...)...), block, 0},
		"large":          {zeros(27, 2), 2 * block, 0},
		"second frame":   {append(zeros(20, 2), zeros(27, 1)...), 3 * block, 2 * block},
		"skippable":      {append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00\x28\xb5"), zeros(24, 1)...), block, 0},
		// RFC 8878, 3.1.1.1: a single segment of 8 MiB and a byte, as long as it says, with a checksum.
		"single segment": {[]byte("\x28\xb5\x2f\xfd\xa4\x01\x00\x80\x00\x01\x00\x00"), -1, 0},
		"xz":             {xzData, len("something"), 0},
	} {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := decompress(t, ctx, tc.data)
		if tc.first == tc.plain {
			if got, err := io.ReadAll(r); err != nil || len(got) != tc.plain {
				t.Errorf("%s, beside a large one: got %d bytes, %v, want %d", name, len(got), err, tc.plain)
			}
			cancel(nil)
			continue
		}
		got := make([]byte, tc.first)
		if _, err := io.ReadFull(r, got); err != nil {
			t.Errorf("%s, beside a large one: %v", name, err)
		}
		time.AfterFunc(20*time.Millisecond, func() { cancel(errPush) })
		rest, err := io.ReadAll(r)
		got = append(got, rest...)
		if !errors.Is(err, errPush) || errdefs.IsDataLoss(err) || len(got) != tc.first {
			t.Errorf("%s, beside a large one: got %d bytes, %v, want %d and the cause of the context", name, len(got), err, tc.first)
		}
	}
	next := make(chan error, 1)
	go func() {
		_, err := io.Copy(io.Discard, decompress(t, t.Context(), zeros(27, 2)))
		next <- err
	}()
	select {
	case err := <-next:
		t.Fatalf("two large windows at once, %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-next; err != nil {
		t.Error(err)
	}
	// That one was read to its end and not closed, as an archive while its layers are read.
	after := decompress(t, t.Context(), append(zeros(27, 2), '?'))
	if _, err := io.Copy(io.Discard, after); !errdefs.IsDataLoss(err) {
		t.Errorf("garbage behind a frame: got %v, want data loss", err)
	}
	if _, err := io.Copy(io.Discard, decompress(t, t.Context(), zeros(27, 2))); err != nil {
		t.Errorf("after one that failed: %v", err)
	}
}

// TestSlowWindowGoes: a stream that keeps others with large windows waiting because little comes of it is given up.
func TestSlowWindowGoes(t *testing.T) {
	of := newWindows(10 * time.Millisecond)
	open := func(r io.Reader, giveUp func()) io.ReadCloser {
		plain, err := newPlain(r, turn{ctx: t.Context(), of: of, giveUp: giveUp})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { plain.Close() })
		return plain
	}
	hold := func(giveUp func(error)) (plain io.ReadCloser) {
		r, source := io.Pipe()
		data := zeros(27, 20)
		go source.Write(data[:len(data)-2])
		plain = open(r, func() { giveUp(r.CloseWithError(errPush)) })
		if _, err := io.ReadFull(plain, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		return plain
	}
	gaveUp := make(chan error, 1)
	plain := hold(func(err error) {
		select {
		case gaveUp <- err:
		default:
		}
	})
	go func() {
		<-gaveUp
		plain.Close()
	}()
	if n, err := io.Copy(io.Discard, open(bytes.NewReader(zeros(27, 2)), nil)); err != nil || n != 2*128<<10 {
		t.Errorf("behind one that trickles: got %d bytes, %v", n, err)
	}
}

// TestFastWindowStays: one that brings enough is waited for. The counter of the source is what tells: nothing else is known
// of how fast it is.
func TestFastWindowStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		of := newWindows(10 * time.Millisecond)
		fast := &turn{src: &sourceReader{}, giveUp: func() { t.Error("one that is fast enough was given up") }}
		of.slot <- struct{}{}
		of.holder.Store(fast)
		waiting, cancel := context.WithCancel(t.Context())
		go func() {
			for range 20 {
				fast.src.bytes.Add(leastBytes)
				time.Sleep(9 * time.Millisecond)
			}
			cancel()
		}()
		next := turn{ctx: waiting, of: of}
		if err := next.take(); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
}

// TestLargeWindowsMemory: many layers of an image are read at once.
func TestLargeWindowsMemory(t *testing.T) {
	data := zeros(27, 1100) // more than the window
	var peak uint64
	var ended atomic.Bool
	sampled := make(chan struct{})
	go func() {
		defer close(sampled)
		for !ended.Load() {
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			peak = max(peak, m.HeapInuse)
			time.Sleep(time.Millisecond)
		}
	}()
	var wg sync.WaitGroup
	for range 6 {
		r := decompress(t, t.Context(), data)
		wg.Go(func() {
			if n, err := io.Copy(io.Discard, r); err != nil || n != 1100*128<<10 {
				t.Errorf("got %d bytes, %v", n, err)
			}
		})
	}
	wg.Wait()
	ended.Store(true)
	<-sampled
	if most := uint64(maxWindow + 64<<20); peak > most {
		t.Errorf("six streams take %d MiB of memory, more than %d", peak>>20, most>>20)
	}
}

// FuzzFrames: who follows the frames says the same of them as who decodes them.
func FuzzFrames(f *testing.F) {
	f.Add(zeros(27, 2))
	f.Add(append(zeros(20, 2), zeros(24, 1)...))
	f.Add(append([]byte("\x50\x2a\x4d\x18\x02\x00\x00\x00\x28\xb5"), zeros(11, 1)...))
	f.Add([]byte("\x28\xb5\x2f\xfd\xa4\x01\x00\x80\x00\x01\x00\x00"))
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(enc.EncodeAll([]byte(strings.Repeat("text ", 100)), enc.EncodeAll([]byte("another"), nil)))
	decode := func(r io.Reader, window uint64) ([]byte, error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(window))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return io.ReadAll(io.LimitReader(z, 16<<20))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		my := turn{ctx: t.Context(), of: newWindows(time.Minute)}
		defer my.end()
		got, err := decode(&frameReader{r: bufio.NewReader(bytes.NewReader(data)), turn: &my}, maxWindow)
		window := uint64(usualWindow)
		if my.held {
			window = maxWindow
		}
		want, wantErr := decode(io.MultiReader(bytes.NewReader(data)), window)
		if (err == nil) != (wantErr == nil) || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, %v, want %d, %v", len(got), err, len(want), wantErr)
		}
	})
}
