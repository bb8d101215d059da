package registry

import (
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/server"
)

// getBlob serves GET and HEAD /v2/NAME/blobs/DIGEST, whole or by Range.
func (g *Registry) getBlob(w http.ResponseWriter, r *http.Request, rt route) error {
	d, err := parseDigest(rt.ref)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		if err := g.store.ConfirmBlob(r.Context(), rt.repo, d); err != nil {
			return unknownBlob(err)
		}
	}
	if s, ok := g.store.(redirector); ok && r.Method == http.MethodGet {
		if done, err := redirectBlob(w, r, s, rt, d); done || err != nil {
			return err
		}
	}
	f, err := g.store.OpenBlob(r.Context(), rt.repo, d)
	if err != nil {
		return unknownBlob(err)
	}
	defer f.Close()
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Etag", `"`+d.String()+`"`)
	h.Set("Cache-Control", "private, max-age=31536000, immutable")
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if r.Method == http.MethodHead {
		r.Header.Del("Range") // RFC 9110, 14.2: it is for GET alone
	}
	if err := checkRange(w, r, size); err != nil {
		return err
	}
	limitWriting(w, size)
	server.ExpectAnswer(r.Context(), size)
	server.CutStalled(r.Context(), stallTime)
	if r.ProtoMajor > 1 { // which sends no file by the kernel anyway
		w = &streamWriter{w, http.NewResponseController(w), time.Now().Add(timeToSend(size))}
	}
	http.ServeContent(w, r, "", time.Time{}, f)
	return nil
}

// redirectBlob sends the client to where the blob is.
func redirectBlob(w http.ResponseWriter, r *http.Request, s redirector, rt route, d digest.Digest) (done bool, err error) {
	u, err := s.BlobURL(r.Context(), rt.repo, d)
	if err != nil || u == "" {
		return false, unknownBlob(err)
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Location", u) // good for a while, and only for who was let in here
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusTemporaryRedirect)
	return true, nil
}

// deleteBlob serves DELETE /v2/NAME/blobs/DIGEST.
func (g *Registry) deleteBlob(w http.ResponseWriter, r *http.Request, rt route) error {
	if err := g.mayDelete(); err != nil {
		return err
	}
	d, err := parseDigest(rt.ref)
	if err != nil {
		return err
	}
	if err := g.store.RemoveBlob(r.Context(), rt.repo, d); err != nil {
		return unknownBlob(err)
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// mayDelete returns the error of a registry without deletion. distribution-spec 1.1,
// "Content Management": 405 is how clients learn it.
func (g *Registry) mayDelete() error {
	if g.allowDelete {
		return nil
	}
	return &apiError{http.StatusMethodNotAllowed, codeUnsupported, "deletion is disabled", nil}
}

// A connection over which nothing moves for stallTime is cut. Sending is done by the
// kernel, which knows when nothing moves; all together gets stallTime and a second per slowest
// bytes. Who sends has to make slowestBody bytes a second after stallTime, so that nobody
// keeps connections by a byte now and then.
const (
	stallTime   = time.Minute
	slowest     = 32 << 10
	slowestBody = 1 << 10
)

// limitWriting bounds the time in which size bytes have to be sent. net/http lifts the
// limit when the request is done.
func limitWriting(w http.ResponseWriter, size int64) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeToSend(size))) // not supported: tests without a connection
}

func timeToSend(size int64) time.Duration {
	return stallTime + time.Duration(size/slowest)*time.Second
}

// streamWriter is the answer on a stream of HTTP/2. Its client can stop reading one stream while the connection moves, so
// each piece of the answer has to go within stallTime.
type streamWriter struct {
	http.ResponseWriter
	rc  *http.ResponseController
	end time.Time // of the whole answer
}

// Write implements io.Writer.
func (s *streamWriter) Write(p []byte) (int, error) {
	until := time.Now().Add(stallTime)
	if s.end.Before(until) {
		until = s.end
	}
	_ = s.rc.SetWriteDeadline(until)
	return s.ResponseWriter.Write(p)
}

// limitUnread bounds the time in which the body of r has to come if no handler reads it: net/http does, before it
// sends an answer.
func limitUnread(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 {
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(stallTime))
	}
}

// body is the body of a request as handlers read it: an error is a bodyError, and comes
// when the client stalls.
type body struct {
	r     io.Reader
	rc    *http.ResponseController
	begun time.Time
	n     int64 // bytes so far
}

func newBody(w http.ResponseWriter, r *http.Request) *body {
	return &body{r.Body, http.NewResponseController(w), time.Now(), 0}
}

// bodyDeadline is until when the next bytes have to come of a body of which there are n.
func bodyDeadline(begun, now time.Time, n int64) time.Time {
	slow := begun.Add(stallTime + time.Duration(n/slowestBody)*time.Second)
	if stalled := now.Add(stallTime); stalled.Before(slow) {
		return stalled
	}
	return slow
}

func (b *body) Read(p []byte) (int, error) {
	_ = b.rc.SetReadDeadline(bodyDeadline(b.begun, time.Now(), b.n))
	n, err := b.r.Read(p)
	b.n += int64(n)
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		return n, &bodyError{err} // the limit stays, as net/http may read on
	}
	// From here on net/http waits for the client to go away, which is not to be limited.
	_ = b.rc.SetReadDeadline(time.Time{})
	return n, err
}

// bodyError is a failure to read what the client sends, as opposed to storing it.
type bodyError struct{ err error }

func (e *bodyError) Error() string { return "reading the request body: " + e.err.Error() }
func (e *bodyError) Unwrap() error { return e.err }

func unknownBlob(err error) error {
	return notFoundAs(err, codeBlobUnknown, "blob unknown to repository", nil)
}
