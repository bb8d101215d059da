package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxBody is the largest JSON body that is read. The largest honest one, a container with
// a very long environment, has about 2 MB.
const maxBody = 8 << 20

// request is an HTTP request on its way to its handler.
type request struct {
	*http.Request
	server  *Server
	version version
	name    string // the variable part of the path
	query   url.Values
}

// handler answers a request. It writes nothing if it returns an error, unless it has begun
// a stream: the connection then ends.
type handler func(w http.ResponseWriter, r *request) error

func (r *request) param(key string) string { return r.query.Get(key) }

// flag reads a boolean as docker does: anything but nothing, 0, no, false and none is true.
func (r *request) flag(key string) bool {
	return truth(r.param(key))
}

// flagOr is flag with a default for a parameter that is not there.
func (r *request) flagOr(key string, missing bool) bool {
	if !r.query.Has(key) {
		return missing
	}
	return r.flag(key)
}

func truth(s string) bool {
	switch strings.ToLower(strings.TrimSpace(s)) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}

// number reads an integer parameter; a missing one is 0.
func (r *request) number(key string) (int, error) {
	text := r.param(key)
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, invalid("%s", err)
	}
	return n, nil
}

// decode reads a JSON body as dockerd does (daemon/server/httputils.ReadJSON). An empty
// body leaves v alone.
func (r *request) decode(v any) error {
	_, err := r.body(v)
	return err
}

// need is decode for a body that must be there.
func (r *request) need(v any) error {
	body, err := r.body(v)
	if err == nil && !body {
		err = invalid("invalid JSON: EOF")
	}
	return err
}

func (r *request) body(v any) (present bool, err error) {
	if r.ContentLength == 0 {
		return false, nil
	}
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	err = d.Decode(v)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, io.EOF) && r.ContentLength < 0:
		return false, nil
	case errors.As(err, &tooLarge):
		return true, &statusError{status: http.StatusRequestEntityTooLarge, message: fmt.Sprintf("request body is larger than %d bytes", maxBody)}
	case err != nil:
		return true, invalid("invalid JSON: %s", jsonProblem(err))
	}
	if err := r.checkType(); err != nil {
		return true, err
	}
	if d.More() {
		return true, invalid("unexpected content after JSON")
	}
	return true, nil
}

func jsonProblem(err error) string {
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return "unexpected EOF"
	}
	return err.Error()
}

// checkType holds that a body says it is JSON, which keeps simple cross-site forms of
// browsers out.
func (r *request) checkType() error {
	text := r.Header.Get("Content-Type")
	kind, _, err := mime.ParseMediaType(text)
	if err != nil {
		return invalid("malformed Content-Type header (%s): %s", text, err)
	}
	if kind == "application/json" {
		return nil
	}
	return invalid("unsupported Content-Type header (%s): must be 'application/json'", text)
}

// stream is the context of an answer that has no end of its own: done when the client goes
// or the server ends.
func (r *request) stream() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(r.server.closing, cancel)
	return ctx, func() { stop(); cancel() }
}

// keepOn lets the request outlive the end of the client's input, which net/http takes for its leaving:
// one whose connection is taken over may have said all it has to say with the request.
func (r *request) keepOn() {
	r.Request = r.WithContext(context.WithoutCancel(r.Context()))
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return ignoreWrite(e.Encode(v))
}

// ignoreWrite drops the error of writing to a client that went: nobody is left to be told.
func ignoreWrite(error) error { return nil }

func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func invalid(format string, args ...any) error {
	return worded(errdefs.ErrInvalidArgument, format, args...)
}
