package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestEndlessLists: pages that never end are given up while they fit into memory.
func TestEndlessLists(t *testing.T) {
	var tags struct {
		Tags []string `json:"tags"`
	}
	tags.Tags = make([]string, 2<<20)
	page, err := json.Marshal(tags)
	if err != nil {
		t.Fatal(err)
	}
	long := []byte(`{"tags":["` + strings.Repeat("x", maxTagPage-100) + `"]}`)
	d := digest.FromString("x")
	entry := fmt.Sprintf(`{"digest":%q},`, d)
	annotated := fmt.Appendf(nil, `{"manifests":[{"digest":%q,"annotations":{"x":%q}}]}`, d, strings.Repeat("x", maxManifest-1000))
	referrers := []byte(`{"manifests":[` + strings.Repeat(entry, 3<<20/len(entry)) + strings.TrimSuffix(entry, ",") + `]}`)
	var asked int
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked++
		w.Header().Set("Link", fmt.Sprintf(`<%s?n=%d>; rel="next"`, q.URL.Path, asked))
		switch w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex); strings.Split(q.URL.Path, "/")[2] + strings.Split(q.URL.Path, "/")[3] {
		case "appreferrers":
			w.Write(referrers)
		case "longreferrers":
			w.Write(annotated)
		case "longtags":
			w.Write(long)
		default:
			w.Write(page)
		}
	}))
	c, _ := newTestClient(Options{})
	r, l := repository(t, c, host+"/app"), repository(t, c, host+"/long")
	for name, list := range map[string]func() error{
		"tags":           func() error { _, err := r.Tags(t.Context()); return err },
		"long tags":      func() error { _, err := l.Tags(t.Context()); return err },
		"referrers":      func() error { _, err := r.Referrers(t.Context(), d); return err },
		"long referrers": func() error { _, err := l.Referrers(t.Context(), d); return err },
	} {
		asked = 0
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if err := list(); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: got %v", name, err)
		}
		runtime.ReadMemStats(&after)
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; asked > 40 || took > 2000 {
			t.Errorf("%s: %d pages, %d MB in all", name, asked, took)
		}
	}
}

// TestManyTokens: a client that is asked for one repository after the other, as that of a mirror is, does not keep
// the tokens for all of them.
func TestManyTokens(t *testing.T) {
	s := &tokenServer{inner: http.NotFoundHandler(), valid: map[string]string{}}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	s.self = strings.TrimPrefix(srv.URL, "http://")
	c, _ := newTestClient(Options{})
	now := time.Now()
	c.now = func() time.Time { return now }
	for i := range 2 * maxTokens {
		if _, err := repository(t, c, fmt.Sprintf("%s/r%d", s.self, i)).Resolve(t.Context(), "v1"); !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
	}
	if n := len(c.host(s.self).auth.tokens); n > maxTokens {
		t.Errorf("%d tokens are kept", n)
	}
}

// hanging is a keychain whose helper does not answer.
type hanging struct{ release chan struct{} }

func (h hanging) Resolve(authn.Resource) (authn.Authenticator, error) {
	<-h.release
	return authn.FromConfig(basic), nil
}

// TestHelperHangs: who waits for a credential helper that does not answer can leave.
func TestHelperHangs(t *testing.T) {
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if _, _, ok := q.BasicAuth(); !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	k := hanging{make(chan struct{})}
	c, _ := newTestClient(Options{Keychain: k})
	r := repository(t, c, host+"/app")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, err := r.Resolve(ctx, "v1")
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the request waits for the helper")
	}
	close(k.release) // it was only slow
	if _, err := r.Resolve(t.Context(), "v1"); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
}

// TestRedirectBackWithoutTLS: credentials for a host with TLS do not go to it in the clear, by whatever way a request
// comes there.
func TestRedirectBackWithoutTLS(t *testing.T) {
	c, _ := newTestClient(Options{})
	h := c.host("reg.example")
	parse := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for address, own := range map[string]bool{
		"https://reg.example/x": true, "https://reg.example:443/x": true, "https://other.example/x": false,
		"http://reg.example/x": false, "http://reg.example:80/x": false, "http://reg.example:443/x": false,
	} {
		if got := h.next(parse("https://reg.example/"), parse(address)) == h; got != own {
			t.Errorf("%s: credentials of the host: %v", address, got)
		}
	}
	lax := c.host("localhost:5000")
	if lax.next(parse("http://localhost:5000/"), parse("http://localhost:5000/x")) != lax || lax.next(parse("https://localhost:5000/"), parse("http://localhost:5000/x")) == lax {
		t.Error("wrong for hosts that may have no TLS")
	}
}

