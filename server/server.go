// Package server listens for HTTP requests and drains them when it is told to end.
//
// It does not know what it serves: the handlers live in the packages below it.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"
)

// Options are the limits of a server. The zero value is ready to use.
type Options struct {
	// TLS makes the server speak HTTPS (and HTTP/2). It needs a certificate.
	TLS *tls.Config
	// PlainHTTP2 takes HTTP/2 from clients that speak it from the first byte too: without TLS, and within TLS where
	// the handshake did not choose it. Requests then do not know of TLS (Request.TLS).
	PlainHTTP2 bool
	// Drain is how long requests that are running may take to finish after the end
	// of the context. 0 means 30 seconds, a negative value does not wait.
	Drain time.Duration
	// Log receives what net/http has to say about broken connections, at debug level.
	Log *slog.Logger
}

// Limits every connection is held to. There is no limit for a whole request: a layer of
// 20 GB over a slow line is a good request. Handlers set deadlines as bytes move.
const (
	readHeaderTimeout = 20 * time.Second
	idleTimeout       = 3 * time.Minute
	maxHeaderBytes    = 64 << 10
	defaultDrain      = 30 * time.Second
)

// Serve answers requests that come in on ln until ctx ends or ln breaks, and closes ln.
//
// At the end of ctx no new connection is taken, idle ones are closed, and running requests
// get Options.Drain to finish; their contexts stay alive for that long. Serve then returns
// nil, or an error when requests had to be cut off.
func Serve(ctx context.Context, ln net.Listener, handler http.Handler, o Options) error {
	s := newServer(ctx, handler, o)
	done := make(chan error, 1)
	go func() {
		switch {
		case o.TLS == nil:
			done <- s.Serve(ln)
		case o.PlainHTTP2:
			done <- s.Serve(newInnerListener(ln, o.TLS, s.ErrorLog))
		default:
			done <- s.ServeTLS(ln, "", "")
		}
	}()
	select {
	case err := <-done:
		return fmt.Errorf("serving %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	err := drain(s, o)
	<-done
	return err
}

func newServer(ctx context.Context, handler http.Handler, o Options) *http.Server {
	s := &http.Server{
		Handler:           handler,
		TLSConfig:         o.TLS,
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ConnContext:       limitUnsent,
		// Requests outlive ctx by the drain time.
		BaseContext: func(net.Listener) context.Context { return context.WithoutCancel(ctx) },
	}
	if o.PlainHTTP2 {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetHTTP2(true)
		s.Protocols.SetUnencryptedHTTP2(true)
	}
	log := o.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	return s
}

func drain(s *http.Server, o Options) error {
	wait := o.Drain
	switch {
	case wait == 0:
		wait = defaultDrain
	case wait < 0:
		wait = 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("draining: requests were cut off after %s: %w", wait, err), s.Close())
	}
	return nil
}
