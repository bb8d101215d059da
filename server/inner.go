package server

import (
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"slices"
	"sync"
)

// An innerListener takes connections over TLS that net/http sees without it, and so looks for HTTP/2 in their first
// bytes. Of one that it knows to be TLS only the handshake (ALPN) says that, where buildx's driver "remote" and others
// that bring a connection of their own to gRPC say nothing.
type innerListener struct {
	net.Listener
	config *tls.Config
	log    *log.Logger
}

func newInnerListener(ln net.Listener, config *tls.Config, log *log.Logger) *innerListener {
	config = config.Clone()
	if !slices.Contains(config.NextProtos, "h2") {
		config.NextProtos = append(slices.Clone(config.NextProtos), "h2")
	}
	return &innerListener{ln, config, log}
}

// Accept implements net.Listener. The handshake is a part of the first Read.
func (l *innerListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &innerConn{Conn: tls.Server(c, l.config), log: l.log}, nil
}

// An innerConn has not the one method of its Conn by which net/http would know of TLS.
type innerConn struct {
	net.Conn // a *tls.Conn
	log      *log.Logger
	failed   sync.Once
}

// NetConn returns the connection below TLS.
func (c *innerConn) NetConn() net.Conn { return c.Conn.(*tls.Conn).NetConn() }

// CloseWrite tells the client that nothing more comes.
func (c *innerConn) CloseWrite() error { return c.Conn.(*tls.Conn).CloseWrite() }

// Read implements net.Conn. net/http has set a deadline for the first.
func (c *innerConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if err != nil && !c.Conn.(*tls.Conn).ConnectionState().HandshakeComplete {
		c.failed.Do(func() { c.refuse(err) })
	}
	return n, err
}

// refuse does what net/http does when a handshake fails.
func (c *innerConn) refuse(err error) {
	c.log.Printf("TLS handshake with %s: %v", c.RemoteAddr(), err)
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && looksLikeHTTP(record.RecordHeader) {
		io.WriteString(record.Conn, "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")
		record.Conn.Close()
	}
}

// looksLikeHTTP says whether a connection began with a request instead of a record of TLS.
func looksLikeHTTP(head [5]byte) bool {
	return slices.Contains([]string{"GET /", "HEAD ", "POST ", "PUT /", "DELET", "OPTIO", "PRI *"}, string(head[:]))
}
