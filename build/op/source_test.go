package op

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/layer"
)

func TestHTTP(t *testing.T) {
	body, etag, modified := "one", `"1"`, "Wed, 21 Oct 2015 07:28:00 GMT"
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method)
		if r.URL.Path == "/missing" {
			http.NotFound(w, r)
			return
		}
		if r.URL.Path == "/private" && r.Header.Get("Authorization") != "Bearer token" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Header().Set("Last-Modified", modified)
		if etag != "" {
			w.Header().Set("ETag", etag)
			if r.Header.Get("If-None-Match") == etag {
				w.WriteHeader(http.StatusNotModified)
				return
			}
		}
		if r.URL.Path == "/named" {
			w.Header().Set("Content-Disposition", `attachment; filename="../../evil"`)
		}
		io.WriteString(w, body)
	}))
	defer server.Close()
	e := newEnv(t)
	e.HTTP = server.Client()
	get := func(path string, attrs map[string]string) (solver.Key, []string, error) {
		t.Helper()
		asked = nil
		e.got = onces[digest.Digest, download]{} // another build
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: server.URL + path, Attrs: attrs}}}, 0))
		if err != nil {
			return solver.Key{}, nil, err
		}
		k, err := op.Key(t.Context())
		if err != nil {
			return k, nil, err
		}
		out, err := op.Run(t.Context(), console(), nil)
		if err != nil {
			return k, nil, err
		}
		v, err := e.View(t.Context(), console(), out[0])
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if fi, err := v.Dir.Stat(strings.Fields(list(t, v.Dir)[0])[2]); err != nil || fi.ModTime().UTC().Format(http.TimeFormat) != modified {
			t.Errorf("%s: time %v, %v", path, fi.ModTime(), err)
		}
		return k, list(t, v.Dir), nil
	}
	for _, c := range []struct {
		name  string
		path  string
		attrs map[string]string
		want  string
		asked string
		err   func(error) bool
	}{
		{"a file", "/f", nil, "f600 0:0 /f one", "GET", nil},
		{"again: it is asked for, not sent", "/f", nil, "f600 0:0 /f one", "HEAD", nil},
		{"name, mode and owner", "/f", map[string]string{pb.AttrHTTPFilename: "n", pb.AttrHTTPPerm: "0644", pb.AttrHTTPUID: "5", pb.AttrHTTPGID: "6"}, "f644 5:6 /n one", "GET", nil},
		{"a name the server gives, made safe", "/named", nil, "f600 0:0 /evil one", "GET", nil},
		{"a URL without a name", "/", nil, "f600 0:0 /download one", "GET", nil},
		{"a checksum", "/sum", map[string]string{pb.AttrHTTPChecksum: digest.FromString("one").String()}, "f600 0:0 /sum one", "GET", nil},
		{"a checksum of another kind", "/sum5", map[string]string{pb.AttrHTTPChecksum: digest.SHA512.FromString("one").String()}, "f600 0:0 /sum5 one", "GET", nil},
		{"a wrong checksum", "/wrong", map[string]string{pb.AttrHTTPChecksum: digest.FromString("two").String()}, "", "GET", errdefs.IsDataLoss},
		{"nothing there", "/missing", nil, "", "GET", errdefs.IsNotFound},
		{"not allowed", "/private", nil, "", "GET", errdefs.IsPermissionDenied},
		{"signatures", "/f", map[string]string{pb.AttrHTTPSignatureVerify: "x"}, "", "", errdefs.IsNotImplemented},
	} {
		_, got, err := get(c.path, c.attrs)
		if c.err != nil {
			if !c.err(err) {
				t.Errorf("%s: got %v", c.name, err)
			}
		} else if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
		if s := strings.Join(asked, " "); s != c.asked {
			t.Errorf("%s: asked %q, want %q", c.name, s, c.asked)
		}
	}
	e.Secrets = secretMap{"HTTP_AUTH_TOKEN_127.0.0.1": "token"}
	if _, _, err := get("/private", nil); err != nil {
		t.Errorf("with a token: %v", err)
	}
	one, _, _ := get("/f", nil)
	body, etag = "two", `"2"`
	two, got, err := get("/f", nil)
	if err != nil || got[0] != "f600 0:0 /f two" || two.Digest == one.Digest {
		t.Errorf("a new version: %q, %v, the same key %v", got, err, two.Digest == one.Digest)
	}
}

