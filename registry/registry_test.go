package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// keychain gives the same credential for every registry.
type keychain struct{ config authn.AuthConfig }

func (k keychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	if k.config == (authn.AuthConfig{}) {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(k.config), nil
}

// waits records the pauses a client made instead of making them.
type waits struct {
	mu   sync.Mutex
	list []time.Duration
}

func (w *waits) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.list = append(w.list, d)
	return ctx.Err()
}

func newTestClient(o Options) (*Client, *waits) {
	if o.Keychain == nil {
		o.Keychain = keychain{}
	}
	c := New(o)
	w := &waits{}
	c.sleep = w.sleep
	return c, w
}

// server serves handler and returns its host:port.
func server(t *testing.T, handler http.Handler) string {
	t.Helper()
	s := httptest.NewServer(handler)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// plain is go-containerregistry's registry in memory.
func plain() http.Handler { return registry.New(registry.Logger(log.New(io.Discard, "", 0))) }

func repository(t *testing.T, c *Client, name string) *Repository {
	t.Helper()
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Repository(ref)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// blob returns n bytes that are the same in every run.
func blob(seed uint64, n int) (ocispec.Descriptor, []byte) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b), Size: int64(n)}, b
}

func document(t *testing.T, mediaType string, v any) (ocispec.Descriptor, []byte) {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}, b
}

func fetch(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) ([]byte, error) {
	r, err := f.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// onlyReader hides that a reader can seek.
type onlyReader struct{ io.Reader }

// memory is a content.Fetcher for the bytes of one blob.
type memory []byte

func (m memory) Fetch(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(onlyReader{bytes.NewReader(m)}), nil
}

func TestPushResolveFetch(t *testing.T) {
	ctx := t.Context()
	c, _ := newTestClient(Options{})
	r := repository(t, c, server(t, plain())+"/team/app:1")

	layer, layerBytes := blob(1, 300<<10)
	config, configBytes := document(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}})
	manifest, manifestBytes := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{layer},
	})
	for _, b := range []struct {
		desc  ocispec.Descriptor
		bytes []byte
	}{{layer, layerBytes}, {config, configBytes}, {manifest, manifestBytes}} {
		if ok, err := r.Exists(ctx, b.desc); err != nil || ok {
			t.Fatalf("Exists(%s) before the push = %v, %v", b.desc.MediaType, ok, err)
		}
		if err := r.Push(ctx, b.desc, onlyReader{bytes.NewReader(b.bytes)}); err != nil {
			t.Fatalf("Push(%s): %v", b.desc.MediaType, err)
		}
		if ok, err := r.Exists(ctx, b.desc); err != nil || !ok {
			t.Fatalf("Exists(%s) after the push = %v, %v", b.desc.MediaType, ok, err)
		}
		got, err := fetch(ctx, r, b.desc)
		if err != nil || !bytes.Equal(got, b.bytes) {
			t.Fatalf("Fetch(%s): %d bytes, %v", b.desc.MediaType, len(got), err)
		}
	}
	for _, tag := range []string{"1", "2"} {
		if err := r.Tag(ctx, manifest, tag, manifestBytes); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"1", manifest.Digest.String()} {
		got, err := r.Resolve(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(manifest, got); diff != "" {
			t.Errorf("Resolve(%s): %s", name, diff)
		}
	}
	tags, err := r.Tags(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"1", "2"}, tags); diff != "" {
		t.Errorf("tags: %s", diff)
	}
	if _, err := r.Resolve(ctx, "3"); !errdefs.IsNotFound(err) {
		t.Errorf("Resolve of a missing tag: %v", err)
	}
	if _, err := fetch(ctx, r, ocispec.Descriptor{Digest: digest.FromString("no"), Size: 2}); !errdefs.IsNotFound(err) {
		t.Errorf("Fetch of a missing blob: %v", err)
	}
}

func TestResolveWithoutHead(t *testing.T) {
	manifest, manifestBytes := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
	})
	for _, tt := range []struct {
		name string
		head http.HandlerFunc
	}{
		{"HEAD not allowed", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusMethodNotAllowed) }},
		{"HEAD unauthorized", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }},
		{"HEAD forbidden", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }},
		{"HEAD not found", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }},
		{"no digest", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Header().Set("Content-Length", "10")
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, _ := newTestClient(Options{})
			r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.Method == http.MethodHead {
					tt.head(w, q)
					return
				}
				w.Header().Set("Content-Type", "application/json; charset=utf-8") // as some proxies say
				w.Write(manifestBytes)
			}))+"/app")
			got, err := r.Resolve(t.Context(), "latest")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(manifest, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestResolveMediaTypes: a document says itself what it is where its server does not know.
func TestResolveMediaTypes(t *testing.T) {
	const image = `"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0},"layers":[]`
	for _, tt := range []struct{ header, body, want, text string }{
		{"text/plain", `{"schemaVersion":2,` + image + `}`, ocispec.MediaTypeImageManifest, ""},
		{"application/json", `{"schemaVersion":2,"manifests":[]}`, ocispec.MediaTypeImageIndex, ""},
		{"text/plain", `{"schemaVersion":2,"manifests":[],` + image + `}`, "", "no manifest"},
		{"text/html", `<html>`, "", "no manifest"},
		{"application/vnd.x+json", `{"mediaType":"application/vnd.x+json"}`, "", `media type "application/vnd.x+json", which is no image's`},
		{"application/vnd.docker.distribution.manifest.v1+json", `{}`, "", "schema 1"},
	} {
		c, _ := newTestClient(Options{})
		r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", tt.header)
			w.Header().Set("Docker-Content-Digest", digest.FromString(tt.body).String())
			w.Header().Set("Content-Length", strconv.Itoa(len(tt.body)))
			io.WriteString(w, tt.body)
		}))+"/app")
		got, err := r.Resolve(t.Context(), "latest")
		if tt.text == "" && err != nil || tt.text != "" && (err == nil || !strings.Contains(err.Error(), tt.text)) || got.MediaType != tt.want {
			t.Errorf("%s %s: got %q, %v, want %q %s", tt.header, tt.body, got.MediaType, err, tt.want, tt.text)
		}
	}
}

