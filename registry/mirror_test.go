package registry

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hostDir writes files, given by name, into a directory of registries.
func hostDir(t *testing.T, files map[string]string) []string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	return []string{dir}
}

func TestMirrors(t *testing.T) {
	desc, data := blob(11, 100_000)
	serve := func(asked *atomic.Int64, status int) string {
		return server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.TLS != nil || q.URL.Path == "/v2/" {
				return
			}
			asked.Add(1)
			if status != http.StatusOK {
				w.WriteHeader(status)
				return
			}
			if d := digest.FromBytes(data); strings.Contains(q.URL.Path, "/manifests/") {
				w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
				w.Header().Set("Docker-Content-Digest", d.String())
			}
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data)
		}))
	}
	refused := httptest.NewServer(nil)
	refused.Close()
	for name, test := range map[string]struct {
		status           int
		more             string // of the mirror's table
		first            string // a table before it
		mirror, upstream int64
	}{
		"has it":          {status: http.StatusOK, mirror: 3},
		"only by digest":  {status: http.StatusOK, more: `capabilities = ["pull"]`, mirror: 2, upstream: 1},
		"only pushes":     {status: http.StatusOK, more: `capabilities = ["push"]`, upstream: 3},
		"has it not":      {status: http.StatusNotFound, mirror: 3, upstream: 3},
		"is broken":       {status: http.StatusInternalServerError, mirror: 3, upstream: 3},
		"forbids":         {status: http.StatusForbidden, mirror: 3, upstream: 3},
		"asks for a name": {status: http.StatusUnauthorized, mirror: 3, upstream: 3},
		"second":          {status: http.StatusOK, first: "[host.\"" + refused.URL + "\"]\n", mirror: 3},
	} {
		t.Run(name, func(t *testing.T) {
			var atMirror, atUpstream atomic.Int64
			mirror, upstream := serve(&atMirror, test.status), serve(&atUpstream, http.StatusOK)
			dirs := hostDir(t, map[string]string{upstream + "/hosts.toml": test.first + "[host.\"http://" + mirror + "\"]\n" + test.more})
			c, waits := newTestClient(Options{HostDirs: dirs})
			repo := repository(t, c, upstream+"/app")
			d, err := repo.Resolve(t.Context(), "latest")
			if err != nil || d.Digest != digest.FromBytes(data) {
				t.Errorf("resolved to %s, %v", d.Digest, err)
			}
			for range 2 {
				if got, err := fetch(t.Context(), repo, desc); err != nil || !bytes.Equal(got, data) {
					t.Errorf("fetched %d bytes, %v", len(got), err)
				}
			}
			if m, u := atMirror.Load(), atUpstream.Load(); m != test.mirror || u != test.upstream {
				t.Errorf("%d requests to the mirror and %d to the registry, want %d and %d", m, u, test.mirror, test.upstream)
			}
			if len(waits.list) > 0 {
				t.Errorf("waited for a mirror: %v", waits.list)
			}
		})
	}
}

func TestMirrorIsAskedWithItsPathAndHeader(t *testing.T) {
	desc, data := blob(12, 1000)
	var leaked atomic.Int64
	elsewhere := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("X-Secret") != "" {
			leaked.Add(1)
		}
		_, _ = w.Write(data)
	}))
	for config, want := range map[string]string{
		"/proxy\"]":                          "/proxy/v2/app/blobs/",
		"/v2/proxy\"]\noverride_path = true": "/v2/proxy/app/blobs/",
		"/proxy/v2\"]":                       "/proxy/v2/app/blobs/",
		"\"]":                                "/v2/app/blobs/",
		"\"]\ncapabilities = [\"pull\", \"push\"]": "/v2/app/blobs/",
	} {
		var got, ns, secret string
		mirror := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			got, ns, secret = q.URL.Path, q.URL.Query().Get("ns"), q.Header.Get("X-Secret")
			http.Redirect(w, q, "http://"+elsewhere+"/blob", http.StatusTemporaryRedirect)
		}))
		toml := "[host.\"http://" + mirror + config + "\n[host.\"http://" + mirror + strings.SplitAfter(config, "\"")[0] + ".header]\nx-secret = \"sesame\""
		c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{"registry.example/hosts.toml": toml})})
		if _, err := fetch(t.Context(), repository(t, c, "registry.example/app"), desc); err != nil {
			t.Errorf("%s: %v", toml, err)
		}
		if got != want+desc.Digest.String() || ns != "registry.example" || secret != "sesame" {
			t.Errorf("%s: asked for %s, ns %q, header %q", toml, got, ns, secret)
		}
	}
	if leaked.Load() > 0 {
		t.Error("the header went to where the mirror redirected")
	}
}

