package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// running is a server in a test.
type running struct {
	addr string
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, h http.HandlerFunc, o Options) running {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := running{ln.Addr().String(), cancel, make(chan error, 1)}
	go func() { r.done <- Serve(ctx, ln, h, o) }()
	return r
}

// TestDrain: a request that runs when the server is told to end is answered, with a
// context that lives; no other is taken.
func TestDrain(t *testing.T) {
	entered, goOn := make(chan struct{}), make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-goOn
		if r.Context().Err() != nil {
			t.Error("the request's context ended with the server's")
		}
		io.WriteString(w, "done")
	}, Options{})
	answer := make(chan string)
	go func() {
		resp, err := http.Get("http://" + s.addr)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer resp.Body.Close()
		b, _ := io.ReadAll(resp.Body)
		answer <- string(b)
	}()
	<-entered
	s.stop()
	for { // until it does not listen any more
		conn, err := net.Dial("tcp", s.addr)
		if err != nil {
			break
		}
		conn.Close()
	}
	close(goOn)
	if got := <-answer; got != "done" {
		t.Errorf("got %q, want done", got)
	}
	if err := <-s.done; err != nil {
		t.Errorf("got %v from a clean end", err)
	}
}

// TestDrainCutsOff: who does not finish in time is cut off, and Serve says so.
func TestDrainCutsOff(t *testing.T) {
	entered := make(chan struct{})
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	}, Options{Drain: time.Millisecond})
	failed := make(chan error)
	go func() {
		_, err := http.Get("http://" + s.addr)
		failed <- err
	}()
	<-entered
	s.stop()
	if err := <-failed; err == nil {
		t.Error("the request was answered")
	}
	if err := <-s.done; err == nil {
		t.Error("got no error although a request was cut off")
	}
}

func TestHeaderLimit(t *testing.T) {
	s := start(t, func(w http.ResponseWriter, r *http.Request) { t.Error("served") }, Options{Drain: -1})
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2*maxHeaderBytes))
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, " 431 ") {
		t.Errorf("got %q (%v), want 431", line, err)
	}
	s.stop()
	<-s.done
}

func TestTLS(t *testing.T) {
	cert := httptest.NewTLSServer(nil) // only for its certificate
	defer cert.Close()
	s := start(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.Proto) },
		Options{TLS: &tls.Config{Certificates: cert.TLS.Certificates}})
	c := cert.Client()
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	resp, err := c.Get("https://" + s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "HTTP/2.0" {
		t.Errorf("got %q (%v), want HTTP/2.0", b, err)
	}
	c.CloseIdleConnections()
	s.stop()
	if err := <-s.done; err != nil {
		t.Error(err)
	}
}

// TestBrokenListener: Serve ends when it cannot accept any more.
func TestBrokenListener(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if err := Serve(t.Context(), ln, http.NotFoundHandler(), Options{}); err == nil {
		t.Error("got nil from a listener that was closed")
	}
}

// TestInnerHTTP2: within TLS a client may speak HTTP/2 from the first byte, chosen by the handshake or not; HTTP/1 goes
// on, its connections can be taken over, and who speaks no TLS is told.
func TestInnerHTTP2(t *testing.T) {
	ts := httptest.NewTLSServer(nil) // for its certificate
	defer ts.Close()
	s := start(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/take" {
			fmt.Fprintf(w, "%s tls=%v", r.Proto, r.TLS != nil)
			return
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		if _, ok := c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Error("the connection below is unknown")
		}
		io.WriteString(c, "taken")
		c.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, c)
	}, Options{TLS: &tls.Config{Certificates: ts.TLS.Certificates, NextProtos: []string{"http/1.1"}}, PlainHTTP2: true})
	defer func() { s.stop(); <-s.done }()
	for _, alpn := range [][]string{nil, {"h2"}} {
		c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: alpn})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		// RFC 9113, 3.4: the preface and a frame of settings, which the server answers with its own.
		io.WriteString(c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
		head := make([]byte, 9)
		if _, err := io.ReadFull(c, head); err != nil || head[3] != 4 {
			t.Errorf("with ALPN %q a client of HTTP/2 got %q, %v; want a frame of settings", alpn, head, err)
		}
	}
	client := ts.Client()
	for _, c := range []struct{ url, want string }{
		{"https://" + s.addr + "/", "HTTP/1.1 tls=false"},
		{"http://" + s.addr + "/", "Client sent an HTTP request to an HTTPS server.\n"},
	} {
		resp, err := client.Get(c.url)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(b) != c.want {
			t.Errorf("%s answers %q, want %q", c.url, b, c.want)
		}
	}
	c, err := tls.Dial("tcp", s.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "POST /take HTTP/1.1\r\nHost: x\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || string(b) != "taken" {
		t.Errorf("a connection that was taken over brought %q, %v", b, err)
	}
}
