package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/containerd/errdefs"
)

const maxRedirects = 10

// request is one call of the distribution API.
type request struct {
	method string
	path   string     // below the host's root: "/v2/library/x/manifests/latest"
	url    *url.URL   // instead of path: an upload location the registry gave
	query  url.Values // added to the address
	header http.Header
	scope  scope

	body   func() io.ReadCloser // nil for none; called for every attempt
	length int64                // bytes of body

	once bool // do not repeat: the caller knows how to go on
}

// do sends q and returns the answer if its status is 2xx, else an *Error or a network
// error. It repeats what may be repeated. The caller closes the body.
func (h *host) do(ctx context.Context, q request) (*http.Response, error) {
	return h.client.repeat(ctx, !q.once, func() (*http.Response, error) {
		resp, err := h.send(ctx, q)
		return resp, h.auth.explain(ctx, err)
	})
}

// repeat calls f until it succeeds, fails for good, or has failed too often.
func (c *Client) repeat(ctx context.Context, again bool, f func() (*http.Response, error)) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := f()
		if err == nil || !again || attempt >= maxAttempts || !retryable(err) || ctx.Err() != nil {
			return resp, err
		}
		if err := c.pause(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// send makes one attempt at q. Redirects are followed for reading only, and without
// credentials where they leave the host: registry.k8s.io serves manifests that way,
// everybody blobs. The answer of another host has the redirect in Request.Response.
func (h *host) send(ctx context.Context, q request) (*http.Response, error) {
	var base *url.URL
	var first *answer
	if q.url == nil {
		var err error
		if base, first, err = h.begin(ctx, q); err != nil {
			return nil, err
		}
	}
	u := q.address(base)
	at := h
	if !h.serves(u) {
		at = h.client.foreign(u)
	}
	began := u
	var redirect *http.Response
	for hop := 0; ; hop++ {
		resp, err := at.authorized(ctx, q, u, first)
		first = nil
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			if at != h {
				resp.Request.Response = redirect
			}
			return resp, nil
		}
		if !isRedirect(resp.StatusCode) {
			e := newError(at, resp)
			e.foreign = at != h
			return nil, e
		}
		resp.Body.Close()
		redirect = resp
		next, err := redirectTarget(q, u, resp.Header.Get("Location"), h.client.insecure)
		if err == nil && hop == maxRedirects {
			err = errors.New("too many redirects")
		}
		if err != nil {
			return nil, fmt.Errorf("redirected by %s: %w", at.name, err)
		}
		at = h.next(began, next)
		u = next
	}
}

// next returns the host at u, where redirects of a request to h led that began at another address: h with its
// credentials only if they are as safe there.
func (h *host) next(began, u *url.URL) *host {
	if h.serves(u) && (u.Scheme == "https" || began.Scheme == "http") {
		return h
	}
	return h.client.foreign(u)
}

// address returns where q goes on a host with the root base.
func (q request) address(base *url.URL) *url.URL {
	u := q.url
	if u == nil {
		u = base.JoinPath(q.path)
	}
	if len(q.query) == 0 {
		return u
	}
	both := u.Query()
	for k, v := range q.query {
		both[k] = v
	}
	with := *u
	with.RawQuery = both.Encode()
	return &with
}

// spent says that the body of q cannot be had a second time, once it was sent: the caller knows where to go on.
func (q request) spent() bool { return q.once && q.length > 0 }