// TestMirrorThatLies: what a mirror gives instead of what it was asked for comes from the registry, or is found out.
func TestMirrorThatLies(t *testing.T) {
	small, smallData := blob(14, 1000)
	large, largeData := blob(15, maxManifest+1000)
	manifest, manifestData := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: small})
	upstream := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		for d, data := range map[digest.Digest][]byte{small.Digest: smallData, large.Digest: largeData, manifest.Digest: manifestData} {
			if strings.HasSuffix(q.URL.Path, d.String()) {
				w.Header().Set("Content-Type", manifest.MediaType)
				http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
			}
		}
	}))
	for name, lie := range map[string]func(w http.ResponseWriter, length int){
		"other bytes": func(w http.ResponseWriter, length int) { _, _ = w.Write(make([]byte, length)) },
		"too short": func(w http.ResponseWriter, length int) {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write(make([]byte, 10))
		},
		"another range": func(w http.ResponseWriter, length int) {
			w.Header().Set("Content-Range", "bytes 5-9/10")
			w.WriteHeader(http.StatusPartialContent)
		},
	} {
		mirror := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			for d, length := range map[digest.Digest]int{small.Digest: len(smallData), large.Digest: len(largeData), manifest.Digest: len(manifestData)} {
				if strings.HasSuffix(q.URL.Path, d.String()) {
					lie(w, length)
				}
			}
		}))
		repo := func() *Repository {
			c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{upstream + "/hosts.toml": "[host.\"http://" + mirror + "\"]\n"})})
			return repository(t, c, upstream+"/app")
		}
		if got, err := fetch(t.Context(), repo(), small); err != nil || !bytes.Equal(got, smallData) {
			t.Errorf("%s, of a small blob: %v", name, err)
		}
		if _, got, err := repo().Manifest(t.Context(), manifest.Digest.String()); err != nil || !bytes.Equal(got, manifestData) {
			t.Errorf("%s, of a manifest: %v", name, err)
		}
		r := repo()
		if got, err := fetch(t.Context(), r, large); err == nil && !bytes.Equal(got, largeData) || err != nil && (name != "other bytes" || !errdefs.IsDataLoss(err)) {
			t.Errorf("%s, of a large blob: %v", name, err)
		}
		if !r.Doubt() {
			t.Errorf("%s: nobody else may be asked", name)
		}
		if got, err := fetch(t.Context(), r, large); err != nil || !bytes.Equal(got, largeData) {
			t.Errorf("%s, once it is doubted: %v", name, err)
		}
	}
	c, _ := newTestClient(Options{})
	if repository(t, c, upstream+"/app").Doubt() {
		t.Error("without mirrors somebody else may be asked")
	}
}

