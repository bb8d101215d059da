package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

const (
	maxAttempts   = 6                      // of one request
	firstDelay    = 200 * time.Millisecond // doubles per attempt, half of it is jitter
	longestDelay  = 15 * time.Second
	maxRetryAfter = 2 * time.Minute // a registry that asks for more is reported instead
)

var errStalled = errors.New("no bytes for too long")

// retryable says whether asking again may help: the network failed, or the server said
// so. It never helps against 401, 403 and 404.
func retryable(err error) bool {
	var token *tokenError
	if errors.As(err, &token) {
		return false
	}
	var status *Error
	if errors.As(err, &status) {
		switch status.Status {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
			http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
			return status.RetryAfter <= maxRetryAfter
		case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
			// A presigned address has expired; the registry gives a new one.
			return status.foreign
		}
		return false
	}
	var network *networkError
	if !errors.As(err, &network) {
		return false
	}
	var (
		dns       *net.DNSError
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		record    tls.RecordHeaderError
		verify    *tls.CertificateVerificationError
	)
	switch {
	case errors.As(err, &dns) && dns.IsNotFound,
		errors.As(err, &authority), errors.As(err, &hostname), errors.As(err, &invalid),
		errors.As(err, &record), errors.As(err, &verify):
		return false
	case errors.Is(err, syscall.ECONNREFUSED):
		// A registry that answered before is being restarted; one that never did is a typo.
		return network.host.seen.Load()
	}
	return true
}

// pause waits before attempt n (the first repetition is 1) after err.
func (c *Client) pause(ctx context.Context, n int, err error) error {
	delay := min(firstDelay<<min(n-1, 10), longestDelay)
	delay = delay/2 + rand.N(delay/2)
	var status *Error
	if errors.As(err, &status) && status.RetryAfter > 0 {
		// Many clients were told the same moment.
		delay = status.RetryAfter + rand.N(firstDelay)
	}
	return c.sleep(ctx, delay)
}

// retryAfter reads the Retry-After header (RFC 9110, section 10.2.3): seconds or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	v := h.Get("Retry-After")
	if v == "" {
		return 0
	}
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Duration(min(max(n, 0), 1<<30)) * time.Second
	}
	if t, err := http.ParseTime(v); err == nil {
		return max(t.Sub(now), 0)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// lock is a mutex whose waiting ends with a context.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) acquire(ctx context.Context) error {
	select {
	case l <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l lock) release() { <-l }