// TestResolveSaysWhy: the answer to HEAD has no body, so the reason is that of a GET.
func TestResolveSaysWhy(t *testing.T) {
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		c, _ := newTestClient(Options{})
		r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			io.WriteString(w, `{"errors":[{"code":"DENIED","message":"the subscription has ended"}]}`)
		}))+"/app")
		_, err := r.Resolve(t.Context(), "latest")
		if err == nil || !strings.Contains(err.Error(), "the subscription has ended") {
			t.Errorf("%d: got %v", status, err)
		}
	}
}

// TestExistsWithoutHead: what a registry without HEAD has cannot be known, and is sent again.
func TestExistsWithoutHead(t *testing.T) {
	c, _ := newTestClient(Options{})
	r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusMethodNotAllowed)
	}))+"/app")
	for _, mediaType := range []string{ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageManifest} {
		ok, err := r.Exists(t.Context(), ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString("x"), Size: 1})
		if ok || err != nil {
			t.Errorf("%s: got %v, %v", mediaType, ok, err)
		}
	}
}

func TestResolveRefusesOtherDigest(t *testing.T) {
	c, _ := newTestClient(Options{})
	r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromString("other").String())
		w.Header().Set("Content-Length", "10")
	}))+"/app")
	if _, err := r.Resolve(t.Context(), digest.FromString("mine").String()); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v", err)
	}
}

func TestTagsFollowsLinks(t *testing.T) {
	c, _ := newTestClient(Options{})
	r := repository(t, c, server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Query().Get("last") {
		case "":
			w.Header().Set("Link", `</v2/app/tags/list?last=b>; rel="next"`)
			io.WriteString(w, `{"name":"app","tags":["a","b"]}`)
		case "b":
			io.WriteString(w, `{"name":"app","tags":["c"]}`)
		}
	}))+"/app")
	got, err := r.Tags(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestDockerHubNames(t *testing.T) {
	c, _ := newTestClient(Options{})
	r := repository(t, c, "alpine")
	if r.host.addr != "registry-1.docker.io" || r.name != "library/alpine" || r.host.lax {
		t.Errorf("got %s %s", r.host.addr, r.name)
	}
	if got := keychainResource(r.host.name).RegistryStr(); got != "index.docker.io" {
		t.Errorf("credentials of %s", got)
	}
}

func TestInsecureHosts(t *testing.T) {
	hosts := parseInsecure([]string{"registry.lan:5000", "other.lan", "10.1.0.0/16", "http://third.lan/"})
	for addr, want := range map[string]bool{
		"localhost": true, "localhost:5000": true, "127.0.0.1:5000": true, "127.8.8.8": true, "[::1]:5000": true,
		"registry.lan:5000": true, "registry.lan": false, "other.lan:443": true, "third.lan": true,
		"10.1.2.3:5000": true, "10.2.0.1:5000": false, "ghcr.io": false, "localhost.evil.example": false,
	} {
		if got := hosts.contains(addr); got != want {
			t.Errorf("contains(%s) = %v", addr, got)
		}
	}
}

func TestErrorsAndHints(t *testing.T) {
	for _, tt := range []struct {
		status int
		body   string
		text   string
		class  func(error) bool
		hint   string
	}{
		{403, `{"errors":[{"code":"DENIED","message":"requested access is denied"}]}`, "denied by HOST: requested access is denied", errdefs.IsPermissionDenied, "`teu login HOST`"},
		{404, `{"errors":[{"code":"NAME_UNKNOWN","message":"repository\u001b[31m not known"}]}`, "not found at HOST: repository [31m not known", errdefs.IsNotFound, ""},
		{400, `{"errors":[{"code":"NAME_INVALID"}]}`, "HOST answered 400 Bad Request to GET /v2/app/tags/list: NAME_INVALID", errdefs.IsInvalidArgument, ""},
		{503, `<html>`, "HOST answered 503 Service Unavailable to GET /v2/app/tags/list", errdefs.IsUnavailable, ""},
	} {
		c, _ := newTestClient(Options{})
		host := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(tt.status)
			io.WriteString(w, tt.body)
		}))
		_, err := repository(t, c, host+"/app").Tags(t.Context())
		if want := strings.ReplaceAll(tt.text, "HOST", host); err == nil || err.Error() != want {
			t.Errorf("%d: got %q, want %q", tt.status, err, want)
		}
		if !tt.class(err) {
			t.Errorf("%d: wrong class: %v", tt.status, err)
		}
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(e.Hint(), strings.ReplaceAll(tt.hint, "HOST", host)) {
			t.Errorf("%d: hint %q", tt.status, e.Hint())
		}
	}
}
