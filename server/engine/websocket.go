package engine

import (
	"context"
	"net/http"

	"golang.org/x/net/websocket"
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
	h := websocket.Server{Handler: func(ws *websocket.Conn) {
		defer ws.Close()
		if r.version >= 28 {
			ws.PayloadType = websocket.BinaryFrame
		}
		s.attached(r, c, cl, conversation{in: ws, out: newOutput(ws, true), keys: keys, hangUp: func(done context.Context, _ func()) {
			<-done.Done()
		}})
	}}
	h.ServeHTTP(w, r.Request)
	return nil
}
