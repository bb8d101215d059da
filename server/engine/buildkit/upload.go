package buildkit

import (
	"context"
	"io"
	"net/http"

	"github.com/moby/buildkit/session/upload"
)

// uploadHost is where a context lies that a client sends as one archive, from its standard input.
const uploadHost = "buildkit-session"

// RoundTrip implements http.RoundTripper: all of the web, and what the client uploads.
func (c *caller) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != uploadHost {
		return http.DefaultTransport.RoundTrip(req)
	}
	res := &http.Response{
		Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Etag": {`"` + req.URL.Path + `"`}}, ContentLength: -1, Body: http.NoBody, Request: req,
	}
	if c.uploaded(req.URL.Path) { // the client has it only once
		res.Status, res.StatusCode = "304 Not Modified", http.StatusNotModified
		return res, nil
	}
	s, err := c.of(req.Context(), "")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(req.Context())
	up, err := upload.New(ctx, s, req.URL)
	if err != nil {
		cancel()
		return nil, err
	}
	r, w := io.Pipe()
	go func() {
		_, err := up.WriteTo(w)
		w.CloseWithError(err)
	}()
	res.Body = uploadBody{r, cancel}
	return res, nil
}

// uploaded says whether path was asked for before.
func (c *caller) uploaded(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was := c.uploads[path]
	if c.uploads == nil {
		c.uploads = map[string]bool{}
	}
	c.uploads[path] = true
	return was
}

type uploadBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

func (b uploadBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}
