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
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	// Blobs up to this size are held in memory, so any source of them can be sent again.
	smallBlob = 64 << 10
	// Used when a proxy refuses a whole layer in one request (413); Cloudflare takes 100 MB.
	fallbackChunk  = 32 << 20
	maxPushBreaks  = 6
	maxMountTrials = 3
	// How long who gives up waits for the registry to hear of it.
	cancelPatience = 5 * time.Second
)

// Push implements content.Pusher. Manifests are stored under their digest; Tag names
// them. A broken upload goes on if src is an io.Seeker or Source is set; else it fails.
// Blobs are not asked for first: that is what Exists is for.
func (r *Repository) Push(ctx context.Context, d ocispec.Descriptor, src io.Reader) error {
	if err := d.Digest.Validate(); err != nil || d.Size < 0 {
		return fmt.Errorf("descriptor of %q with %d bytes: %w", d.Digest, d.Size, errdefs.ErrInvalidArgument)
	}
	if isManifest(d) {
		manifest, err := readLimited(src, maxManifest)
		if err != nil {
			return fmt.Errorf("reading manifest %s: %w", d.Digest, err)
		}
		return r.putManifest(ctx, d, d.Digest.String(), manifest)
	}
	if d.Size <= smallBlob {
		src = &smallReader{src: src, desc: d} // read when it is known that it cannot be mounted
	}
	up := &upload{repository: r, desc: d, source: &source{reader: src}, chunk: r.client.options.ChunkSize}
	if r.Source != nil {
		up.source.reopen = func() (io.ReadCloser, error) { return r.Source.Fetch(ctx, d) }
	}
	defer up.source.close()
	return up.run(ctx)
}

// A smallReader holds a small blob in memory once it has been read, and verified.
type smallReader struct {
	src  io.Reader
	desc ocispec.Descriptor
	data *bytes.Reader
}

func (s *smallReader) load() error {
	if s.data != nil {
		return nil
	}
	b, err := readLimited(s.src, s.desc.Size)
	if err != nil {
		return fmt.Errorf("reading blob %s: %w", s.desc.Digest, err)
	}
	if s.desc.Digest.Algorithm().FromBytes(b) != s.desc.Digest {
		return fmt.Errorf("blob is not %s: %w", s.desc.Digest, errdefs.ErrDataLoss)
	}
	s.data = bytes.NewReader(b)
	return nil
}

func (s *smallReader) Read(p []byte) (int, error) {
	if err := s.load(); err != nil {
		return 0, err
	}
	return s.data.Read(p)
}

func (s *smallReader) Seek(offset int64, whence int) (int64, error) {
	if err := s.load(); err != nil {
		return 0, err
	}
	return s.data.Seek(offset, whence)
}

// upload is the life of one blob's upload (distribution-spec, "Pushing a blob in
// chunks"): a session is begun by POST, filled by PATCH and closed by PUT.
type upload struct {
	repository *Repository
	desc       ocispec.Descriptor
	source     *source
	chunk      int64 // bytes per PATCH, 0 for all

	session *url.URL // nil: none
	offset  int64    // bytes the registry has
}

func (u *upload) run(ctx context.Context) error {
	breaks, best := 0, int64(0)
	for {
		stored, err := u.attempt(ctx)
		if stored || err == nil {
			return nil
		}
		if u.offset >= best+worthwhile {
			best, breaks = u.offset, 0
		}
		if breaks++; breaks >= maxPushBreaks || ctx.Err() != nil || !u.again(err) {
			u.cancel(ctx)
			return err
		}
		if err := u.repository.client.pause(ctx, breaks, err); err != nil {
			return err
		}
		u.ask(ctx)
	}
}

// again says whether another attempt after err makes sense, and prepares it.
func (u *upload) again(err error) bool {
	if u.source.err != nil || !u.source.restarts() {
		return false
	}
	var status *Error
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusRequestEntityTooLarge:
			if u.chunk != 0 && u.chunk <= fallbackChunk {
				return false
			}
			u.chunk = fallbackChunk
			return true
		case http.StatusUnauthorized: // the token ran out while we sent
			return true
		case http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable:
			lost := u.session != nil // the session is gone or disagrees
			u.session, u.offset = nil, 0
			return lost
		}
	}
	return retryable(err)
}

// attempt does what is left to do. stored is true if the registry had the blob already.
func (u *upload) attempt(ctx context.Context) (stored bool, err error) {
	if u.session == nil {
		if stored, err := u.begin(ctx); stored || err != nil {
			return stored, err
		}
	}
	if err := u.source.seek(u.offset); err != nil {
		return false, fmt.Errorf("sending %s again: %w", u.desc.Digest, err)
	}
	for u.offset < u.desc.Size {
		if err := u.patch(ctx); err != nil {
			return false, err
		}
	}
	return false, u.commit(ctx)
}

