package registry

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// doors is a listener that tells connections by TLS from others and passes on what it is for.
type doors struct {
	net.Listener
	keepTLS bool
	shut    atomic.Bool // closes every connection
	conns   chan net.Conn
	closed  chan struct{}
	other   func(net.Conn) // gets the rest
	done    sync.WaitGroup
}

func newDoors(t *testing.T, keepTLS bool, other func(net.Conn)) *doors {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &doors{Listener: l, keepTLS: keepTLS, conns: make(chan net.Conn), closed: make(chan struct{}), other: other}
	go func() {
		var all []net.Conn
		for {
			c, err := l.Accept()
			if err != nil {
				break
			}
			all = append(all, c)
			d.done.Go(func() { d.sort(c) })
		}
		close(d.closed)
		for _, c := range all { // a client may keep one on which it has said nothing
			c.Close()
		}
		d.done.Wait()
	}()
	return d
}

func (d *doors) sort(c net.Conn) {
	r := bufio.NewReader(c)
	first, err := r.Peek(1)
	if err != nil || d.shut.Load() {
		c.Close()
		return
	}
	peeked := &peekedConn{c, r}
	if isTLS := first[0] == 22; isTLS != d.keepTLS { // RFC 8446, 5.1: handshake
		d.other(peeked)
		c.Close()
		return
	}
	select {
	case d.conns <- peeked:
	case <-d.closed:
	}
}

func (d *doors) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		return c, nil
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *peekedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

func serveDoors(t *testing.T, d *doors, h http.Handler) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Listener.Close()
	s.Listener, s.Config.ErrorLog = d, log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// TestPlainIsAskedAtOnce: a registry without TLS is asked in the clear while it is asked by TLS, once, and
// that answer is used.
func TestPlainIsAskedAtOnce(t *testing.T) {
	asked := make(chan struct{})
	var once sync.Once
	var late atomic.Bool
	d := newDoors(t, false, func(c net.Conn) { // by TLS there is no answer before that
		gone := make(chan struct{})
		go func() {
			_, _ = io.Copy(io.Discard, c)
			close(gone)
		}()
		select {
		case <-asked:
			c.Close()
			<-gone
		case <-gone: // the client has waited long enough for the handshake
			late.Store(true)
		}
	})
	var mu sync.Mutex
	var got []string
	h := plain()
	s := serveDoors(t, d, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		got = append(got, q.Method+" "+q.URL.Path)
		mu.Unlock()
		once.Do(func() { close(asked) })
		h.ServeHTTP(w, q)
	}))
	s.Start()
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	if _, err := repository(t, c, d.Addr().String()+"/app").Exists(t.Context(), anyBlob()); err != nil {
		t.Fatal(err)
	}
	if late.Load() {
		t.Error("it was asked in the clear when TLS had failed")
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "HEAD /v2/app/blobs/"; len(got) == 0 || !strings.HasPrefix(got[0], want) {
		t.Errorf("got %q, want %s first", got, want)
	}
}

// TestNoSecretInTheClear: who speaks TLS is told a credential by TLS only, and is asked at most once in
// the clear.
func TestNoSecretInTheClear(t *testing.T) {
	var mu sync.Mutex
	var clear bytes.Buffer
	var connections int
	d := newDoors(t, true, func(c net.Conn) {
		mu.Lock()
		connections++
		mu.Unlock()
		b := make([]byte, 4096)
		n, _ := c.Read(b)
		mu.Lock()
		defer mu.Unlock()
		clear.Write(b[:n])
		_, _ = io.WriteString(c, "HTTP/1.0 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\n\r\n")
	})
	h := plain()
	s := serveDoors(t, d, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, pass, _ := q.BasicAuth(); user != "u" || pass != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		h.ServeHTTP(w, q)
	}))
	s.StartTLS()
	for _, first := range []string{"read", "push"} {
		c, _ := newTestClient(Options{Keychain: keychain{basic}})
		repo := repository(t, c, d.Addr().String()+"/"+first)
		if first == "read" {
			if _, err := repo.Resolve(t.Context(), "latest"); !errdefs.IsNotFound(err) {
				t.Errorf("got %v, want not found", err)
			}
		}
		desc, data := blob(3, 1000)
		if err := repo.Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
			t.Error(err)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Contains(strings.ToLower(clear.String()), "authorization") || connections > 2 {
		t.Errorf("%d connections in the clear: %q", connections, clear.String())
	}
}

// TestNotReachableIsNotRemembered: a registry that was being restarted may speak TLS.
func TestNotReachableIsNotRemembered(t *testing.T) {
	d := newDoors(t, true, func(net.Conn) {})
	s := serveDoors(t, d, plain())
	s.StartTLS()
	c, _ := newTestClient(Options{})
	repo := repository(t, c, d.Addr().String()+"/app")
	d.shut.Store(true)
	if _, err := repo.Exists(t.Context(), anyBlob()); !errdefs.IsUnavailable(err) {
		t.Fatalf("got %v, want unavailable", err)
	}
	d.shut.Store(false)
	if _, err := repo.Exists(t.Context(), anyBlob()); err != nil {
		t.Error(err)
	}
}

// TestUsualPorts: a registry may write its address with the port that goes without saying.
func TestUsualPorts(t *testing.T) {
	for addr, addresses := range map[string]map[string]bool{
		"registry.example":     {"https://registry.example:443/x": true, "http://registry.example:80/x": true, "https://registry.example:80/x": false, "https://registry.example.org/": false},
		"registry.example:443": {"https://registry.example/x": true, "http://registry.example/x": false},
		"[::1]":                {"https://[::1]:443/x": true, "https://[::1]:8443/x": false},
	} {
		for s, want := range addresses {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := (&host{addr: addr}).serves(u); got != want {
				t.Errorf("%s serves %s: got %v, want %v", addr, s, got, want)
			}
		}
	}
}

func anyBlob() ocispec.Descriptor {
	d, _ := blob(1, 10)
	return d
}

// TestNoPasswordInTheClear: a registry that answers by TLS and sends us to itself without TLS gets no password there.
func TestNoPasswordInTheClear(t *testing.T) {
	desc, data := blob(8, 1000)
	var d *doors
	secure := httptest.NewUnstartedServer(nil)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	var sent, clear atomic.Int64
	d = newDoors(t, false, func(c net.Conn) {
		c = tls.Server(c, secure.TLS)
		for r := bufio.NewReader(c); ; {
			q, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			answer := "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\""
			if q.Header.Get("Authorization") != "" {
				sent.Add(1)
				answer = "307 Temporary Redirect\r\nLocation: http://" + d.Addr().String() + "/clear"
			}
			if _, err := io.WriteString(c, "HTTP/1.1 "+answer+"\r\nContent-Length: 0\r\n\r\n"); err != nil {
				return
			}
		}
	})
	s := serveDoors(t, d, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "" {
			clear.Add(1)
		}
		if q.URL.Path == "/clear" {
			w.Write(data)
		}
	}))
	s.Start()
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	got, err := fetch(t.Context(), repository(t, c, d.Addr().String()+"/app"), desc)
	if err != nil || !bytes.Equal(got, data) || sent.Load() == 0 || clear.Load() != 0 {
		t.Errorf("%d bytes, %v; the password was sent %d times by TLS, %d times in the clear", len(got), err, sent.Load(), clear.Load())
	}
}
