package registry

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/teu-dev/teu/server"
)

// pipeListener is a listener whose connections are pipes: nothing of them is in a kernel, so that time can be made up.
type pipeListener struct {
	conns chan net.Conn
	ended chan struct{}
}

func (l pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ended:
		return nil, net.ErrClosed
	}
}

func (l pipeListener) Close() error   { close(l.ended); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// TestSlowClients: who neither sends what he announced nor reads what he asked for is cut off, whatever it is and
// whether anybody looks at it.
func TestSlowClients(t *testing.T) {
	put := func(path string, length int) string {
		return fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", path, length)
	}
	const chunked = "PATCH /v2/a/blobs/uploads/x HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	for _, test := range []struct {
		name, send string
		reads      bool
	}{
		{"half a header", "GET /v2/ HTTP/1.1\r\nHost: x\r\nX-A", true},
		{"a body that nobody wants", put("/v2/nothing", 1000), true},
		{"one for who may not", put("/v2/A/blobs/x", 1<<20), true},
		{"one in chunks", chunked, true},
		{"half a chunk", chunked + "1000\r\nabc", true},
		{"a manifest", put("/v2/a/manifests/v1", 1000) + "{", true},
		{"health", put("/healthz", 1000), true},
		{"a list", "GET /v2/a/tags/list HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"the base", "GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"an error", "GET /v2/a/manifests/no HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"nothing but a header", "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", false},
		{"many at once", strings.Repeat("GET /v2/ HTTP/1.1\r\nHost: x\r\n\r\n", 3), false},
		{"health that is not read", "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"a manifest that is not read", "GET /v2/a/manifests/v1 HTTP/1.1\r\nHost: x\r\n\r\n", false},
		{"a blob that is not read", "GET /v2/a/blobs/BLOB HTTP/1.1\r\nHost: x\r\n\r\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			o := Options{Root: t.TempDir(), Anonymous: true} // a pipe is no loopback address
			g, err := New(o)
			if err != nil {
				t.Fatal(err)
			}
			c := serveRegistry(t, g)
			c.tagged("a", "v1")
			blob := c.blob("a", bytes.Repeat([]byte("x"), 1<<16)).Digest.String()
			synctest.Test(t, func(t *testing.T) {
				ln := pipeListener{make(chan net.Conn), make(chan struct{})}
				ctx, stop := context.WithCancel(t.Context())
				done := make(chan error, 1)
				go func() { done <- server.Serve(ctx, ln, g, server.Options{Drain: -1}) }()
				here, there := net.Pipe()
				ln.conns <- there
				go io.WriteString(here, strings.ReplaceAll(test.send, "BLOB", blob))
				begun := time.Now()
				here.SetReadDeadline(begun.Add(10 * stallTime))
				if test.reads {
					_, _ = io.Copy(io.Discard, bufio.NewReader(here)) // until it is cut off
				} else {
					time.Sleep(3 * stallTime)
					if _, err := here.Read(make([]byte, 1)); err == nil {
						t.Error("the connection is still there")
					}
				}
				if took := time.Since(begun); took > 3*stallTime {
					t.Errorf("the connection lasted %s", took)
				}
				here.Close()
				stop()
				<-done
			})
		})
	}
}

// TestSlowStreams: over HTTP/2 who stops reading one answer loses that, soon and not when all of it should have been sent,
// and keeps the connection.
func TestSlowStreams(t *testing.T) {
	g, err := New(Options{Root: t.TempDir(), Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	blob := serveRegistry(t, g).blob("a", bytes.Repeat([]byte("x"), 32<<20)).Digest.String()
	synctest.Test(t, func(t *testing.T) {
		ln := pipeListener{make(chan net.Conn), make(chan struct{})}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- server.Serve(ctx, ln, g, server.Options{Drain: -1, PlainHTTP2: true}) }()
		here, there := net.Pipe()
		ln.conns <- there
		frames := http2.NewFramer(here, here)
		var block bytes.Buffer
		fields := hpack.NewEncoder(&block)
		get := func(stream uint32, path string) {
			block.Reset()
			for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "localhost"}, {":path", path}} {
				_ = fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
			}
			if err := frames.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
				t.Error(err)
			}
		}
		go func() {
			_, _ = io.WriteString(here, http2.ClientPreface)
			_ = frames.WriteSettings() // the window of a stream has 64 KiB, and never more
			get(1, "/v2/a/blobs/"+blob)
		}()
		begun := time.Now()
		for stream := uint32(1); stream < 5; {
			f, err := frames.ReadFrame()
			if err != nil {
				t.Error(err)
				break
			}
			switch f := f.(type) {
			case *http2.RSTStreamFrame:
				if took := time.Since(begun); f.StreamID != 1 || took < stallTime || took > 2*stallTime {
					t.Errorf("stream %d ended after %s", f.StreamID, took)
				}
				go get(3, "/v2/")
			case *http2.HeadersFrame:
				if f.StreamID == 3 {
					stream = 5
				}
			}
		}
		here.Close()
		stop()
		<-done
	})
}