// TestHTTPOnce: in one build a URL has one content, however often it is asked for.
func TestHTTPOnce(t *testing.T) {
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		fmt.Fprint(w, "version ", asked)
	}))
	defer server.Close()
	e := newEnv(t)
	e.HTTP = server.Client()
	key := func(attrs map[string]string) (solver.Key, error) {
		t.Helper()
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: server.URL + "/f", Attrs: attrs}}}, 0))
		if err != nil {
			t.Fatal(err)
		}
		k, err := op.Key(t.Context())
		if err == nil {
			_, err = op.Run(t.Context(), console(), nil)
		}
		return k, err
	}
	one, err := key(nil)
	if err != nil {
		t.Fatal(err)
	}
	if two, err := key(nil); err != nil || two.Digest != one.Digest || asked != 1 {
		t.Errorf("another key: %v, %v, asked %d times", two.Digest != one.Digest, err, asked)
	}
	if _, err := key(map[string]string{pb.AttrHTTPChecksum: digest.FromString("version 1").String()}); err != nil || asked != 1 {
		t.Errorf("its checksum: %v, asked %d times", err, asked)
	}
	if _, err := key(map[string]string{pb.AttrHTTPChecksum: digest.FromString("version 2").String()}); !errdefs.IsDataLoss(err) {
		t.Errorf("another checksum: %v", err)
	}
}

// A server that goes silent, before its answer or within, does not hold a build up for ever.
func TestSilentServers(t *testing.T) {
	e := newEnv(t)
	synctest.Test(t, func(t *testing.T) { silentServers(t, e) })
}

func silentServers(t *testing.T, e *Env) {
	stop := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/within":
			io.WriteString(w, "a")
			http.NewResponseController(w).Flush()
			<-stop
		case "/slow":
			for range 10 {
				io.WriteString(w, "a")
				http.NewResponseController(w).Flush()
				time.Sleep(httpPatience / 2)
			}
		default:
			<-stop
		}
	})}
	l := make(pipeListener)
	go server.Serve(l)
	defer server.Close()
	defer close(stop)
	transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		l <- there
		return here, nil
	}}
	defer transport.CloseIdleConnections()
	e.HTTP = &http.Client{Transport: transport}
	for path, want := range map[string]error{"/": errdefs.ErrUnavailable, "/within": errdefs.ErrUnavailable, "/slow": nil} {
		o, err := e.httpOp("http://silent.example"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := o.Key(t.Context()); !errors.Is(err, want) || errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want %v", path, err, want)
		}
	}
}

// pipeListener is a listener whose connections are pipes: nothing of them is in a kernel, so that time can be made up.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}

func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// A server does not choose what of this machine's cloud is read.
func TestRedirectsToTheCloudsSecrets(t *testing.T) {
	for from, to := range map[string]string{
		"http://example.com/x": "http://169.254.169.254/latest", "https://example.com/x": "http://[fe80::1]/", "http://10.0.0.1/": "http://[::ffff:169.254.169.254]/",
	} {
		first, _ := http.NewRequest("GET", from, nil)
		next, _ := http.NewRequest("GET", to, nil)
		if err := redirected(next, []*http.Request{first}); !errdefs.IsPermissionDenied(err) {
			t.Errorf("from %s to %s: %v", from, to, err)
		}
		if err := redirected(first, []*http.Request{next}); err != nil {
			t.Errorf("from %s to %s: %v", to, from, err)
		}
	}
	elsewhere := httptest.NewServer(http.RedirectHandler("http://169.254.169.254/", http.StatusFound))
	defer elsewhere.Close()
	o, err := newEnv(t).httpOp(elsewhere.URL+"/x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.Key(t.Context()); !errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v, want an errdefs.ErrPermissionDenied", err)
	}
}