func isRedirect(status int) bool {
	switch status {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// redirectTarget resolves location and refuses where we must not go.
func redirectTarget(q request, from *url.URL, location string, insecure insecureHosts) (*url.URL, error) {
	if q.method != http.MethodGet && q.method != http.MethodHead {
		return nil, fmt.Errorf("refusing to send a %s elsewhere: %w", q.method, errdefs.ErrPermissionDenied)
	}
	next, err := from.Parse(location)
	if err != nil || location == "" || next.Host == "" {
		return nil, fmt.Errorf("no usable address: %w", errdefs.ErrUnavailable)
	}
	next.User = nil
	switch {
	case next.Scheme != "https" && next.Scheme != "http":
		return nil, fmt.Errorf("scheme %q: %w", next.Scheme, errdefs.ErrPermissionDenied)
	case next.Scheme == "http" && from.Scheme == "https" && !insecure.contains(next.Host):
		return nil, fmt.Errorf("from TLS to plain HTTP at %s: %w", next.Host, errdefs.ErrPermissionDenied)
	case LinkLocal(next):
		return nil, fmt.Errorf("to the link-local address %s: %w", next.Host, errdefs.ErrPermissionDenied)
	}
	return next, nil
}

// authorized sends q to u with the credentials the host asks for, at most three times:
// as we think is right, as its challenge says, and after a ping if the host hides
// from strangers what it has. first is the answer to an attempt without credentials that has been made
// already, or nil.
func (h *host) authorized(ctx context.Context, q request, u *url.URL, first *answer) (*http.Response, error) {
	used := ""
	if first == nil {
		var err error
		if used, err = h.auth.header(ctx, q.scope); err != nil {
			return nil, err
		}
		resp, err := h.attempt(ctx, q, u, used)
		first = &answer{resp, err}
	}
	if first.err != nil {
		return nil, first.err
	}
	resp := first.resp
	denied := resp
	switch resp.StatusCode {
	case http.StatusUnauthorized:
	case http.StatusForbidden, http.StatusNotFound:
		if used != "" || !h.auth.shouldPing(ctx) {
			return resp, nil
		}
		ping, err := h.attempt(ctx, request{method: http.MethodGet}, u.ResolveReference(&url.URL{Path: "/v2/"}), "")
		if err != nil {
			return resp, nil
		}
		ping.Body.Close()
		if ping.StatusCode != http.StatusUnauthorized {
			return resp, nil
		}
		denied = ping
	default:
		return resp, nil
	}
	better, err := h.auth.challenged(ctx, denied, q.scope, used)
	if err == nil && (better == used || q.spent()) {
		return resp, nil
	}
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	return h.attempt(ctx, q, u, better)
}

// attempt sends q to u once.
func (h *host) attempt(ctx context.Context, q request, u *url.URL, authorization string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, q.method, u.String(), nil)
	if err != nil {
		return nil, err
	}
	for k, v := range h.header {
		req.Header[k] = v
	}
	for k, v := range q.header {
		req.Header[k] = v
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	if q.body != nil {
		req.Body, req.ContentLength = q.body(), q.length
		if q.length == 0 {
			req.Body.Close()
			req.Body = http.NoBody
		}
	}
	return h.client.roundTrip(h, req)
}

// roundTrip sends req to h. Waiting ends when no byte moves for too long, both before
// the answer and while its body is read.
func (c *Client) roundTrip(h *host, req *http.Request) (*http.Response, error) {
	if h.broken != nil {
		return nil, h.broken
	}
	outer := req.Context()
	ctx, cancel := context.WithCancelCause(outer)
	patience := c.stall
	if req.Body != nil || req.Method == http.MethodPut {
		patience *= 10 // registries put a large blob together before they answer
	}
	watch := &watchdog{patience: patience, timer: time.AfterFunc(patience, func() { cancel(errStalled) })}
	if req.Body != nil && req.Body != http.NoBody {
		req.Body = &watchedBody{ReadCloser: req.Body, ctx: ctx, watch: watch}
	}
	req = req.WithContext(ctx)
	req.Header.Set("User-Agent", c.options.UserAgent)
	resp, err := h.transport().RoundTrip(req)
	watch.timer.Stop()
	if err != nil {
		cause := context.Cause(ctx)
		cancel(nil)
		switch {
		case outer.Err() != nil:
			return nil, context.Cause(outer)
		case errors.Is(cause, errStalled):
			err = cause
		}
		return nil, &networkError{host: h, err: err}
	}
	h.seen.Store(true)
	if rate, ok := parseRateLimit(resp.Header); ok {
		h.rate.Store(&rate)
	}
	resp.Body = &responseBody{
		body: resp.Body, host: h, outer: outer, ctx: ctx, cancel: cancel,
		watch: &watchdog{patience: c.stall, timer: watch.timer},
	}
	return resp, nil
}

// watchdog ends a request in which nothing moves.
type watchdog struct {
	patience time.Duration
	timer    *time.Timer
}

func (w *watchdog) feed() { w.timer.Reset(w.patience) }

// watchedBody is the body of a request; every read shows that the server takes bytes.
// It ends with the request, because the transport waits for it to end.
type watchedBody struct {
	io.ReadCloser
	ctx   context.Context
	watch *watchdog
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, context.Cause(b.ctx)
	}
	b.watch.feed()
	return b.ReadCloser.Read(p)
}

// responseBody is the body of an answer. Its errors are network errors, or the end of
// the caller's context.
type responseBody struct {
	body       io.ReadCloser
	host       *host
	outer, ctx context.Context
	cancel     context.CancelCauseFunc
	watch      *watchdog
}

// Read implements io.Reader.
func (b *responseBody) Read(p []byte) (int, error) {
	b.watch.feed()
	n, err := b.body.Read(p)
	b.watch.timer.Stop()
	switch {
	case err == nil, err == io.EOF:
		return n, err
	case b.outer.Err() != nil:
		return n, context.Cause(b.outer)
	case errors.Is(context.Cause(b.ctx), errStalled):
		err = errStalled
	}
	return n, &networkError{host: b.host, err: err}
}

// Close implements io.Closer.
func (b *responseBody) Close() error {
	b.watch.timer.Stop()
	err := b.body.Close()
	b.cancel(nil)
	return err
}
