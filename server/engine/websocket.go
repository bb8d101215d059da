package engine

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/net/websocket"
	"golang.org/x/sys/unix"
)

// attachWebSocket answers GET /containers/ID/attach/ws: the streams as they are, without
// frames, in messages of text or, since 1.28, bytes.
func (s *Server) attachWebSocket(w http.ResponseWriter, r *request) error {
	c, keys, err := s.attachable(r)
	if err != nil {
		return err
	}
	cl, dismiss := s.enlist(r, c)
	defer dismiss()
	over := &takenOver{ResponseWriter: w}
	h := websocket.Server{Handler: func(ws *websocket.Conn) {
		defer ws.Close()
		if r.version >= 28 {
			ws.PayloadType = websocket.BinaryFrame
		}
		in := &untilEnd{r: ws, ended: make(chan struct{})}
		s.attached(r, c, cl, conversation{in: in, out: newOutput(ws, true), keys: keys, hangUp: func(ctx context.Context, gone func()) {
			if over.awaitClosed(ctx) {
				in.await(ctx)
				gone()
			}
		}})
	}}
	h.ServeHTTP(over, r.Request)
	return nil
}

// takenOver knows the connection that was taken from it.
type takenOver struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (t *takenOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, b, err := http.NewResponseController(t.ResponseWriter).Hijack()
	t.conn = conn
	return conn, b, err
}

// awaitClosed waits until the client has closed its side, of which a websocket has but one. It is false if ctx ends before.
func (t *takenOver) awaitClosed(ctx context.Context) bool {
	return awaitEvents(ctx, t.conn, unix.POLLRDHUP)
}

// untilEnd tells when there is nothing more to read.
type untilEnd struct {
	r     io.Reader
	once  sync.Once
	ended chan struct{}
}

// Read implements io.Reader.
func (u *untilEnd) Read(b []byte) (int, error) {
	n, err := u.r.Read(b)
	if err != nil {
		u.once.Do(func() { close(u.ended) })
	}
	return n, err
}

// await gives who reads a moment for what came before the end; there may be nobody who does.
func (u *untilEnd) await(ctx context.Context) {
	select {
	case <-u.ended:
	case <-time.After(leaveTime):
	case <-ctx.Done():
	}
}
