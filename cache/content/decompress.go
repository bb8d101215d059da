package content

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"

	"github.com/teu-dev/teu/cache/inflate"
)

// maxWindow is how far back, in bytes, compressed data may refer: what zstd --long makes, and twice what xz -9 does.
// RFC 8878 asks for 8 MiB at least.
const maxWindow = 128 << 20

const xzMagic = "\xfd7zXZ\x00"

// Decompress returns the plain bytes of a layer. Magic numbers say how it is compressed, not the media type,
// which many tools get wrong: podman 4 saves plain layers as zstd ones. The caller closes the result, then r. Memory is bounded: a
// window of at most maxWindow for zstd and xz, far less for gzip and bzip2; and Read waits, until ctx is done, while
// another stream has a window of more than usualWindow and this one wants one too, which ends with the stream or by Close.
// Bytes that are damaged are an errdefs.ErrDataLoss, those that want a larger window an errdefs.ErrOutOfRange.
func Decompress(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	return DecompressSlow(ctx, r, nil)
}

// DecompressSlow is Decompress of what a stranger sends at the pace he likes. If r brings less than 16 MiB in a minute while
// another stream waits for its window, giveUp is called, perhaps more than once, and shall make r fail.
func DecompressSlow(ctx context.Context, r io.Reader, giveUp func()) (io.ReadCloser, error) {
	return newPlain(r, turn{ctx: ctx, of: largeWindows, giveUp: giveUp})
}

func newPlain(r io.Reader, t turn) (io.ReadCloser, error) {
	src := &sourceReader{r: r}
	t.src = src
	br := bufio.NewReaderSize(src, 256<<10)
	head, err := br.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	p := &plainReader{src: src, turn: t}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}): // RFC 1952, 2.3.1: ID1, ID2, deflate
		p.kind = "gzip"
		if p.r, err = inflate.NewReader(br); err != nil {
			return nil, p.classed(err)
		}
	case isZstd(head):
		zr, err := zstd.NewReader(&frameReader{r: br, turn: &p.turn}, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		p.kind, p.r, p.close = "zstd", zr, zr.Close
	case isBzip2(head): // docker reads archives and layers of it and of xz too
		p.kind, p.r = "bzip2", bzip2.NewReader(br)
	case bytes.HasPrefix(head, []byte(xzMagic)):
		p.kind, p.r = "xz", &xzReader{src: br, turn: &p.turn}
	default:
		return io.NopCloser(br), nil
	}
	return p, nil
}

// Compressed says whether Decompress would do something to bytes that begin with head, ten of them if there
// are as many.
func Compressed(head []byte) bool {
	return bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}) || isZstd(head) || isBzip2(head) || bytes.HasPrefix(head, []byte(xzMagic))
}

// isBzip2 knows the header with its level and the number that begins a block, which a name in a tar
// hardly is.
func isBzip2(head []byte) bool {
	return len(head) == 10 && bytes.HasPrefix(head, []byte("BZh")) && head[3] >= '1' && head[3] <= '9' && bytes.Equal(head[4:], []byte("1AY&SY"))
}

// isZstd knows a frame, RFC 8878, 3.1.1, and a skippable one, 3.1.2, with which seekable files may begin.
func isZstd(head []byte) bool {
	if len(head) < 4 {
		return false
	}
	return bytes.Equal(head[:4], []byte{0x28, 0xb5, 0x2f, 0xfd}) ||
		head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}

// sourceReader remembers the error of the compressed bytes' source, and counts them.
type sourceReader struct {
	r     io.Reader
	err   error
	bytes atomic.Int64 // that have come
}

func (s *sourceReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	s.bytes.Add(int64(n))
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// An xzReader takes turn whatever its window is, which every block may say anew.
type xzReader struct {
	src  io.Reader
	turn *turn
	r    *xz.Reader // nil before the first Read, as it makes the window
}

func (x *xzReader) Read(b []byte) (n int, err error) {
	if err := x.turn.take(); err != nil {
		return 0, err
	}
	if x.r == nil {
		if x.r, err = xz.NewReader(x.src, maxWindow); err != nil {
			return 0, err
		}
	}
	return x.r.Read(b)
}

// plainReader gives the errors of a decompressor a class, and leaves those of its source as they are.
type plainReader struct {
	r     io.Reader // nil once it is at its end
	src   *sourceReader
	turn  turn
	close func() // nil for nothing
	kind  string
	err   error // where it ended
}

func (p *plainReader) Read(b []byte) (int, error) {
	if p.r == nil {
		return 0, p.err
	}
	n, err := p.r.Read(b)
	if err != nil {
		p.end(err)
	}
	return n, p.err
}

// end lets go of the decompressor, and so of its window.
func (p *plainReader) end(err error) {
	if p.r == nil {
		return
	}
	if p.err = err; err != io.EOF {
		p.err = p.classed(err)
	}
	if p.close != nil {
		p.close()
	}
	p.r, p.close = nil, nil
	p.turn.end()
}

func (p *plainReader) classed(err error) error {
	switch {
	case p.src.err != nil:
		return p.src.err
	case p.turn.err != nil:
		return p.turn.err
	case errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("%s: it needs a window of more than %d MiB: %w", p.kind, maxWindow>>20, errdefs.ErrOutOfRange)
	}
	return fmt.Errorf("%s: %w: %w", p.kind, errdefs.ErrDataLoss, err)
}

// Close implements io.Closer.
func (p *plainReader) Close() error {
	p.end(fs.ErrClosed)
	return nil
}
