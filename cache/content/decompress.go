package content

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

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
// window of at most maxWindow for zstd and xz, far less for gzip and bzip2. Bytes that are damaged are an
// errdefs.ErrDataLoss, those that want a larger window an errdefs.ErrOutOfRange.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	src := &sourceReader{r: r}
	br := bufio.NewReaderSize(src, 256<<10)
	head, err := br.Peek(10)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 8}): // RFC 1952, 2.3.1: ID1, ID2, deflate
		p := &plainReader{src: src, close: func() {}, kind: "gzip"}
		if p.r, err = inflate.NewReader(br); err != nil {
			return nil, p.classed(err)
		}
		return p, nil
	case isZstd(head):
		zr, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, fmt.Errorf("zstd: %w", err)
		}
		return &plainReader{r: zr, src: src, close: zr.Close, kind: "zstd"}, nil
	case isBzip2(head): // docker reads archives and layers of it and of xz too
		return &plainReader{r: bzip2.NewReader(br), src: src, close: func() {}, kind: "bzip2"}, nil
	case bytes.HasPrefix(head, []byte(xzMagic)):
		xr, err := xz.NewReader(br, maxWindow)
		p := &plainReader{r: xr, src: src, close: func() {}, kind: "xz"}
		if err != nil {
			return nil, p.classed(err)
		}
		return p, nil
	}
	return io.NopCloser(br), nil
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

// sourceReader remembers the error of the compressed bytes' source.
type sourceReader struct {
	r   io.Reader
	err error
}

func (s *sourceReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// plainReader gives the errors of a decompressor a class, and leaves those of its source as they are.
type plainReader struct {
	r     io.Reader
	src   *sourceReader
	close func()
	kind  string
}

func (p *plainReader) Read(b []byte) (int, error) {
	n, err := p.r.Read(b)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, p.classed(err)
}

func (p *plainReader) classed(err error) error {
	switch {
	case p.src.err != nil:
		return p.src.err
	case errors.Is(err, xz.ErrMemlimit) || errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("%s: it needs a window of more than %d MiB: %w", p.kind, maxWindow>>20, errdefs.ErrOutOfRange)
	}
	return fmt.Errorf("%s: %w: %w", p.kind, errdefs.ErrDataLoss, err)
}

// Close implements io.Closer.
func (p *plainReader) Close() error {
	p.close()
	return nil
}
