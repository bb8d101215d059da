package registry

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// hashed returns a line of an htpasswd file.
func hashed(t *testing.T, user, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return user + ":" + strings.Replace(string(h), "$2a$", "$2y$", 1) + "\n" // as htpasswd -B writes it
}

func writeUsers(t *testing.T, path, lines string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *client) login(path, user, password string) int {
	c.t.Helper()
	req, err := http.NewRequest("GET", c.base+path, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if user != "" {
		req.SetBasicAuth(user, password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestHtpasswd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	writeUsers(t, file, "# users\n\n"+hashed(t, "ann", "one")+hashed(t, "bob", "t:wo"))
	c := serveOptions(t, Options{Root: t.TempDir(), Htpasswd: file})
	a := c.want(c.do("GET", "/v2/", nil), 401, codeUnauthorized)
	if got := a.header.Get("WWW-Authenticate"); got != `Basic realm="teu registry"` {
		t.Errorf("got WWW-Authenticate %q", got)
	}
	for range 2 { // the second time from memory
		for _, test := range []struct {
			user, password string
			status         int
		}{
			{"ann", "one", 200}, {"bob", "t:wo", 200}, {"ann", "t:wo", 401}, {"ann", "", 401}, {"eve", "one", 401}, {"# users", "", 401},
		} {
			if got := c.login("/v2/", test.user, test.password); got != test.status {
				t.Errorf("%s with %q: got %d, want %d", test.user, test.password, got, test.status)
			}
		}
	}
	// Nothing is told about what is there.
	for _, path := range []string{"/v2/a/tags/list", "/v2/_catalog", "/v2/BAD/tags/list", "/elsewhere"} {
		if got := c.login(path, "", ""); got != 401 {
			t.Errorf("%s: got %d, want 401", path, got)
		}
	}
}

func TestHtpasswdReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	writeUsers(t, file, hashed(t, "ann", "one"))
	c := serveOptions(t, Options{Root: t.TempDir(), Htpasswd: file})
	if got := c.login("/v2/", "ann", "one"); got != 200 {
		t.Fatalf("got %d, want 200", got)
	}
	change := func(lines string, ago time.Duration) {
		writeUsers(t, file, lines)
		when := time.Now().Add(-ago) // surely another mtime
		if err := os.Chtimes(file, when, when); err != nil {
			t.Fatal(err)
		}
	}
	change(hashed(t, "ann", "two")+"carl:{SHA}notbcrypt\n", time.Hour)
	for password, want := range map[string]int{"one": 401, "two": 200} {
		if got := c.login("/v2/", "ann", password); got != want {
			t.Errorf("%s after the change: got %d, want %d", password, got, want)
		}
	}
	if got := c.login("/v2/", "carl", "x"); got != 401 {
		t.Errorf("user without bcrypt: got %d", got)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if got := c.login("/v2/", "ann", "two"); got != 401 {
		t.Errorf("without the file: got %d, want 401", got)
	}
	change(hashed(t, "ann", "two"), 2*time.Hour)
	if got := c.login("/v2/", "ann", "two"); got != 200 {
		t.Errorf("with the file again: got %d, want 200", got)
	}
}

func TestHtpasswdAtStart(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	if _, err := New(Options{Root: t.TempDir(), Htpasswd: file}); !os.IsNotExist(unwrapAll(err)) {
		t.Errorf("missing file: got %v", err)
	}
	writeUsers(t, file, hashed(t, "ann", "one")+"bob:$apr1$x$y\n")
	if _, err := New(Options{Root: t.TempDir(), Htpasswd: file}); err == nil || !strings.Contains(err.Error(), "users:2:") {
		t.Errorf("got %v, want the line of bob", err)
	}
}

func unwrapAll(err error) error {
	for {
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return err
		}
		if _, ok := err.(*os.PathError); ok {
			return err
		}
		err = u.Unwrap()
	}
}

// TestLoginsAreRemembered: many clients with one password cost bcrypt once. All slots for
// bcrypt are taken, so whoever needed one would wait for ever.
func TestLoginsAreRemembered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	writeUsers(t, file, hashed(t, "ann", "one"))
	g, err := New(Options{Root: t.TempDir(), Htpasswd: file})
	if err != nil {
		t.Fatal(err)
	}
	if !letsIn(t.Context(), g, "ann", "one") || letsIn(t.Context(), g, "ann", "bad") || letsIn(t.Context(), g, "eve", "one") {
		t.Fatal("wrong answers")
	}
	for range cap(g.door.slots) {
		g.door.slots <- struct{}{}
	}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if !letsIn(t.Context(), g, "ann", "one") || letsIn(t.Context(), g, "ann", "bad") || letsIn(t.Context(), g, "eve", "one") {
				t.Error("wrong answers from memory")
			}
		})
	}
	wg.Wait()
	for i := range maxAnswers + 10 { // guesses do not push out who is known
		g.door.remember(answerKey{byte(i), byte(i >> 8), 1}, false)
	}
	if !letsIn(t.Context(), g, "ann", "one") || len(g.door.bad) > maxAnswers {
		t.Errorf("%d bad answers are remembered", len(g.door.bad))
	}
}