func TestURLsInErrorsHoldNoPasswords(t *testing.T) {
	e := newEnv(t)
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "http://user:hunter2@127.0.0.1:1/f"}}}, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.Key(t.Context()); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// A fakeRepo is a registry with one repository; it counts what is fetched.
type fakeRepo struct {
	*content.Store
	tags    map[string]ocispec.Descriptor
	fetched map[digest.Digest]int
}

func (r *fakeRepo) Resolve(_ context.Context, name string) (ocispec.Descriptor, error) {
	if d, ok := r.tags[name]; ok {
		return d, nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("tag %s: %w", name, errdefs.ErrNotFound)
}

func (r *fakeRepo) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r.fetched[d.Digest]++
	return r.Store.Fetch(ctx, d)
}

// newRepo returns a repository with an image of two layers under the tag "1".
func newRepo(t *testing.T) *fakeRepo {
	t.Helper()
	s, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	r := &fakeRepo{Store: s, tags: map[string]ocispec.Descriptor{}, fetched: map[digest.Digest]int{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	cfg := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, name := range []string{"one", "two"} {
		plain := tarOf(t, tar.Header{Name: name, Mode: 0o644, Size: 1}, "x")
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		w.Write(plain)
		w.Close()
		m.Layers = append(m.Layers, r.push(t, ocispec.MediaTypeImageLayerGzip, z.Bytes()))
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, digest.FromBytes(plain))
	}
	m.Config = r.pushJSON(t, ocispec.MediaTypeImageConfig, cfg)
	r.tags["1"] = r.pushJSON(t, ocispec.MediaTypeImageManifest, m)
	return r
}

func (r *fakeRepo) push(t *testing.T, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := r.Store.Push(t.Context(), d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (r *fakeRepo) pushJSON(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return r.push(t, mediaType, b)
}

// tarOf makes a tar of headers, each followed by the text for it.
func tarOf(t *testing.T, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		var err error
		switch e := e.(type) {
		case tar.Header:
			err = w.WriteHeader(&e)
		case string:
			_, err = io.WriteString(w, e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestImageIsPulledWhenItsBytesAreNeeded(t *testing.T) {
	e := newEnv(t)
	repo := newRepo(t)
	e.Registry = func(reference.Named) (Repository, error) { return repo, nil }
	m := repo.tags["1"]
	out := sourceOf(t, e, "docker-image://example.com/app:1", nil)
	if len(out.Layers) != 2 || out.Layers[0].Origin.Ref != "example.com/app:1" || out.Layers[0].Blob == nil {
		t.Fatalf("got %+v", out)
	}
	if n := repo.fetched[out.Layers[0].Blob.Digest]; n != 0 {
		t.Errorf("a layer was fetched %d times before anybody wanted it", n)
	}
	if ok, err := e.available(out); !ok || err != nil {
		t.Errorf("available: %v, %v", ok, err)
	}
	wantContents(t, e, out, "f644 0:0 /one x", "f644 0:0 /two x")
	wantContents(t, e, out, "f644 0:0 /one x", "f644 0:0 /two x")
	for _, l := range out.Layers {
		if n := repo.fetched[l.Blob.Digest]; n != 1 {
			t.Errorf("layer %s was fetched %d times, want 1", l.Blob.Digest, n)
		}
	}
	if n := repo.fetched[m.Digest]; n != 1 {
		t.Errorf("the manifest was fetched %d times, want 1", n)
	}
	// By its digest it is found here, without the registry.
	e.Registry = nil
	byDigest := sourceOf(t, e, "docker-image://example.com/app@"+m.Digest.String(), nil)
	wantContents(t, e, byDigest, "f644 0:0 /one x", "f644 0:0 /two x")
	limited := sourceOf(t, e, "docker-image://example.com/app@"+m.Digest.String(), map[string]string{pb.AttrImageLayerLimit: "1"})
	wantContents(t, e, limited, "f644 0:0 /one x")
}

func TestImageKeys(t *testing.T) {
	e := newEnv(t)
	repo := newRepo(t)
	e.Registry = func(reference.Named) (Repository, error) { return repo, nil }
	repo.tags["same"] = repo.tags["1"]
	var m ocispec.Manifest
	data, err := content.ReadAll(t.Context(), repo.Store, repo.tags["1"])
	if err == nil {
		err = json.Unmarshal(data, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	m.Annotations = map[string]string{"another": "manifest"}
	repo.tags["rebuilt"] = repo.pushJSON(t, ocispec.MediaTypeImageManifest, m)
	key := func(ref string, attrs map[string]string) (solver.Key, error) {
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://" + ref, Attrs: attrs}}}, 0))
		if err != nil {
			t.Fatal(err)
		}
		return op.Key(t.Context())
	}
	one, err := key("example.com/app:1", nil)
	if err != nil || !one.Live {
		t.Fatal(one, err)
	}
	for _, ref := range []string{"example.com/app:same", "example.com/app:rebuilt"} {
		if k, err := key(ref, nil); err != nil || k.Digest != one.Digest {
			t.Errorf("%s has the same layers: %v, %v", ref, k, err)
		}
	}
	if k, err := key("example.com/app:1", map[string]string{pb.AttrImageLayerLimit: "1"}); err != nil || k.Digest == one.Digest {
		t.Errorf("with one layer: %v, %v", k, err)
	}
	for name, attrs := range map[string]map[string]string{
		"layer limit": {pb.AttrImageLayerLimit: "3"},
		"no layers":   {pb.AttrImageLayerLimit: "0"},
		"checksum":    {pb.AttrImageChecksum: digest.FromString("x").String()},
	} {
		if _, err := key("example.com/app:1", attrs); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := key("example.com/app:none", nil); !errdefs.IsNotFound(err) {
		t.Errorf("missing tag: %v", err)
	}
	if _, err := key("a//b", nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad name: %v", err)
	}
}

func TestResolveModes(t *testing.T) {
	local, remote := newRepo(t), newRepo(t)
	cfg := remote.pushJSON(t, ocispec.MediaTypeImageConfig, ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, Author: "remote"})
	remote.tags["1"] = remote.pushJSON(t, ocispec.MediaTypeImageManifest, ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: cfg})
	here, there := local.tags["1"].Digest, remote.tags["1"].Digest
	for _, c := range []struct {
		mode ResolveMode
		want digest.Digest
	}{{ResolveDefault, here}, {"", here}, {ResolveLocal, here}, {ResolvePull, there}} {
		e := newEnv(t)
		if err := content.Copy(t.Context(), e.Store.Content, local.Store, local.tags["1"], content.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := e.Store.Images.Put(t.Context(), image.Image{Name: "example.com/app:1", Target: local.tags["1"], Created: time.Now()}); err != nil {
			t.Fatal(err)
		}
		e.Registry = func(reference.Named) (Repository, error) { return remote, nil }
		img, err := e.ResolveImage(t.Context(), "example.com/app:1", c.mode, ocispec.Platform{OS: "linux", Architecture: "amd64"})
		if err != nil || img.Target.Digest != c.want {
			t.Errorf("%q: got %s, %v, want %s", c.mode, img.Target.Digest, err, c.want)
		}
	}
}

// TestResolveID: a base may be named by its ID, as docker's classic builder has it.
func TestResolveID(t *testing.T) {
	local, e := newRepo(t), newEnv(t)
	linux := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	if err := content.Copy(t.Context(), e.Store.Content, local.Store, local.tags["1"], content.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := e.Store.Images.Put(t.Context(), image.Image{Name: "example.com/app:1", Target: local.tags["1"], Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
	img, err := e.ResolveImage(t.Context(), "example.com/app:1", ResolveDefault, linux)
	if err != nil {
		t.Fatal(err)
	}
	id := img.Manifest.Config.Digest
	e.Registry = func(reference.Named) (Repository, error) { return nil, errdefs.ErrUnavailable }
	for _, ref := range []string{id.Encoded()[:12], id.Encoded()[:40], id.String()} {
		if img, err := e.ResolveImage(t.Context(), ref, ResolveDefault, linux); err != nil || img.Target.Digest != local.tags["1"].Digest {
			t.Errorf("%s: %s, %v", ref, img.Target.Digest, err)
		}
	}
	for _, ref := range []string{id.Encoded()[:6], id.Encoded()[:12] + ":1", "user/" + id.Encoded()[:12], "example.com/" + id.Encoded()[:12]} {
		if _, err := e.ResolveImage(t.Context(), ref, ResolveDefault, linux); !errdefs.IsUnavailable(err) {
			t.Errorf("%s: the registry was not asked: %v", ref, err)
		}
	}
}

func TestOCILayout(t *testing.T) {
	e := newEnv(t)
	repo := newRepo(t)
	dir := filepath.Dir(filepath.Dir(filepath.Dir(repo.Path(repo.tags["1"].Digest))))
	e.OCILayouts = map[string]string{"store": dir}
	out := sourceOf(t, e, "oci-layout://any@"+repo.tags["1"].Digest.String(), map[string]string{pb.AttrOCILayoutStoreID: "store"})
	wantContents(t, e, out, "f644 0:0 /one x", "f644 0:0 /two x")
}

// TestOnlyMetadata: what teu does not do of a directory is refused, as the files would have content that nobody asked for.
func TestOnlyMetadata(t *testing.T) {
	e := newEnv(t)
	src := &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{pb.AttrMetadataTransfer: "true"}}
	if _, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: src}}, 0)); !errdefs.IsNotImplemented(err) {
		t.Errorf("got %v", err)
	}
}

func TestUnknownSources(t *testing.T) {
	e := newEnv(t)
	for _, id := range []string{"git://github.com/a/b.git", "docker-image+blob://x", "nothing", "local://unknown", "oci-layout://x@y"} {
		op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}}, 0))
		if err == nil {
			_, err = op.Key(t.Context())
		}
		if err == nil {
			_, err = op.Run(t.Context(), console(), nil)
		}
		if err == nil {
			t.Errorf("%s: accepted", id)
		}
	}
}

func TestUnpack(t *testing.T) {
	plain := tarOf(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750, Uid: 3, Gid: 4, ModTime: longAgo}, tar.Header{Name: "d/f", Mode: 0o640, Uid: 3, Gid: 4, Size: 1, ModTime: longAgo}, "F",
		tar.Header{Name: "d/h", Typeflag: tar.TypeLink, Linkname: "d/f"}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/d", Uid: 3, Gid: 4},
		tar.Header{Name: "deep/er/x", Mode: 0o600, Size: 1}, "X", tar.Header{Name: ".wh.name", Mode: 0o600})
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(plain)
	w.Close()
	files := []string{"f600 0:0 /o/.wh.name", "d750 3:4 /o/d", "f640 3:4 /o/d/f F", "f640 3:4 /o/d/h F", "d755 0:0 /o/deep", "d755 0:0 /o/deep/er", "f600 0:0 /o/deep/er/x X", "l 3:4 /o/l /d"}
	owned := func(o string) (out []string) {
		for _, f := range files {
			if !strings.Contains(f, " /o/deep ") && !strings.HasSuffix(f, "/o/deep") && !strings.HasSuffix(f, "/er") {
				f = strings.Replace(strings.Replace(f, "3:4", o, 1), "0:0", o, 1)
			}
			out = append(out, f)
		}
		return out
	}
	for _, c := range []struct {
		name string
		data []byte
		copy *pb.FileActionCopy
		want []string
	}{
		{"plain", plain, &pb.FileActionCopy{}, append([]string{"d755 0:0 /o"}, files...)},
		{"gzip", z.Bytes(), &pb.FileActionCopy{}, append([]string{"d755 0:0 /o"}, files...)},
		{"bzip2", compressed(t, "bzip2", plain), &pb.FileActionCopy{}, append([]string{"d755 0:0 /o"}, files...)},
		{"xz", compressed(t, "xz", plain), &pb.FileActionCopy{}, append([]string{"d755 0:0 /o"}, files...)},
		{"an owner holds, a mode does not", plain, &pb.FileActionCopy{Owner: byID(9), Mode: 0o777}, append([]string{"d755 9:9 /o"}, owned("9:9")...)},
		{"no archive", []byte("text that is long enough to be looked at"), &pb.FileActionCopy{}, []string{"d755 0:0 /o", "f644 0:0 /o/a text that is long enough to be looked at"}},
		{"an empty file", nil, &pb.FileActionCopy{}, []string{"d755 0:0 /o", "f644 0:0 /o/a"}},
		{"zeros", make([]byte, 1024), &pb.FileActionCopy{}, []string{"d755 0:0 /o", "f644 0:0 /o/a (1024 bytes)"}},
		{"cut gzip that begins like an archive is an error or a file", z.Bytes()[:20], &pb.FileActionCopy{}, []string{"d755 0:0 /o", "f644 0:0 /o/a " + string(z.Bytes()[:20])}},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			if c.data == nil && c.name != "an empty file" {
				t.Skip("the program for it is not installed")
			}
			m, err := e.prepare(t.Context(), console(), Result{})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(m.snap.Upper, "a"), c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			src, err := m.commit(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a := copyFlags(c.copy)
			a.Src, a.Dest, a.AttemptUnpackDockerCompatibility = "/a", "/o/", true
			got, err := perform(t, e, action(a), Result{}, src)
			if err != nil {
				t.Fatal(err)
			}
			wantContents(t, e, got, c.want...)
		})
	}
}

