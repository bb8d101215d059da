package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Error codes of distribution-spec 1.1, "Error Codes". codePageInvalid and codeUnknown, for
// failures of the server itself, are distribution's.
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeBlobUploadInvalid   = "BLOB_UPLOAD_INVALID"
	codeBlobUploadUnknown   = "BLOB_UPLOAD_UNKNOWN"
	codeDenied              = "DENIED"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codePageInvalid         = "PAGINATION_NUMBER_INVALID"
	codeSizeInvalid         = "SIZE_INVALID"
	codeTooManyRequests     = "TOOMANYREQUESTS"
	codeUnauthorized        = "UNAUTHORIZED"
	codeUnsupported         = "UNSUPPORTED"
	codeUnknown             = "UNKNOWN"
)

// apiError is an answer that is an error. detail is any JSON, or nil; a []any is one error
// for each.
type apiError struct {
	status  int
	code    string
	message string
	detail  any
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// errDigest says that content does not have the digest it was announced with.
var errDigest error = &apiError{http.StatusBadRequest, codeDigestInvalid, "content does not match its digest", nil}

// notFoundAs turns a not-found error of the storage into the one of the endpoint. A message that is the usual one of
// its code needs a detail, see askedFor.
func notFoundAs(err error, code, message string, detail any) error {
	if errdefs.IsNotFound(err) {
		return &apiError{http.StatusNotFound, code, message, detail}
	}
	return err
}

// notAllowed is the error for a method an endpoint does not have.
func notAllowed(w http.ResponseWriter, k routeKind, method string) error {
	allow := map[routeKind]string{
		routeManifest: "GET, HEAD, PUT, DELETE",
		routeBlob:     "GET, HEAD, DELETE",
		routeUploads:  "POST",
		routeUpload:   "GET, HEAD, PATCH, PUT, DELETE",
	}[k]
	if allow == "" {
		allow = "GET, HEAD"
	}
	w.Header().Set("Allow", allow)
	return &apiError{http.StatusMethodNotAllowed, codeUnsupported, "method " + method + " is not supported here", nil}
}

// fail answers with err.
func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	var e *apiError
	var broken *bodyError
	switch {
	case errors.As(err, &e):
	case r.Context().Err() != nil || errors.Is(err, context.Canceled):
		// The client has gone. The status is for the access log; nginx's number.
		e = &apiError{499, codeUnknown, "client closed the request", nil}
	case errors.As(err, &broken):
		e = &apiError{http.StatusBadRequest, codeBlobUploadInvalid, "the request body ended early", nil}
	case errdefs.IsResourceExhausted(err): // an upstream's word; nobody else says it
		w.Header().Set("Retry-After", "60")
		e = &apiError{http.StatusTooManyRequests, codeTooManyRequests, "the mirrored registry wants fewer requests", nil}
	case errdefs.IsUnavailable(err), errors.Is(err, context.DeadlineExceeded): // the storage is too slow
		g.log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &apiError{http.StatusServiceUnavailable, codeUnknown, "not available now", nil}
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		g.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &apiError{http.StatusInsufficientStorage, codeUnknown, "no space left in the registry", nil}
	default:
		g.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		e = &apiError{http.StatusInternalServerError, codeUnknown, "internal error", nil}
	}
	body := e.document()
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Del("Content-Length")
	h.Del("Etag")
	limitWriting(w, int64(len(body)))
	w.WriteHeader(e.status)
	w.Write(body) // a client that does not read it has gone
}

// document is the body of the answer: distribution-spec 1.1, "Error Codes".
func (e *apiError) document() []byte {
	type item struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	details, ok := e.detail.([]any)
	if !ok {
		details = []any{e.detail}
	}
	var items []item
	for _, d := range details {
		items = append(items, item{e.code, e.message, d})
	}
	body, err := json.Marshal(map[string][]item{"errors": items})
	if err != nil {
		panic(err) // details are strings
	}
	return body
}

// writeJSON answers 200 with v.
func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	limitWriting(w, int64(len(body)))
	w.Write(body) // a client that does not read it has gone
	return nil
}

// logWriter remembers what was answered. It keeps sendfile working.
type logWriter struct {
	http.ResponseWriter
	start  time.Time
	status int
	bytes  int64
}

func (l *logWriter) Unwrap() http.ResponseWriter { return l.ResponseWriter }

func (l *logWriter) WriteHeader(status int) {
	l.status = status
	l.ResponseWriter.WriteHeader(status)
}

func (l *logWriter) Write(b []byte) (int, error) {
	n, err := l.ResponseWriter.Write(b)
	l.bytes += int64(n)
	return n, err
}

func (l *logWriter) ReadFrom(r io.Reader) (int64, error) {
	n, err := io.Copy(l.ResponseWriter, r)
	l.bytes += n
	return n, err
}

func (l *logWriter) log(to *slog.Logger, r *http.Request) {
	if l.status == 0 {
		l.status = http.StatusOK
	}
	to.Debug("request", "method", r.Method, "path", r.URL.Path, "query", strings.Clone(r.URL.RawQuery),
		"status", l.status, "bytes", l.bytes, "remote", r.RemoteAddr, "seconds", time.Since(l.start).Seconds())
}