// begin opens a session, or has the blob mounted from a repository that may have it.
func (u *upload) begin(ctx context.Context) (stored bool, err error) {
	r := u.repository
	var from []string
	if r.MountFrom != nil {
		for _, name := range r.MountFrom(u.desc.Digest) {
			if name != r.name && len(from) < maxMountTrials {
				from = append(from, name)
			}
		}
	}
	for _, name := range from {
		stored, err := u.post(ctx, name)
		if stored || (err == nil && u.session != nil && name == from[len(from)-1]) {
			return stored, err
		}
		// A source we may not read is no reason to fail. What it cost is a session.
		u.cancel(ctx)
	}
	return u.post(ctx, "")
}

func (u *upload) post(ctx context.Context, from string) (stored bool, err error) {
	r := u.repository
	q := r.request(http.MethodPost, "blobs/uploads/")
	q.scope.push = true
	if from != "" {
		q.scope.from = from
		q.query = url.Values{"mount": {u.desc.Digest.String()}, "from": {from}}
	}
	q.body = func() io.ReadCloser { return http.NoBody }
	resp, err := r.host.do(ctx, q)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated && from != "" {
		return true, nil
	}
	u.offset = 0
	return false, u.moved(ctx, resp)
}

// moved takes the address of the session's next step.
func (u *upload) moved(ctx context.Context, resp *http.Response) (err error) {
	u.session, err = u.repository.location(ctx, resp, resp.Header.Get("Location"))
	return err
}

// patch sends the next chunk, or everything that is left.
func (u *upload) patch(ctx context.Context) error {
	n := u.desc.Size - u.offset
	whole := u.offset == 0 && (u.chunk == 0 || u.chunk >= n)
	if u.chunk > 0 {
		n = min(n, u.chunk)
	}
	q := u.request(http.MethodPatch)
	q.header = http.Header{"Content-Type": {"application/octet-stream"}}
	if !whole {
		q.header.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.offset+n-1))
	}
	var sent *part
	q.body = func() io.ReadCloser {
		sent = &part{source: u.source, rest: n}
		return sent
	}
	q.length, q.once = n, true
	resp, err := u.repository.host.do(ctx, q)
	if sent != nil {
		sent.Close() // the transport may still be reading
	}
	if u.source.err != nil {
		return fmt.Errorf("reading %s to send it: %w", u.desc.Digest, u.source.err)
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	u.offset += n
	return u.moved(ctx, resp)
}

func (u *upload) commit(ctx context.Context) error {
	q := u.request(http.MethodPut)
	q.header = http.Header{"Content-Type": {"application/octet-stream"}}
	q.query = url.Values{"digest": {u.desc.Digest.String()}}
	q.body = func() io.ReadCloser { return http.NoBody }
	q.once = true
	resp, err := u.repository.host.do(ctx, q)
	if err == nil {
		return resp.Body.Close()
	}
	if retryable(err) || errdefs.IsNotFound(err) {
		// The answer got lost, but the blob may be there.
		if ok, existsErr := u.repository.Exists(ctx, u.desc); existsErr == nil && ok {
			return nil
		}
	}
	return err
}

// ask finds out how much of a broken upload the registry has. Where it does not say,
// the upload begins anew.
func (u *upload) ask(ctx context.Context) {
	if u.session == nil {
		return
	}
	resp, err := u.repository.host.do(ctx, u.request(http.MethodGet))
	if err != nil {
		u.session, u.offset = nil, 0
		return
	}
	defer resp.Body.Close()
	_, last, ok := strings.Cut(resp.Header.Get("Range"), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || end < 0 || end >= u.desc.Size || resp.StatusCode != http.StatusNoContent {
		u.cancel(ctx)
		return
	}
	// "0-0" means one byte, or none; registries differ. None is the one that happens.
	if u.offset = end + 1; end == 0 {
		u.offset = 0
	}
	if resp.Header.Get("Location") != "" && u.moved(ctx, resp) != nil {
		u.session, u.offset = nil, 0
	}
}

// cancel ends the session, so that the registry need not keep what was sent.
func (u *upload) cancel(ctx context.Context) {
	if u.session != nil {
		ctx, done := context.WithTimeout(context.WithoutCancel(ctx), cancelPatience)
		defer done()
		q := u.request(http.MethodDelete)
		q.once = true
		if resp, err := u.repository.host.do(ctx, q); err == nil {
			resp.Body.Close()
		}
	}
	u.session, u.offset = nil, 0
}

func (u *upload) request(method string) request {
	q := u.repository.request(method, "")
	q.url = u.session
	q.scope.push = true
	return q
}