// TestLoginsThatLeave: who goes away while he waits for bcrypt waits no longer, and who came
// with the same password still gets his answer.
func TestLoginsThatLeave(t *testing.T) {
	file := filepath.Join(t.TempDir(), "users")
	writeUsers(t, file, hashed(t, "ann", "one"))
	g, err := New(Options{Root: t.TempDir(), Htpasswd: file})
	if err != nil {
		t.Fatal(err)
	}
	for range cap(g.door.slots) {
		g.door.slots <- struct{}{}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var left, stayed sync.WaitGroup
	for i := range 100 {
		left.Go(func() {
			if letsIn(ctx, g, "ann", fmt.Sprint("guess ", i)) || letsIn(ctx, g, "ann", "one") {
				t.Error("let in without being compared")
			}
		})
	}
	stayed.Go(func() {
		if !letsIn(t.Context(), g, "ann", "one") {
			t.Error("the right password was refused")
		}
	})
	cancel()
	left.Wait()
	for range cap(g.door.slots) {
		<-g.door.slots
	}
	stayed.Wait()
}

func TestAnonymous(t *testing.T) {
	loopback, lan := &net.TCPAddr{IP: net.IPv6loopback}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)}
	tests := map[string]struct {
		anonymous bool
		local     net.Addr
		header    string
		status    int
	}{
		"loopback":                 {false, loopback, "", 200},
		"unix socket":              {false, &net.UnixAddr{}, "", 200},
		"other address":            {false, lan, "", 403},
		"unknown address":          {false, nil, "", 403},
		"other address, anonymous": {true, lan, "", 200},
		"browser":                  {false, loopback, "Origin", 403},
		"browser, reading":         {false, loopback, "Sec-Fetch-Site", 403},
		"browser, anonymous":       {true, lan, "Origin", 200},
		"browser, own name":        {false, loopback, "Accept-Language", 403},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			g, err := New(Options{Root: t.TempDir(), Anonymous: test.anonymous})
			if err != nil {
				t.Fatal(err)
			}
			r := httptest.NewRequest("GET", "/v2/", nil)
			if test.local != nil {
				r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, test.local))
			}
			if test.header != "" {
				r.Header.Set(test.header, "http://example.com")
			}
			w := httptest.NewRecorder()
			g.ServeHTTP(w, r)
			if w.Code != test.status {
				t.Errorf("got %d, want %d", w.Code, test.status)
			}
		})
	}
}

func TestNamesLocal(t *testing.T) {
	for host, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "[::1]:5000": true, "::1": true, "registry:5000": true,
		"r.localhost.:5000": true, "": true,
		"evil.example": false, "evil.example:5000": false, "127.0.0.1.evil.example:5000": false, "localhost.evil.example": false,
	} {
		if got := namesLocal(host); got != want {
			t.Errorf("%q: got %v, want %v", host, got, want)
		}
	}
}

// letsIn reports whether the password is the user's.
func letsIn(ctx context.Context, g *Registry, user, password string) bool {
	r := httptest.NewRequestWithContext(ctx, "GET", "/v2/", nil)
	ok, err := g.door.check(httptest.NewRecorder(), r, user, password)
	return ok && err == nil
}

