package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	// A connection that broke after so many bytes was worth it: the count of restarts begins anew.
	worthwhile  = 32 << 10
	maxRestarts = 6
	// A server that ignores Range sends all from the beginning, so restarts cost the square.
	maxFullRestarts = 4
)

// Fetch implements content.Fetcher. A broken connection is opened again where it broke.
func (r *Repository) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil { // or Verifier would panic
		return nil, fmt.Errorf("digest %q: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	b, err := r.fetch(ctx, d, 0, d.Digest.Verifier())
	if err != nil || len(r.mirrors) == 0 || d.Size > maxManifest {
		return b, err
	}
	// It is small, so it is whole before somebody sees it, and a mirror that gives other bytes is passed by.
	data, err := io.ReadAll(b)
	if err = errors.Join(err, b.Close()); errdefs.IsDataLoss(err) && r.Doubt() {
		return r.fetch(ctx, d, 0, d.Digest.Verifier())
	}
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// FetchFrom implements content.RangeFetcher.
func (r *Repository) FetchFrom(ctx context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	return r.fetch(ctx, d, offset, nil)
}

func (r *Repository) fetch(ctx context.Context, d ocispec.Descriptor, offset int64, v digest.Verifier) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	if d.Size < 0 || offset < 0 || offset > d.Size {
		return nil, fmt.Errorf("byte %d of the %d of %s: %w", offset, d.Size, d.Digest, errdefs.ErrInvalidArgument)
	}
	if len(d.Data) > 0 && int64(len(d.Data)) == d.Size && d.Digest.Algorithm().FromBytes(d.Data) == d.Digest {
		return io.NopCloser(bytes.NewReader(d.Data[offset:])), nil
	}
	b := &blobReader{ctx: ctx, repository: r, desc: d, verifier: v, body: http.NoBody, offset: offset, direct: &atomic.Pointer[url.URL]{}}
	if offset > 0 && offset == d.Size {
		return b, nil // no server has a range there
	}
	err := b.open()
	if errdefs.IsDataLoss(err) && b.doubt() { // it is not even as long as it should be
		err = b.open()
	}
	if err != nil && isManifest(d) { // who fetches other blobs says what they are for
		err = fmt.Errorf("manifest %s: %w", d.Digest, err)
	}
	if err != nil {
		return nil, err
	}
	r.client.readers.Add(1)
	b.leave = sync.OnceFunc(func() { r.client.readers.Add(-1) })
	return b, nil
}

// blobReader reads one blob over as many connections as it takes.
type blobReader struct {
	ctx        context.Context
	repository *Repository
	desc       ocispec.Descriptor
	verifier   digest.Verifier // nil: the caller verifies

	body   io.ReadCloser
	offset int64 // bytes given out
	begun  int64 // offset when body was opened
	end    int64 // of the bytes wanted; 0: all
	pace   pace  // of body
	alone  bool  // one connection only, see spread
	// direct is where a redirect to another server led; all who read the blob share it.
	direct *atomic.Pointer[url.URL]

	leave func() // ends being one of the client's readers; nil: it is none

	restarts, fullRestarts int
	doubted                bool  // no mirror is asked any more, see doubt
	err                    error // how it ended
}

// Read implements io.Reader. The last bytes come before the verdict: io.EOF for the
// right digest, an errdefs.ErrDataLoss for a wrong one.
func (b *blobReader) Read(p []byte) (int, error) {
	for b.err == nil {
		rest := b.last() - b.offset
		if rest == 0 {
			b.err = b.verdict()
			break
		}
		n, err := b.timedRead(p[:min(int64(len(p)), rest)])
		if b.verifier != nil {
			b.verifier.Write(p[:n])
		}
		b.offset += int64(n)
		if err != nil && b.offset < b.last() {
			b.err = b.restart(err)
		} else if err == nil {
			b.spread()
		}
		if n > 0 || len(p) == 0 {
			return n, nil
		}
	}
	return 0, b.err
}

// last is where the bytes wanted end.
func (b *blobReader) last() int64 {
	if b.end > 0 {
		return b.end
	}
	return b.desc.Size
}

func (b *blobReader) verdict() error {
	if b.verifier != nil && !b.verifier.Verified() {
		return fmt.Errorf("%s sent other bytes than %s: %w", b.repository.host.name, b.desc.Digest, errdefs.ErrDataLoss)
	}
	return io.EOF
}

// restart opens the blob again at the offset after err ended the connection.
func (b *blobReader) restart(err error) error {
	if b.offset-b.begun >= worthwhile {
		b.restarts = 0
	}
	for {
		b.body.Close()
		if b.ctx.Err() != nil {
			return context.Cause(b.ctx)
		}
		if b.restarts++; b.restarts > maxRestarts && !b.doubt() {
			return fmt.Errorf("connection broke %d times at byte %d of %s: %w", b.restarts-1, b.offset, b.desc.Digest, notEOF(err))
		}
		if b.restarts > 1 {
			if err := b.repository.client.pause(b.ctx, b.restarts-1, err); err != nil {
				return err
			}
		}
		if err = b.open(); err == nil {
			return nil
		}
		if !NoAnswer(err) && !b.doubt() {
			return err
		}
	}
}

// doubt has the registry itself asked for the rest, once, where a mirror has not brought it.
func (b *blobReader) doubt() bool {
	if b.doubted || !b.repository.Doubt() {
		return false
	}
	b.doubted, b.restarts, b.fullRestarts = true, 0, 0
	b.direct.Store(nil) // it may be where the mirror led
	return true
}

// open asks for the bytes from the offset on.
func (b *blobReader) open() error {
	b.body, b.begun, b.pace = http.NoBody, b.offset, pace{}
	q := b.repository.request(http.MethodGet, "blobs/"+b.desc.Digest.String())
	q.header = http.Header{}
	if isManifest(b.desc) {
		q = b.repository.request(http.MethodGet, "manifests/"+b.desc.Digest.String())
		q.header = http.Header{"Accept": []string{b.desc.MediaType}}
	}
	if b.end > 0 {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-%d", b.offset, b.end-1))
	} else if b.offset > 0 {
		q.header.Set("Range", fmt.Sprintf("bytes=%d-", b.offset))
	}
	resp, err := b.ask(q)
	if b.end == 0 && b.offset > 0 && errdefs.IsOutOfRange(err) {
		q.header.Del("Range") // the range is one that the blob has, so the server has none
		resp, err = b.ask(q)
	}
	if errdefs.IsNotFound(err) && content.IsForeign(b.desc.MediaType) && len(b.desc.URLs) > 0 {
		resp, err = b.elsewhere(q.header)
	}
	if err != nil {
		return err
	}
	decode(resp, b.desc.Size)
	b.body = resp.Body
	if resp.StatusCode == http.StatusPartialContent {
		return b.checkRange(resp)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != b.desc.Size {
		resp.Body.Close()
		return fmt.Errorf("%s has %d bytes for %s, not %d: %w", b.repository.host.name, resp.ContentLength, b.desc.Digest, b.desc.Size, errdefs.ErrDataLoss)
	}
	if b.end > 0 {
		resp.Body.Close()
		return fmt.Errorf("%s ignores Range: %w", b.repository.host.name, errdefs.ErrNotImplemented)
	}
	if b.offset == 0 {
		b.alone = b.alone || resp.Header.Get("Accept-Ranges") != "bytes"
		return nil
	}
	b.alone = true
	if b.fullRestarts++; b.fullRestarts > maxFullRestarts {
		resp.Body.Close()
		return fmt.Errorf("connection broke %d times and %s cannot continue a download (it ignores Range): %w", b.fullRestarts, b.repository.host.name, errdefs.ErrUnavailable)
	}
	_, err = io.CopyN(io.Discard, resp.Body, b.offset)
	if err != nil {
		resp.Body.Close()
		return &networkError{host: b.repository.host, err: notEOF(err)}
	}
	return nil
}

// ask sends q. The server that an earlier redirect led to is asked first, which saves a round trip, until it
// does not answer any more: such addresses expire.
func (b *blobReader) ask(q request) (*http.Response, error) {
	if at := b.direct.Load(); at != nil {
		again := q
		again.url, again.once = at, true
		resp, err := b.repository.client.foreign(at).do(b.ctx, again)
		if err == nil || b.ctx.Err() != nil {
			return resp, err
		}
		b.direct.CompareAndSwap(at, nil)
	}
	resp, err := b.repository.read(b.ctx, q, capPull)
	if err == nil && resp.Request.Response != nil {
		b.direct.Store(resp.Request.URL)
	}
	return resp, err
}

// elsewhere asks the servers that may distribute the layer, where this registry may not. What holds for redirects holds
// for them: they get no credentials.
func (b *blobReader) elsewhere(header http.Header) (resp *http.Response, err error) {
	h := b.repository.host
	base, err := h.base(b.ctx)
	if err != nil {
		return nil, err
	}
	for _, address := range b.desc.URLs[:min(len(b.desc.URLs), maxRedirects)] {
		q := request{method: http.MethodGet, header: header}
		if q.url, err = redirectTarget(q, base, address, h.client.insecure); err == nil {
			resp, err = h.do(b.ctx, q)
		}
		if err == nil {
			return resp, nil
		}
		err = fmt.Errorf("%s does not have it, and %s: %w", h.name, printable(address), err)
	}
	return nil, err
}

// checkRange refuses an answer that begins elsewhere or is about another length.
func (b *blobReader) checkRange(resp *http.Response) error {
	got := resp.Header.Get("Content-Range")
	span, total, _ := strings.Cut(strings.TrimPrefix(got, "bytes "), "/")
	first, _, _ := strings.Cut(span, "-")
	start, err := strconv.ParseInt(first, 10, 64)
	size, sizeErr := strconv.ParseInt(total, 10, 64)
	if err != nil || start != b.offset || (sizeErr == nil && size != b.desc.Size) {
		resp.Body.Close()
		return fmt.Errorf("%s answered with range %q of %s instead of bytes from %d of %d: %w",
			b.repository.host.name, printable(got), b.desc.Digest, b.offset, b.desc.Size, errdefs.ErrDataLoss)
	}
	return nil
}

// notEOF keeps an end that came too early from looking like the end of the blob.
func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// Close implements io.Closer.
func (b *blobReader) Close() error {
	if b.err == nil {
		b.err = errors.New("read after close")
	}
	if b.leave != nil {
		b.leave()
	}
	return b.body.Close()
}
