package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/registry"
)

// httpOp is an http:// or https:// source: a tree with one file.
type httpOp struct {
	env      *Env
	url      string
	filename string
	perm     uint32
	uid, gid int
	checksum digest.Digest
	secret   string
	header   http.Header
	patience time.Duration // how long nothing may come from the server

	got download
}

// httpPatience is what servers get that make a file before they send it.
const httpPatience = 5 * time.Minute

// A download is what is remembered of a URL.
type download struct {
	Key      digest.Digest `json:"key"` // of the request
	ETag     string        `json:"etag,omitempty"`
	Digest   digest.Digest `json:"digest"` // of the blob
	Size     int64         `json:"size"`
	Filename string        `json:"filename"`
	Modified string        `json:"modified,omitempty"` // Last-Modified
}

func (e *Env) httpOp(target string, attrs map[string]string) (*httpOp, error) {
	o := &httpOp{env: e, url: target, perm: 0o600, header: http.Header{}, patience: httpPatience}
	for name, value := range attrs {
		if err := o.set(name, value); err != nil {
			return nil, fmt.Errorf("attribute %s=%q of %s: %w", name, value, redact(target), err)
		}
	}
	return o, nil
}

func (o *httpOp) set(name, value string) (err error) {
	var n int64
	switch name {
	case pb.AttrHTTPChecksum:
		o.checksum, err = digest.Parse(value)
	case pb.AttrHTTPFilename:
		o.filename = value
	case pb.AttrHTTPPerm:
		n, err = strconv.ParseInt(value, 0, 32)
		if n != 0 { // BuildKit takes 0 for not given
			o.perm = uint32(n) & 0o7777
		}
	case pb.AttrHTTPUID:
		n, err = strconv.ParseInt(value, 0, 32)
		o.uid = int(n)
	case pb.AttrHTTPGID:
		n, err = strconv.ParseInt(value, 0, 32)
		o.gid = int(n)
	case pb.AttrHTTPAuthHeaderSecret:
		o.secret = value
	case pb.AttrHTTPSignatureVerify, pb.AttrHTTPSignatureVerifyPubKey:
		return fmt.Errorf("signatures of downloads: %w", errdefs.ErrNotImplemented)
	default:
		if h, ok := strings.CutPrefix(name, pb.AttrHTTPHeaderPrefix); ok {
			h = http.CanonicalHeaderKey(h)
			if h == "Accept" || h == "User-Agent" { // the only ones BuildKit passes on
				o.header.Set(h, value)
			}
		}
	}
	return err
}

// Key implements solver.Op. Without a checksum the file has to be there to have a key; with
// one nothing is asked of the server.
func (o *httpOp) Key(ctx context.Context) (solver.Key, error) {
	if o.checksum != "" {
		o.got = download{Digest: o.checksum, Filename: fileName(o.url, o.filename, nil)}
		return o.key()
	}
	var err error
	if o.got, err = o.fetch(ctx); err != nil {
		return solver.Key{}, err
	}
	return o.key()
}

// key is formatCacheKey of BuildKit's source/http.
func (o *httpOp) key() (solver.Key, error) {
	type field struct{ Name, Value string }
	var fields []field
	for _, h := range []string{"Accept", "User-Agent"} {
		if v := o.header.Get(h); v != "" {
			fields = append(fields, field{h, v})
		}
	}
	modified := ""
	if t, err := http.ParseTime(o.got.Modified); err == nil {
		modified = t.Format(http.TimeFormat)
	}
	perm := int(o.perm)
	if perm == 0o600 {
		perm = 0
	}
	dt, err := json.Marshal(struct {
		Filename         string
		Perm, UID, GID   int
		Checksum         digest.Digest
		LastModTime      string  `json:",omitempty"`
		AuthHeaderSecret string  `json:",omitempty"`
		Header           []field `json:",omitempty"`
	}{o.got.Filename, perm, o.uid, o.gid, o.got.Digest, modified, o.secret, fields})
	if err != nil {
		return solver.Key{}, err
	}
	return solver.Key{Digest: sourceKey(digest.FromBytes(dt).String())}, nil
}