// TestMirrorThatBreaks: what a mirror does not bring to its end comes from the registry, also where the mirror redirected.
func TestMirrorThatBreaks(t *testing.T) {
	large, largeData := blob(31, maxManifest+1000)
	small, smallData := blob(32, 1000)
	manifest, manifestData := document(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: small})
	blobs := map[string][]byte{large.Digest.String(): largeData, small.Digest.String(): smallData, manifest.Digest.String(): manifestData}
	what := func(q *http.Request) []byte {
		for d, data := range blobs {
			if strings.HasSuffix(q.URL.Path, d) {
				return data
			}
		}
		return nil
	}
	upstream := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", manifest.MediaType)
		http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(what(q)))
	}))
	for name, lie := range map[string]func(w http.ResponseWriter, data []byte){
		"too short": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", "10")
			_, _ = w.Write(make([]byte, 10))
		},
		"breaks": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			_, _ = w.Write(data[:len(data)/2])
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
		"breaks at once": func(w http.ResponseWriter, data []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		},
	} {
		for _, redirects := range []bool{false, true} {
			store := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { lie(w, what(q)) }))
			mirror := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if redirects {
					http.Redirect(w, q, "http://"+store+q.URL.Path, http.StatusTemporaryRedirect)
					return
				}
				lie(w, what(q))
			}))
			repo := func() *Repository {
				c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{upstream + "/hosts.toml": "[host.\"http://" + mirror + "\"]\n"})})
				return repository(t, c, upstream+"/app")
			}
			for _, d := range []ocispec.Descriptor{large, small} {
				if got, err := fetch(t.Context(), repo(), d); err != nil || !bytes.Equal(got, blobs[d.Digest.String()]) {
					t.Errorf("%s, redirects %v, %d bytes: %v", name, redirects, d.Size, err)
				}
			}
			if _, got, err := repo().Manifest(t.Context(), manifest.Digest.String()); err != nil || !bytes.Equal(got, manifestData) {
				t.Errorf("%s, redirects %v, manifest: %v", name, redirects, err)
			}
		}
	}
}

// TestMirrorComesBack: a mirror that was not there is asked again after a while.
func TestMirrorComesBack(t *testing.T) {
	var asked atomic.Int64
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mirror := ln.Addr().String()
	ln.Close()
	upstream := server(t, http.NotFoundHandler())
	c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{upstream + "/hosts.toml": "[host.\"http://" + mirror + "\"]\n"})})
	now := time.Now()
	c.now = func() time.Time { return now }
	ask := func() {
		if _, err := repository(t, c, upstream+"/app").Resolve(t.Context(), "v1"); !errdefs.IsNotFound(err) {
			t.Errorf("got %v", err)
		}
	}
	ask()
	if ln, err = net.Listen("tcp", mirror); err != nil {
		t.Skip(err)
	}
	go http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(func() { ln.Close() })
	ask()
	if asked.Load() != 0 {
		t.Error("at once")
	}
	now = now.Add(mirrorRest)
	ask()
	if asked.Load() == 0 {
		t.Error("never again")
	}
}

func TestMirrorsOfDockerHub(t *testing.T) {
	desc, data := blob(13, 1000)
	var asked atomic.Int64
	mirror := "http://" + server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		_, _ = w.Write(data)
	}))
	c, _ := newTestClient(Options{HostDirs: []string{}, Mirrors: []string{mirror}})
	if got, err := fetch(t.Context(), repository(t, c, "docker.io/library/debian"), desc); err != nil || !bytes.Equal(got, data) || asked.Load() != 1 {
		t.Errorf("got %d bytes in %d requests, %v", len(got), asked.Load(), err)
	}
	if other, err := c.mirrors("registry.example"); err != nil || len(other) > 0 {
		t.Errorf("another registry has the mirrors %v, %v", other, err)
	}
	// What a hosts.toml says comes before.
	dirs := hostDir(t, map[string]string{"docker.io/hosts.toml": "[host.\"https://a\"]\n[host.\"https://b\"]"})
	c, _ = newTestClient(Options{HostDirs: dirs, Mirrors: []string{mirror}})
	if list, err := c.mirrors(hubDomain); err != nil || len(list) != 2 || list[0].host.addr != "a" || list[1].host.addr != "b" {
		t.Errorf("got %v, %v", list, err)
	}
}

func TestBadHostsFilesAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		"[host":                                    "toml:",
		"[host.\"ftp://a\"]":                       "no address",
		"server = \"https://\"":                    "no address",
		"[host.a]\nca = \"nowhere.crt\"":           "nowhere.crt",
		"[host.a]\nca = 5":                         "neither a text",
		"[host.a]\nclient = [[1]]":                 "no text",
		"[host.a]\nclient = [[\"a\",\"b\",\"c\"]]": "a certificate and a key",
		"[host.a.header]\nx = true":                "header x",
	} {
		c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{"docker.io/hosts.toml": text})})
		if _, err := c.mirrors(hubDomain); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}

func TestHostDirNames(t *testing.T) {
	c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{"a/x": "", "b:5000/x": ""})})
	for name, found := range map[string]bool{"a": true, "b:5000": true, "b": false, "": false, "..": false, ".": false, "a/../a": false} {
		if got := c.hostDir(name) != ""; got != found {
			t.Errorf("%q: found %v", name, got)
		}
	}
}

// pemOf returns the certificate and key of a test server.
func pemOf(t *testing.T, s *httptest.Server) (certificate, key string) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(s.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestCertificatesOfARegistry(t *testing.T) {
	s := httptest.NewUnstartedServer(plain())
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	certificate, key := pemOf(t, s)
	host := strings.TrimPrefix(s.URL, "https://")
	for name, test := range map[string]struct {
		files map[string]string
		want  string // in the error; "" for none
	}{
		"authority and client": {map[string]string{"ca.crt": certificate, "client.cert": certificate, "client.key": key}, ""},
		"client alone":         {map[string]string{"client.cert": certificate, "client.key": key}, ""},
		"no client":            {map[string]string{"ca.crt": certificate}, "certificate required"},
		"no key":               {map[string]string{"client.cert": certificate}, "client.key"},
		"no certificate":       {map[string]string{"ca.crt": "nothing"}, "holds no certificate"},
	} {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{}
			for file, text := range test.files {
				files[host+"/"+file] = text
			}
			c, waits := newTestClient(Options{HostDirs: hostDir(t, files)})
			_, err := repository(t, c, host+"/app").Resolve(t.Context(), "latest")
			if test.want == "" && !errdefs.IsNotFound(err) || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q after %v", err, test.want, waits.list)
			}
		})
	}
}

func TestAnotherAuthorityIsNotTrusted(t *testing.T) {
	s := httptest.NewTLSServer(plain())
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	// Any certificate that is not the server's.
	other := "testdata/other-ca.pem"
	ca, err := os.ReadFile(other)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{host + "/ca.crt": string(ca)})})
	_, err = repository(t, c, host+"/app").Resolve(t.Context(), "latest")
	var authority x509.UnknownAuthorityError
	if !errors.As(err, &authority) {
		t.Errorf("got %v, although loopback registries need no certificate, this one was given an authority", err)
	}
}

// What a mirror remembers of the list of referrers is not what another is added to.
func TestReferrersAreNotThoseOfAMirror(t *testing.T) {
	inner := plain()
	upstream := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if strings.Contains(q.URL.Path, "/referrers/") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		inner.ServeHTTP(w, q)
	}))
	_, old := document(t, ocispec.MediaTypeImageIndex, ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}})
	mirror := server(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
		_, _ = w.Write(old)
	}))
	c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{upstream + "/hosts.toml": "[host.\"http://" + mirror + "\"]"})})
	r := repository(t, c, upstream+"/app")
	push := func(d ocispec.Descriptor, data []byte) {
		t.Helper()
		if err := r.Push(t.Context(), d, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
	}
	empty := ocispec.DescriptorEmptyJSON
	push(empty, empty.Data)
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: empty, Layers: []ocispec.Descriptor{}}
	subject, data := document(t, manifest.MediaType, manifest)
	push(subject, data)
	manifest.Subject = &subject
	for _, kind := range []string{"signature", "sbom"} {
		manifest.ArtifactType = "application/" + kind
		d, data := document(t, manifest.MediaType, manifest)
		push(d, data)
		if err := r.Refer(t.Context(), memory(data), d); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := r.Referrers(t.Context(), subject.Digest); err != nil || len(list) != 2 {
		t.Errorf("%d referrers are listed, %v; want 2", len(list), err)
	}
}
