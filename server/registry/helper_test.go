package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// client talks to a registry in a test.
type client struct {
	t    testing.TB
	base string // http://HOST:PORT
	http *http.Client
}

// answer is a response with its body read.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// code returns the code of the first error in the body, "" without one.
func (a answer) code() string {
	var doc struct{ Errors []struct{ Code string } }
	if json.Unmarshal(a.body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	return doc.Errors[0].Code
}

// serve starts a registry in a new directory, or bucket, and returns a client of it.
func serve(t testing.TB) *client {
	o := testStorage(t)
	o.AllowDelete = true
	return serveOptions(t, o)
}

func serveOptions(t testing.TB, o Options) *client {
	t.Helper()
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	return serveRegistry(t, g)
}

func serveRegistry(t testing.TB, g *Registry) *client {
	t.Helper()
	srv := httptest.NewServer(g)
	t.Cleanup(srv.Close)
	return &client{t, srv.URL, srv.Client()}
}

// do sends a request. headers are names and values in turn. path may be a Location.
func (c *client) do(method, path string, body io.Reader, headers ...string) answer {
	c.t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		c.t.Fatal(err)
	}
	return a
}

func (c *client) try(method, path string, body io.Reader, headers ...string) (answer, error) {
	req, err := http.NewRequest(method, c.base+path, body)
	if err != nil {
		return answer{}, err
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, b}, err
}

// want checks status and, if code is given, the error code.
func (c *client) want(a answer, status int, code string) answer {
	c.t.Helper()
	if a.status != status || a.code() != code {
		c.t.Fatalf("got %d %s, want %d %s: %s", a.status, a.code(), status, code, a.body)
	}
	return a
}

// start begins an upload and returns its Location.
func (c *client) start(repo string) string {
	c.t.Helper()
	return c.want(c.do("POST", "/v2/"+repo+"/blobs/uploads/", nil), 202, "").header.Get("Location")
}

// blob pushes b and returns its descriptor.
func (c *client) blob(repo string, b []byte) ocispec.Descriptor {
	c.t.Helper()
	d := digest.FromBytes(b)
	c.want(c.do("PUT", c.start(repo)+"?digest="+d.String(), bytes.NewReader(b)), 201, "")
	return ocispec.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: d, Size: int64(len(b))}
}

// image returns a manifest of a config and a layer with the given texts, which it pushes.
func (c *client) image(repo, config, layer string) ocispec.Manifest {
	c.t.Helper()
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: c.blob(repo, []byte(config))}
	m.SchemaVersion = 2
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	m.Layers = []ocispec.Descriptor{c.blob(repo, []byte(layer))}
	return m
}

// put pushes a manifest and returns its descriptor.
func (c *client) put(repo, ref string, m any) ocispec.Descriptor {
	c.t.Helper()
	b := encode(c.t, m)
	var doc document
	if err := json.Unmarshal(b, &doc); err != nil {
		c.t.Fatal(err)
	}
	a := c.want(c.do("PUT", "/v2/"+repo+"/manifests/"+ref, bytes.NewReader(b), "Content-Type", doc.MediaType), 201, "")
	d := digest.FromBytes(b)
	if got := a.header.Get("Docker-Content-Digest"); !strings.Contains(ref, ":") && got != d.String() {
		c.t.Fatalf("got digest %s, want %s", got, d)
	}
	return ocispec.Descriptor{MediaType: doc.MediaType, Digest: d, Size: int64(len(b))}
}

// tagged pushes a small image and returns the descriptor of its manifest.
func (c *client) tagged(repo, tag string) ocispec.Descriptor {
	c.t.Helper()
	return c.put(repo, tag, c.image(repo, "config of "+tag, "layer of "+tag))
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// expire makes the next look a real one.
func (c *documentCache[T]) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looked = time.Time{}
}