// ContentKeys implements solver.Op.
func (o *httpOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op.
func (o *httpOp) Run(ctx context.Context, c *solver.Console, _ []Result) (_ []Result, err error) {
	if o.got.Size == 0 && o.checksum != "" {
		if o.got, err = o.fetch(ctx); err != nil {
			return nil, err
		}
		o.got.Filename = fileName(o.url, o.filename, nil)
	}
	m, err := o.env.prepare(ctx, c, Result{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.discard(ctx)) }()
	if err := o.write(ctx, m); err != nil {
		return nil, fmt.Errorf("storing %s: %w", redact(o.url), err)
	}
	r, err := m.commit(ctx)
	return []Result{r}, err
}

func (o *httpOp) write(ctx context.Context, m *mutable) error {
	dir, err := m.open()
	if err != nil {
		return err
	}
	r, err := o.env.Store.Content.Fetch(ctx, ocispec.Descriptor{Digest: o.got.Digest, Size: o.got.Size})
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := dir.OpenFile(o.got.Filename, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.Copy(f, r); err != nil {
		return err
	}
	if err := unix.Fchown(int(f.Fd()), o.uid, o.gid); err != nil {
		return err
	}
	if err := unix.Fchmod(int(f.Fd()), o.perm); err != nil {
		return err
	}
	mtime := time.Unix(0, 0)
	if t, err := http.ParseTime(o.got.Modified); err == nil {
		mtime = t
	}
	return setTimes(int(f.Fd()), "", mtime)
}

// requestKey names what is remembered of this request.
func (o *httpOp) requestKey() digest.Digest {
	return digest.FromString(fmt.Sprintf("%q %q %q %q", o.url, o.filename, o.header, o.secret))
}

func (o *httpOp) stateFile() string {
	return filepath.Join(o.env.Dir, "http", o.requestKey().Encoded())
}

// fetch downloads the URL into the store, unless what is there is still what the server has. In one build the server
// is asked once: a frontend that has looked at a file builds with that one.
func (o *httpOp) fetch(ctx context.Context) (download, error) {
	d, err := o.env.got.get(o.requestKey(), func() (download, error) { return o.patiently(ctx) })
	if err == nil {
		err = o.verify(ctx, d) // what another operation fetched
	}
	if err != nil {
		return d, fmt.Errorf("downloading %s: %w", redact(o.url), err)
	}
	return d, nil
}

// patiently is get as long as something comes.
func (o *httpOp) patiently(ctx context.Context) (download, error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	silent := fmt.Errorf("nothing has come for %s: %w", o.patience, errdefs.ErrUnavailable)
	watch := time.AfterFunc(o.patience, func() { end(silent) })
	defer watch.Stop()
	d, err := o.get(ctx, func() { watch.Reset(o.patience) })
	if err != nil && context.Cause(ctx) == silent {
		err = silent
	}
	return d, err
}

// get downloads what is not known. It tells by moved when something has come.
func (o *httpOp) get(ctx context.Context, moved func()) (download, error) {
	var known download
	if statefile.Read(o.stateFile(), &known) == nil && known.Key == o.requestKey() && known.Digest.Validate() == nil {
		if ok, err := o.env.Store.Content.Touch(known.Digest); err == nil && ok && o.fresh(ctx, known) {
			return known, o.verify(ctx, known)
		}
	}
	req, err := o.request(ctx, http.MethodGet)
	if err != nil {
		return known, err
	}
	resp, err := o.client().Do(req)
	if err != nil {
		return known, unredacted(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return known, fmt.Errorf("the server answered %s: %w", resp.Status, classOf(resp.StatusCode))
	}
	return o.save(ctx, resp, &movingReader{resp.Body, moved})
}

// movingReader tells of every read.
type movingReader struct {
	io.Reader
	moved func()
}

func (r *movingReader) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	r.moved()
	return n, err
}

func classOf(status int) error {
	switch status {
	case http.StatusNotFound, http.StatusGone:
		return errdefs.ErrNotFound
	case http.StatusUnauthorized, http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	}
	return errdefs.ErrUnavailable
}

// fresh asks with HEAD, because some servers that give ETags do not understand If-None-Match.
func (o *httpOp) fresh(ctx context.Context, known download) bool {
	if known.ETag == "" {
		return false
	}
	req, err := o.request(ctx, http.MethodHead)
	if err != nil {
		return false
	}
	req.Header.Set("If-None-Match", known.ETag)
	// The encoding of GET: some servers have an ETag for each.
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := o.client().Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusNotModified:
		tag := resp.Header.Get("ETag")
		return tag == "" || etag(tag) == etag(known.ETag)
	case http.StatusOK:
		return etag(resp.Header.Get("ETag")) == etag(known.ETag)
	}
	return false
}

// etag drops the mark of weak validators: equal for our purpose.
func etag(s string) string { return strings.TrimPrefix(s, "W/") }

func (o *httpOp) client() *http.Client {
	c := *http.DefaultClient
	if o.env.HTTP != nil {
		c = *o.env.HTTP
	}
	c.CheckRedirect = redirected
	return &c
}

// redirected refuses what only this machine should ask for: clouds serve their secrets on link-local addresses. Who
// wants a file from there says so.
func redirected(req *http.Request, via []*http.Request) error {
	const most = 10 // as net/http has it
	switch {
	case len(via) >= most:
		return fmt.Errorf("redirected %d times: %w", most, errdefs.ErrUnavailable)
	case registry.LinkLocal(req.URL) && !registry.LinkLocal(via[0].URL):
		return fmt.Errorf("redirected to the link-local address %s: %w", req.URL.Host, errdefs.ErrPermissionDenied)
	}
	return nil
}

func (o *httpOp) request(ctx context.Context, method string) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, o.url, nil)
	if err != nil {
		return nil, unredacted(err)
	}
	req.Header.Set("User-Agent", "teu")
	for name, values := range o.header {
		req.Header[name] = values
	}
	if o.secret != "" {
		value, err := o.env.secret(ctx, o.secret)
		if err != nil {
			return nil, err
		}
		req.Header.Set("Authorization", string(value))
		return req, nil
	}
	for _, s := range []struct{ id, prefix string }{{"HTTP_AUTH_HEADER_", ""}, {"HTTP_AUTH_TOKEN_", "Bearer "}} {
		if value, err := o.env.secret(ctx, s.id+req.URL.Hostname()); err == nil {
			req.Header.Set("Authorization", s.prefix+string(value))
		}
	}
	return req, nil
}