// compressed returns data compressed by a program, nil if it is not there.
func compressed(t *testing.T, program string, data []byte) []byte {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		return nil
	}
	cmd := exec.Command(path, "-c")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if program == "bzip2" {
		if back, err := io.ReadAll(bzip2.NewReader(bytes.NewReader(out))); err != nil || !bytes.Equal(back, data) {
			t.Fatal("bzip2 does not give back what it got")
		}
	}
	return out
}

// TestHostileArchives: an ADD never writes outside of its destination.
func TestHostileArchives(t *testing.T) {
	host := t.TempDir()
	sentinel := filepath.Join(host, "sentinel")
	up := strings.Repeat("../", 40)
	file := func(name string) []any { return []any{tar.Header{Name: name, Mode: 0o600, Size: 4}, "evil"} }
	link := func(name, to string) []any {
		return []any{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}}
	}
	for name, entries := range map[string][]any{
		"dots":                    file(up + host + "/sentinel"),
		"absolute":                file(host + "/sentinel"),
		"through a link":          append(link("l", host), file("l/sentinel")...),
		"through a relative link": append(link("l", up+host), file("l/sentinel")...),
		"over a link":             append(link("l", sentinel), file("l")...),
		"hard link upwards":       {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: up + host + "/sentinel"}},
		"hard link absolute":      {tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: sentinel}},
		"hard link through link":  append(link("l", host), tar.Header{Name: "h", Typeflag: tar.TypeLink, Linkname: "l/sentinel"}),
		"directory over a link":   append(link("l", host), tar.Header{Name: "l/new/", Typeflag: tar.TypeDir, Mode: 0o777}),
		"whiteout device":         {tar.Header{Name: "w", Typeflag: tar.TypeChar}},
		"opaque attribute": {tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755,
			PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}}},
		"file over the root": {tar.Header{Name: "./", Mode: 0o600, Typeflag: tar.TypeSymlink, Linkname: host}},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnv(t)
			if err := os.WriteFile(sentinel, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			m, err := e.prepare(t.Context(), console(), Result{})
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(m.snap.Upper, "a"), tarOf(t, entries...), 0o644); err != nil {
				t.Fatal(err)
			}
			src, err := m.commit(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			a := copyFlags(&pb.FileActionCopy{Src: "/a", Dest: "/o/"})
			a.AttemptUnpackDockerCompatibility = true
			base := state(t, e, "f644 0:0 /o/d/below x")
			got, err := perform(t, e, action(a), base, src)
			t.Logf("it says: %v", err)
			entries, rerr := os.ReadDir(host)
			if rerr != nil || len(entries) != 1 {
				t.Errorf("the host's directory has %d entries, %v", len(entries), rerr)
			}
			if data, err := os.ReadFile(sentinel); string(data) != "secret" {
				t.Errorf("the sentinel is %q, %v", data, err)
			}
			if err != nil {
				return
			}
			seen := false
			for _, line := range contents(t, e, got) {
				seen = seen || line == "f644 0:0 /o/d/below x"
			}
			if !seen {
				t.Error("the archive hid a file below")
			}
		})
	}
}

