package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	maxManifest = 4 << 20 // bytes, the usual limit of registries
	maxTagPage  = 8 << 20
	maxTagPages = 10000
	maxTags     = 4 << 20 // in all pages
	maxList     = 1 << 27 // bytes of all pages of a list
)

var (
	_ content.Fetcher      = (*Repository)(nil)
	_ content.RangeFetcher = (*Repository)(nil)
	_ content.Pusher       = (*Repository)(nil)
)

// acceptManifests lists what we can read. Some registries look at the first header line only.
func acceptManifests() []string {
	return []string{strings.Join([]string{
		ocispec.MediaTypeImageIndex,
		ocispec.MediaTypeImageManifest,
		"application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.docker.distribution.manifest.v2+json",
		"*/*",
	}, ", ")}
}

// Resolve returns the descriptor of a tag ("latest") or a digest ("sha256:..."), without
// its platform. It asks with HEAD, which Docker Hub does not count as a pull.
func (r *Repository) Resolve(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	q := r.request(http.MethodHead, "manifests/"+tagOrDigest)
	q.header = http.Header{"Accept": acceptManifests()}
	resp, err := r.read(ctx, q, needed(tagOrDigest))
	var status *Error
	switch {
	case err == nil:
		resp.Body.Close()
		if d, ok := descriptorOf(resp); ok {
			return checkResolved(d, tagOrDigest)
		}
	case !errors.As(err, &status) || status.Method != http.MethodHead || errdefs.IsResourceExhausted(err):
		return ocispec.Descriptor{}, err // what a token server says is final
	}
	// Not every registry answers HEAD, or with a digest; some allow it to nobody, and none can say why it
	// refuses. docker asks with GET then, whatever the status was.
	return r.resolveByGet(ctx, tagOrDigest)
}

func (r *Repository) resolveByGet(ctx context.Context, tagOrDigest string) (ocispec.Descriptor, error) {
	d, _, err := r.Manifest(ctx, tagOrDigest)
	return d, err
}

// needed is what a mirror must be trusted with.
func needed(tagOrDigest string) string {
	if digest.Digest(tagOrDigest).Validate() == nil {
		return capPull
	}
	return capResolve
}

// descriptorOf reads the descriptor of a manifest out of the headers.
func descriptorOf(resp *http.Response) (ocispec.Descriptor, bool) {
	d := ocispec.Descriptor{
		MediaType: mediaType(resp, nil),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	return d, !encoded(resp) && d.Digest.Validate() == nil && d.Size > 0 && d.Size <= maxManifest && d.MediaType != ""
}

// mediaType returns the Content-Type without parameters, or what the document itself says.
func mediaType(resp *http.Response, body []byte) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	t = strings.ToLower(strings.TrimSpace(t))
	if content.IsManifest(t) || content.IsIndex(t) {
		return t
	}
	if detected, err := content.DetectMediaType(body); err == nil {
		return detected
	}
	var doc struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(body, &doc) == nil && doc.MediaType != "" {
		return doc.MediaType
	}
	if t == "application/vnd.docker.distribution.manifest.v1+prettyjws" || t == "application/vnd.docker.distribution.manifest.v1+json" {
		return t
	}
	return ""
}

func checkResolved(d ocispec.Descriptor, tagOrDigest string) (ocispec.Descriptor, error) {
	if want := digest.Digest(tagOrDigest); want.Validate() == nil && d.Digest != want {
		return ocispec.Descriptor{}, fmt.Errorf("the registry gave %s for %s: %w", d.Digest, want, errdefs.ErrDataLoss)
	}
	if strings.HasPrefix(d.MediaType, "application/vnd.docker.distribution.manifest.v1+") {
		return ocispec.Descriptor{}, fmt.Errorf("image has the docker schema 1 format of before 2016, push it again with a current tool: %w", errdefs.ErrNotImplemented)
	}
	if d.MediaType == "" {
		return ocispec.Descriptor{}, fmt.Errorf("the registry gave something that is no manifest: %w", errdefs.ErrInvalidArgument)
	}
	if !isManifest(d) {
		return ocispec.Descriptor{}, fmt.Errorf("%s has the media type %q, which is no image's: %w", d.Digest, printable(d.MediaType), errdefs.ErrInvalidArgument)
	}
	return d, nil
}

// Exists implements content.Pusher.
func (r *Repository) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	q := r.request(http.MethodHead, "blobs/"+d.Digest.String())
	if isManifest(d) {
		q = r.request(http.MethodHead, "manifests/"+d.Digest.String())
		q.header = http.Header{"Accept": []string{d.MediaType}}
	}
	resp, err := r.host.do(ctx, q)
	var status *Error
	if errdefs.IsNotFound(err) || errors.As(err, &status) && status.Status == http.StatusMethodNotAllowed {
		return false, nil // who does not answer HEAD gets it once more
	}
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return true, nil
}

// Tag stores the manifest d, whose bytes are manifest, under tag. What it refers to is there already.
func (r *Repository) Tag(ctx context.Context, d ocispec.Descriptor, tag string, manifest []byte) error {
	return r.putManifest(ctx, d, tag, manifest)
}

