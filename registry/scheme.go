package registry

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// answer is what came of one attempt.
type answer struct {
	resp *http.Response
	err  error
}

// base returns the root of the host's API. A lax host is spoken to by TLS, and
// by plain HTTP if it does not speak TLS, as docker does.
func (h *host) base(ctx context.Context) (*url.URL, error) {
	base, first, err := h.begin(ctx, request{method: http.MethodGet, path: "/v2/"})
	if first != nil {
		first.drop()
	}
	return base, err
}

// begin returns the root of the host's API. Where only asking shows whether the host speaks TLS and q
// reads, what is asked is q itself, without credentials, and first is the answer. It is nil otherwise.
func (h *host) begin(ctx context.Context, q request) (base *url.URL, first *answer, err error) {
	scheme := h.fixed
	switch {
	case h.broken != nil:
		return nil, nil, h.broken
	case scheme != "":
	case !h.lax:
		scheme = "https"
	default:
		if scheme, first, err = h.findScheme(ctx, q); err != nil {
			return nil, nil, err
		}
	}
	return &url.URL{Scheme: scheme, Host: h.addr}, first, nil
}

func (h *host) findScheme(ctx context.Context, q request) (scheme string, first *answer, err error) {
	if err := h.probe.acquire(ctx); err != nil {
		return "", nil, err
	}
	defer h.probe.release()
	if h.scheme != "" {
		return h.scheme, nil, nil
	}
	reads := q.method == http.MethodGet || q.method == http.MethodHead
	if !reads {
		q = request{method: http.MethodGet, path: "/v2/"}
	}
	secure, first := h.askBoth(ctx, q)
	if first.err != nil && ctx.Err() != nil {
		return "", nil, context.Cause(ctx)
	}
	if scheme = "http"; secure {
		scheme = "https"
	}
	if first.err == nil { // else it may be another the next time
		h.scheme = scheme
	}
	if !reads {
		first.drop()
		first = nil
	}
	return scheme, first, nil
}

// askBoth sends q, without credentials, by TLS and in the clear at the same time, so that a host without
// TLS costs no round trips more than one with it. The answer in the clear counts if there is none by TLS.
func (h *host) askBoth(ctx context.Context, q request) (secure bool, first *answer) {
	plainCtx, cancel := context.WithCancel(ctx)
	plain := make(chan *answer, 1)
	go func() { plain <- h.ask(plainCtx, q, "http") }()
	first = h.ask(ctx, q, "https")
	if first.err == nil || ctx.Err() != nil {
		cancel()
		(<-plain).drop()
		return true, first
	}
	first = <-plain
	if first.err != nil {
		cancel()
	} else {
		first.resp.Body = &cancelBody{first.resp.Body, cancel}
	}
	return false, first
}

// serves reports whether u is an address on h, which may be written with the usual port.
func (h *host) serves(u *url.URL) bool {
	port := map[string]string{"http": ":80", "https": ":443"}[u.Scheme]
	return strings.TrimSuffix(u.Host, port) == strings.TrimSuffix(h.addr, port)
}

// ask makes one attempt at q, without credentials.
func (h *host) ask(ctx context.Context, q request, scheme string) *answer {
	resp, err := h.attempt(ctx, q, q.address(&url.URL{Scheme: scheme, Host: h.addr}), "")
	return &answer{resp, err}
}

func (a *answer) drop() {
	if a.resp != nil {
		a.resp.Body.Close()
	}
}

// cancelBody ends a context with its body.
type cancelBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b *cancelBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