// save stores the body of resp as a blob and remembers it.
func (o *httpOp) save(ctx context.Context, resp *http.Response, body io.Reader) (download, error) {
	d := download{
		Key:      o.requestKey(),
		ETag:     resp.Header.Get("ETag"),
		Modified: resp.Header.Get("Last-Modified"),
		Filename: fileName(o.url, o.filename, resp),
	}
	w, err := o.env.Store.Content.Writer(ctx)
	if err != nil {
		return d, err
	}
	defer w.Close()
	if d.Size, err = io.Copy(w, body); err != nil {
		return d, unredacted(err)
	}
	if resp.ContentLength >= 0 && d.Size != resp.ContentLength {
		return d, fmt.Errorf("%d bytes came of %d: %w", d.Size, resp.ContentLength, io.ErrUnexpectedEOF)
	}
	desc, err := w.Commit(ctx, "application/octet-stream")
	if err != nil {
		return d, err
	}
	d.Digest = desc.Digest
	if err := o.verify(ctx, d); err != nil {
		return d, err
	}
	if d.ETag == "" {
		return d, nil
	}
	if err := os.MkdirAll(filepath.Dir(o.stateFile()), 0o700); err != nil {
		return d, err
	}
	return d, statefile.Write(o.stateFile(), d, statefile.WriteOptions{})
}

// verify compares a blob with the checksum that was asked for, which may be of any algorithm.
func (o *httpOp) verify(ctx context.Context, d download) error {
	if o.checksum == "" || o.checksum == d.Digest {
		return nil
	}
	got := d.Digest
	if o.checksum.Algorithm() != digest.SHA256 {
		r, err := o.env.Store.Content.Fetch(ctx, ocispec.Descriptor{Digest: d.Digest, Size: d.Size})
		if err != nil {
			return err
		}
		defer r.Close()
		if got, err = o.checksum.Algorithm().FromReader(r); err != nil {
			return err
		}
	}
	if got != o.checksum {
		return fmt.Errorf("digest mismatch: it is %s, not %s as asked: %w", got, o.checksum, errdefs.ErrDataLoss)
	}
	return nil
}

// fileName is getFileName of BuildKit's source/http. It is always a single component.
func fileName(target, given string, resp *http.Response) string {
	if given != "" {
		return safeName(given)
	}
	if resp != nil {
		_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
		if name := params["filename"]; err == nil && name != "" && !strings.HasSuffix(name, "/") {
			return safeName(name)
		}
	}
	if u, err := url.Parse(target); err == nil {
		return safeName(u.Path)
	}
	return safeName("")
}

// safeName returns the last component of name, or a default for what is no good file name.
func safeName(name string) string {
	base := path.Base(strings.TrimSpace(name))
	if base == "." || base == "/" || base == ".." || strings.ContainsFunc(base, unicode.IsControl) {
		return "download"
	}
	return base
}

// redact returns a URL without the secrets in it.
func redact(target string) string {
	u, err := url.Parse(target)
	if err != nil {
		return "a URL that is none"
	}
	return u.Redacted()
}

// unredacted takes the URL, which may hold a password, out of an error of net/http.
func unredacted(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