// A sparse file in an archive costs its writer nothing, whatever size it claims.
func TestHugeFileInAnArchive(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	err = writeNew(t.Context(), dir, "f", &tar.Header{Name: "f", Size: 1<<40 + 1}, strings.NewReader(""))
	if !errdefs.IsResourceExhausted(err) {
		t.Errorf("got %v, want an errdefs.ErrResourceExhausted", err)
	}
	if _, err := os.Lstat(filepath.Join(dir.Name(), "f")); !os.IsNotExist(err) {
		t.Errorf("the file is there: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add([]byte{})
	f.Add(make([]byte, 1024))
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	w.WriteHeader(&tar.Header{Name: "a/../b", Mode: 0o600, Size: 1})
	w.Write([]byte("x"))
	w.WriteHeader(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc"})
	w.WriteHeader(&tar.Header{Name: "l/x", Mode: 0o600})
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		root := t.TempDir()
		in, out := filepath.Join(root, "in"), filepath.Join(root, "out")
		for _, d := range []string{in, out} {
			if err := os.Mkdir(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(in, "a"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		src, err := openSource(in)
		if err != nil {
			t.Fatal(err)
		}
		defer src.Close()
		dst, err := openSource(out)
		if err != nil {
			t.Fatal(err)
		}
		defer dst.Close()
		uid := owner{os.Geteuid(), os.Getegid()}
		unpack(t.Context(), src, "/a", dst.Dir, "/x", copyOptions{owner: &uid, warn: func(string, ...any) {}})
		entries, err := os.ReadDir(root)
		if err != nil || len(entries) != 2 {
			t.Fatalf("%d entries beside the tree, %v", len(entries)-2, err)
		}
		if entries, err = os.ReadDir(in); err != nil || len(entries) != 1 {
			t.Fatalf("%d entries in the source, %v", len(entries), err)
		}
	})
}

func TestMergeAndDiff(t *testing.T) {
	e := newEnv(t)
	a, b := state(t, e, "f644 0:0 /a A", "f644 0:0 /both a"), state(t, e, "f644 0:0 /b B", "f644 0:0 /both b")
	merge := &mergeOp{&pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}, {Input: 1}}}}
	out, err := merge.Run(t.Context(), console(), []Result{a, b})
	if err != nil {
		t.Fatal(err)
	}
	wantContents(t, e, out[0], "f644 0:0 /a A", "f644 0:0 /b B", "f644 0:0 /both b")
	diff := func(lower, upper int64) *diffOp {
		return &diffOp{e, &pb.DiffOp{Lower: &pb.LowerDiffInput{Input: lower}, Upper: &pb.UpperDiffInput{Input: upper}}}
	}
	got, err := diff(0, 1).Run(t.Context(), console(), []Result{a, out[0]})
	if err != nil || len(got[0].Layers) != 1 || got[0].Layers[0].ID != b.Layers[0].ID {
		t.Errorf("diff: %+v, %v", got, err)
	}
	pass := &passthroughOp{&pb.PassthroughOp{Outputs: []int64{1, 0}}}
	if got, err := pass.Run(t.Context(), console(), []Result{a, b}); err != nil || len(got) != 2 || got[0].Layers[0].ID != b.Layers[0].ID || got[1].Layers[0].ID != a.Layers[0].ID {
		t.Errorf("passed through: %+v, %v", got, err)
	}
	if got, err := pass.Run(t.Context(), console(), []Result{a}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an input that is not there: %+v, %v", got, err)
	}
	if got, err := diff(-1, 0).Run(t.Context(), console(), []Result{a}); err != nil || len(got[0].Layers) != 1 {
		t.Errorf("diff with nothing: %+v, %v", got, err)
	}
	if _, err := diff(0, 1).Run(t.Context(), console(), []Result{a, b}); !errdefs.IsNotImplemented(err) {
		t.Errorf("diff of strangers: %v", err)
	}
	twice := a
	for i := 0; err == nil && i < 20; i++ { // each has twice the layers
		if out, err = merge.Run(t.Context(), console(), []Result{twice, twice}); err == nil {
			twice = out[0]
		}
	}
	if !errdefs.IsInvalidArgument(err) || len(twice.Layers) > layer.MaxStack {
		t.Errorf("%d layers, %v", len(twice.Layers), err)
	}
}