// TestLargeAnswers: of what is larger than it can be only a part is read, packed or not.
func TestLargeAnswers(t *testing.T) {
	plain := append([]byte(`{"schemaVersion":2,"mediaType":"`+ocispec.MediaTypeImageManifest+`"}`), bytes.Repeat([]byte(" "), maxManifest)...)
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(plain); errors.Join(err, z.Close()) != nil {
		t.Fatal(err)
	}
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		switch {
		case q.Method == http.MethodHead:
			w.WriteHeader(http.StatusMethodNotAllowed)
		case strings.Contains(q.URL.Path, "/packed/"):
			w.Header().Set("Content-Encoding", "gzip")
			w.Write(packed.Bytes())
		case strings.Contains(q.URL.Path, "/refused/"):
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"errors":[{"message":"no"}]%*s}`, 1<<20, "")
		default:
			w.Write(plain)
		}
	}))
	c, _ := newTestClient(Options{})
	for _, name := range []string{"plain", "packed"} {
		if _, err := repository(t, c, host+"/"+name).Resolve(t.Context(), "v1"); !errdefs.IsOutOfRange(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := repository(t, c, host+"/refused").Resolve(t.Context(), "v1"); err == nil || strings.HasSuffix(err.Error(), ": no") {
		t.Errorf("all of an error is read: %v", err)
	}
}

func TestLinkLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"http://169.254.169.254/latest": true, "https://169.254.0.1:443/": true, "http://[fe80::1]/": true, "http://[fe80::1%25eth0]/": true,
		"http://[::ffff:169.254.169.254]/": true, "http://0.0.0.0/": true, "http://[::]/": true, "http://[::ffff:0.0.0.0]:5000/": true,
		"http://127.0.0.1/": false, "http://10.0.0.1/": false, "https://registry.example/": false, "http://[::1]:5000/": false,
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if got := LinkLocal(u); got != want {
			t.Errorf("%s: got %v", address, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"a b": "a b", "\x1b[31mred": "[31mred", "a\u009b31mb": "a 31mb", "a\x9bb": "a\uFFFDb", "a\r\nb\x7f": "a  b", "\x00": "", "ü": "ü",
		strings.Repeat("x", 400): strings.Repeat("x", 300) + "...",
	} {
		if got := printable(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

// TestHelperNames: the name of a credential helper leads nowhere else.
func TestHelperNames(t *testing.T) {
	dir := t.TempDir()
	program, mark := dir+"/docker-credential-x/../helper", dir+"/ran"
	if err := errors.Join(os.Mkdir(dir+"/docker-credential-x", 0o700), os.WriteFile(dir+"/helper", []byte("#!/bin/sh\n: > "+mark+"\n"), 0o700)); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if _, err := os.Stat(program); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"x/../helper", "./docker-credential-x/../helper"} {
		if err := runHelper(t.Context(), name, "get", ""); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("it was run")
	}
}

// TestUploadLocations: an upload goes nowhere but to a server of HTTP, and an error says where it was to go.
func TestUploadLocations(t *testing.T) {
	desc, data := blob(34, 100<<10)
	for location, text := range map[string]string{
		"file:///etc/passwd": `unusable address "file:///etc/passwd"`, "gopher://x/y": `unusable address "gopher://x/y"`, "": `unusable address ""`,
		"http://169.254.169.254/x": "link-local address 169.254.169.254",
	} {
		host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Location", location)
			w.WriteHeader(http.StatusAccepted)
		}))
		c, _ := newTestClient(Options{})
		if err := repository(t, c, host+"/app").Push(t.Context(), desc, bytes.NewReader(data)); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", location, err)
		}
	}
}

// TestMissingManifestIsNamed: an error tells which of many manifests there is not.
func TestMissingManifestIsNamed(t *testing.T) {
	c, _ := newTestClient(Options{})
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 10}
	_, err := fetch(t.Context(), repository(t, c, server(t, http.NotFoundHandler())+"/app"), d)
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), d.Digest.String()) {
		t.Errorf("got %v", err)
	}
}