// TestRate: one client has so many requests, another his own, and an address so many guesses.
func TestRate(t *testing.T) {
	o := Options{Root: t.TempDir(), Htpasswd: filepath.Join(t.TempDir(), "users"), Rate: 1}
	writeUsers(t, o.Htpasswd, hashed(t, "ann", "x")+hashed(t, "bob", "x")+hashed(t, "carl", "x")+hashed(t, "dora", "x"))
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	g.limit.rate = 0.001 // a slow machine must not wait for the next
	c := serveRegistry(t, g)
	for _, name := range []string{"ann", "bob"} {
		who := c.as(basic(name, "x"))
		for range rateBurst {
			c.want(who.do("GET", "/v2/", nil), 200, "")
		}
		if a := c.want(who.do("GET", "/v2/", nil), 429, codeTooManyRequests); len(a.header.Get("Retry-After")) < 3 {
			t.Errorf("got Retry-After %q", a.header.Get("Retry-After"))
		}
	}
	for range rateBurst {
		c.want(c.as(basic("ann", "guess")).do("GET", "/v2/", nil), 401, codeUnauthorized)
	}
	c.want(c.as(basic("bob", "guess")).do("GET", "/v2/", nil), 429, codeTooManyRequests)

	// Who guesses too often is not told when he is right, and who is known comes in.
	c.want(c.as(basic("dora", "x")).do("GET", "/v2/", nil), 200, "")
	for i := range rateBurst {
		c.want(c.as(basic("carl", fmt.Sprint(i))).do("GET", "/v2/", nil), 429, codeTooManyRequests)
	}
	c.want(c.as(basic("carl", "x")).do("GET", "/v2/", nil), 429, codeTooManyRequests)
	c.want(c.as(basic("dora", "x")).do("GET", "/v2/", nil), 200, "")
}

// TestAudit: changes and refusals have a line, reading has not.
func TestAudit(t *testing.T) {
	var log syncBuffer
	o := Options{Root: t.TempDir(), Htpasswd: filepath.Join(t.TempDir(), "users"), Audit: &log}
	writeUsers(t, o.Htpasswd, hashed(t, "ann", "x"))
	c := serveOptions(t, o)
	ann := c.as(basic("ann", "x"))
	ann.blob("a", []byte("b"))
	ann.do("GET", "/v2/", nil)
	c.do("GET", "/v2/", nil)
	c.as(basic("eve", "y")).do("GET", "/v2/_catalog?n=1", nil)
	var got []string
	for line := range strings.Lines(log.String()) {
		var l auditLine
		if err := json.Unmarshal([]byte(line), &l); err != nil || time.Since(l.Time) > time.Hour || l.Remote == "" {
			t.Errorf("got %s (%v)", line, err)
		}
		got = append(got, fmt.Sprintf("%s %s %d", l.User, l.Method, l.Status))
	}
	if want := []string{"ann POST 202", "ann PUT 201", "eve GET 401"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestClientCertificates: the common name of a certificate is a user, with his rules.
func TestClientCertificates(t *testing.T) {
	o := Options{Root: t.TempDir(), ClientCerts: true, Accounts: true}
	err := EditAccounts(t.Context(), o, func(a *Accounts) error {
		a.Rules = []AccessRule{{"team/*", "node", []Action{actionPull}}}
		_, err := a.AddRobot("node", nil, time.Time{})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(g)
	ca := x509.NewCertPool()
	srv.TLS = &tls.Config{ClientCAs: ca, ClientAuth: tls.VerifyClientCertIfGiven}
	srv.StartTLS()
	defer srv.Close()
	try := func(name, path string) int {
		t.Helper()
		cert := clientCertificate(t, name, ca)
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}}}}
		defer h.CloseIdleConnections()
		return (&client{t, srv.URL, h}).do("GET", path, nil).status
	}
	for path, want := range map[string]int{"/v2/": 200, "/v2/team/a/manifests/x": 404, "/v2/other/manifests/x": 403} {
		if got := try("node", path); got != want {
			t.Errorf("%s: got %d, want %d", path, got, want)
		}
	}
	if got := try("stranger", "/v2/team/a/manifests/x"); got != 401 {
		t.Errorf("a certificate without an account: got %d", got)
	}
}

// clientCertificate makes a certificate that is its own authority, and adds it to ca.
func clientCertificate(t *testing.T, name string, ca *x509.CertPool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ca.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: cert}
}

// TestRateMemory: of clients that come once and never again not more are remembered than fit.
func TestRateMemory(t *testing.T) {
	l := &rateLimit{rate: 1, most: 10}
	for i := range maxClients + 10 {
		if err := l.take(httptest.NewRecorder(), fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(l.clients); n > maxClients {
		t.Errorf("%d clients are remembered", n)
	}
}

// TestAuditLines: nobody who is refused writes long lines.
func TestAuditLines(t *testing.T) {
	var log bytes.Buffer
	l := &auditLog{w: &log}
	long := strings.Repeat("x", 60<<10)
	r := httptest.NewRequest(long, "/v2/"+long+"?"+long, nil)
	if l.request(r, long, http.StatusUnauthorized, nil); log.Len() == 0 || log.Len() > 8<<10 {
		t.Errorf("a line of %d bytes", log.Len())
	}
}
