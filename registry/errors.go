package registry

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// Error is an answer of a registry that says no. It wraps the errdefs class of its status.
type Error struct {
	Host       string // as in references: docker.io
	Method     string
	Path       string // of the URL
	Status     int
	Details    []ErrorDetail
	RetryAfter time.Duration // 0 if the registry gave none
	RateLimit  *RateLimit    // nil if it gave none

	foreign     bool   // the answer is of a server we were redirected to
	login       bool   // the credential is one that a user gave, to log in with
	credentials string // what is known about those we sent
	tokens      bool   // the registry asks for tokens
}

// ErrorDetail is one entry of a registry's error document (distribution-spec, "Error Codes").
type ErrorDetail struct {
	Code    string `json:"code"`
	Message string `json:"message"`
}

// newError reads the error document of resp and closes it.
func newError(h *host, resp *http.Response) *Error {
	defer resp.Body.Close()
	e := &Error{
		Host:       h.name,
		Method:     resp.Request.Method,
		Path:       resp.Request.URL.Path,
		Status:     resp.StatusCode,
		RetryAfter: retryAfter(resp.Header, h.client.now()),
	}
	if rate, ok := parseRateLimit(resp.Header); ok {
		e.RateLimit = &rate
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	var doc struct {
		Errors  []ErrorDetail `json:"errors"`
		Details string        `json:"details"` // token servers
		Message string        `json:"message"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return e
	}
	e.Details = doc.Errors
	if text := doc.Details + doc.Message; len(e.Details) == 0 && text != "" {
		e.Details = []ErrorDetail{{Message: text}}
	}
	return e
}

// Error says what the registry said, without the request where the class is clear.
func (e *Error) Error() string {
	said := e.said()
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		return "denied by " + e.Host + said
	case http.StatusNotFound:
		return "not found at " + e.Host + said
	case http.StatusTooManyRequests:
		text := "too many requests to " + e.Host + said
		if e.RateLimit != nil {
			text += ", " + e.RateLimit.String()
		}
		if e.RetryAfter > maxRetryAfter {
			text += fmt.Sprintf(", it asks to wait %s", e.RetryAfter)
		}
		return text
	}
	return fmt.Sprintf("%s answered %d %s to %s %s%s", e.Host, e.Status, http.StatusText(e.Status), e.Method, e.Path, said)
}

func (e *Error) said() string {
	var parts []string
	for _, d := range e.Details {
		text := d.Message
		if text == "" {
			text = d.Code
		}
		if text = printable(text); text != "" {
			parts = append(parts, text)
		}
	}
	if len(parts) == 0 {
		return ""
	}
	return ": " + strings.Join(parts, "; ")
}

// printable keeps a registry from writing control sequences or pages of text to a terminal.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, s)
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return strings.TrimSpace(strings.ToValidUTF8(s, "?"))
}

// Unwrap returns the class of the status.
func (e *Error) Unwrap() error {
	switch e.Status {
	case http.StatusUnauthorized:
		return errdefs.ErrUnauthenticated
	case http.StatusForbidden:
		return errdefs.ErrPermissionDenied
	case http.StatusNotFound:
		return errdefs.ErrNotFound
	case http.StatusTooManyRequests:
		return errdefs.ErrResourceExhausted
	case http.StatusConflict:
		return errdefs.ErrConflict
	case http.StatusRequestedRangeNotSatisfiable:
		return errdefs.ErrOutOfRange
	case http.StatusMethodNotAllowed, http.StatusNotImplemented:
		return errdefs.ErrNotImplemented
	}
	switch {
	case e.Status >= 500:
		return errdefs.ErrUnavailable
	case e.Status >= 400:
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnknown
}

// NoAccess says that a token which the registry has taken is none for the repository: it is private or not there.
func (e *Error) NoAccess() bool {
	return e.Status == http.StatusUnauthorized && e.tokens && strings.HasPrefix(e.Path, "/v2/")
}

// Hint says what the user can do.
func (e *Error) Hint() string {
	if e.foreign {
		return ""
	}
	login := "`teu login " + e.Host + "`"
	switch e.Status {
	case http.StatusUnauthorized, http.StatusForbidden:
		if e.login {
			return ""
		}
		hint := "log in with " + login + ", or check that the repository is spelled right"
		if e.credentials != "" {
			hint += " (" + e.credentials + ")"
		}
		return hint
	case http.StatusTooManyRequests:
		if e.Host == hubDomain {
			return "Docker Hub counts pulls per address or account; logging in with " + login + " raises the limit"
		}
		return "try again later, or log in with " + login
	}
	return ""
}

// NoAnswer says whether err is a registry that could not be asked.
func NoAnswer(err error) bool {
	var e *networkError
	return errors.As(err, &e)
}

// networkError is a request without an answer.
type networkError struct {
	host *host
	err  error
}

func (e *networkError) Error() string {
	err := e.err
	var record tls.RecordHeaderError
	if errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" {
		err = http.ErrSchemeMismatch // the words of docker and of all that use net/http
	}
	return "talking to " + e.host.name + ": " + err.Error()
}

// Unwrap returns the class and the cause.
func (e *networkError) Unwrap() []error { return []error{errdefs.ErrUnavailable, e.err} }

// Hint says what the user can do.
func (e *networkError) Hint() string {
	var authority x509.UnknownAuthorityError
	var record tls.RecordHeaderError
	switch {
	case errors.As(e.err, &authority):
		return fmt.Sprintf("install the registry's CA certificate, or add %q to insecure-registries", e.host.addr)
	case errors.As(e.err, &record), errors.Is(e.err, http.ErrSchemeMismatch):
		return fmt.Sprintf("if this registry has no TLS, add %q to insecure-registries", e.host.addr)
	}
	return ""
}