func (r *Repository) putManifest(ctx context.Context, d ocispec.Descriptor, name string, manifest []byte) error {
	if int64(len(manifest)) != d.Size || d.Digest.Validate() != nil || d.Digest.Algorithm().FromBytes(manifest) != d.Digest {
		return fmt.Errorf("manifest is not %s: %w", d.Digest, errdefs.ErrDataLoss)
	}
	q := r.request(http.MethodPut, "manifests/"+name)
	q.scope.push = true
	q.header = http.Header{"Content-Type": []string{d.MediaType}}
	q.body = func() io.ReadCloser { return io.NopCloser(bytes.NewReader(manifest)) }
	q.length = d.Size
	resp, err := r.host.do(ctx, q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != d.Digest.String() {
		return fmt.Errorf("the registry stored %s as %s: %w", d.Digest, printable(got), errdefs.ErrDataLoss)
	}
	return nil
}

// Tags lists the tags of the repository in the registry's order.
func (r *Repository) Tags(ctx context.Context) ([]string, error) {
	q := r.request(http.MethodGet, "tags/list")
	var all []string
	var length int
	for page := 0; ; page++ {
		tags, n, next, err := r.tagPage(ctx, q)
		if err != nil {
			return nil, err
		}
		length += n
		all = append(all, tags...)
		if next == nil {
			return all, nil
		}
		if page == maxTagPages || len(tags) == 0 || len(all) > maxTags || length > maxList {
			return nil, fmt.Errorf("listing tags: the registry's pages do not end: %w", errdefs.ErrUnavailable)
		}
		q.url = next
	}
}

func (r *Repository) tagPage(ctx context.Context, q request) (tags []string, length int, next *url.URL, err error) {
	resp, body, err := r.client.document(ctx, maxTagPage, func() (*http.Response, error) { return r.host.do(ctx, q) })
	if resp == nil {
		return nil, 0, nil, err
	}
	if err != nil {
		return nil, 0, nil, fmt.Errorf("listing tags: %w", err)
	}
	var doc struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(body, &doc); err != nil {
		return nil, 0, nil, fmt.Errorf("listing tags: %w", err)
	}
	next, err = r.nextPage(ctx, resp)
	return doc.Tags, len(body), next, err
}

// nextPage reads the Link header (distribution-spec, "Listing Tags").
func (r *Repository) nextPage(ctx context.Context, resp *http.Response) (*url.URL, error) {
	link := resp.Header.Get("Link")
	if link == "" {
		return nil, nil
	}
	start, end := strings.IndexByte(link, '<'), strings.IndexByte(link, '>')
	if start < 0 || end < start {
		return nil, nil
	}
	return r.location(ctx, resp, link[start+1:end])
}

// location resolves an address the registry gave for a later request to itself. The
// scheme is ours: registries behind a TLS proxy often do not know it.
func (r *Repository) location(ctx context.Context, resp *http.Response, s string) (*url.URL, error) {
	u, err := resp.Request.URL.Parse(s)
	if err != nil || s == "" || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, fmt.Errorf("%s gave the unusable address %q: %w", r.host.name, printable(s), errdefs.ErrUnavailable)
	}
	if r.host.serves(u) {
		if u.Host, u.Scheme = r.host.addr, "https"; r.host.lax {
			base, err := r.host.base(ctx)
			if err != nil {
				return nil, err
			}
			u.Scheme = base.Scheme
		}
		return u, nil
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && r.host.lax) {
		return nil, fmt.Errorf("%s sends us to %s without TLS: %w", r.host.name, u.Host, errdefs.ErrPermissionDenied)
	}
	if u.User = nil; LinkLocal(u) {
		return nil, fmt.Errorf("%s sends us to the link-local address %s: %w", r.host.name, u.Host, errdefs.ErrPermissionDenied)
	}
	return u, nil
}

func (r *Repository) request(method, path string) request {
	return request{method: method, path: "/v2/" + r.name + "/" + path, scope: scope{repository: r.name}}
}

func isManifest(d ocispec.Descriptor) bool {
	return content.IsManifest(d.MediaType) || content.IsIndex(d.MediaType)
}

// document returns an answer that ask gives, and its body of at most limit bytes. If the connection breaks before the end of
// that, it is asked for again, as if there had been no answer. Without an answer resp is nil.
func (c *Client) document(ctx context.Context, limit int64, ask func() (*http.Response, error)) (resp *http.Response, body []byte, err error) {
	for attempt := 1; ; attempt++ {
		if resp, err = ask(); err != nil {
			return nil, nil, err
		}
		body, err = readLimited(resp.Body, limit)
		resp.Body.Close()
		if !NoAnswer(err) || attempt >= maxAttempts {
			return resp, body, err
		}
		if err := c.pause(ctx, attempt, err); err != nil {
			return nil, nil, err
		}
	}
}

// readLimited reads all of r, at most limit bytes.
func readLimited(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %s bytes: %w", strconv.FormatInt(limit, 10), errdefs.ErrOutOfRange)
	}
	return b, nil
}
