package transfer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/test/privilege"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]string{
		"debian":                      "docker debian:latest",
		"docker://debian:13":          "docker debian:13",
		"localhost:5000/a":            "docker localhost:5000/a:latest",
		"oci:dir":                     "oci dir ",
		"oci:dir:v1":                  "oci dir v1",
		"oci:/a/b:team/app:v1":        "oci /a/b team/app:v1",
		"oci:dir@" + dgst("x"):        "oci dir " + dgst("x"),
		"oci-archive:f.tar":           "oci-archive f.tar ",
		"docker-archive:f.tar:app":    "docker-archive f.tar docker.io/library/app:latest",
		"docker-archive:f.tar:app:v1": "docker-archive f.tar docker.io/library/app:v1",
		"docker-archive:-":            "docker-archive - ",
		"oci:":                        "", "Bad": "", "": "", "docker-archive:f:BAD": "", "docker://": "",
	} {
		p, err := Parse(in)
		got := string(p.Kind) + " " + p.Path + " " + p.Name
		if p.Kind == Registry {
			got = "docker " + p.String()
		}
		if want == "" && !errdefs.IsInvalidArgument(err) || want != "" && (err != nil || got != want) {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
		if err != nil {
			continue
		}
		if again, err := Parse(p.String()); err != nil || again.String() != p.String() {
			t.Errorf("%q: reading %q again: %v, %v", in, p, again, err)
		}
	}
}

func dgst(s string) string { return digest.FromString(s).String() }

// serve runs a registry; with referrers it has their API.
func serve(t *testing.T, referrers bool) string {
	t.Helper()
	options := []ggcr.Option{ggcr.Logger(log.New(io.Discard, "", 0))}
	if referrers {
		options = append(options, ggcr.WithReferrersSupport(true))
	}
	s := httptest.NewServer(ggcr.New(options...))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

func client() *registry.Client { return registry.New(registry.Options{}) }

func parse(t *testing.T, s string) Place {
	t.Helper()
	p, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// maker pushes documents to a repository.
type maker struct {
	t    *testing.T
	repo *registry.Repository
}

func (m maker) blob(mediaType string, data []byte) ocispec.Descriptor {
	m.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := m.repo.Push(m.t.Context(), d, bytes.NewReader(data)); err != nil {
		m.t.Fatal(err)
	}
	return d
}

func (m maker) document(mediaType string, v any) ocispec.Descriptor {
	m.t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.blob(mediaType, data)
}

// image pushes an image for an architecture with a layer that says text.
func (m maker) image(architecture, text string) ocispec.Descriptor {
	p := ocispec.Platform{OS: "linux", Architecture: architecture}
	d := m.document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: m.document(ocispec.MediaTypeImageConfig, ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromString(text)}}}),
		Layers: []ocispec.Descriptor{m.blob(ocispec.MediaTypeImageLayer, []byte(text))},
	})
	d.Platform = &p
	return d
}

// signature pushes an artifact about subject.
func (m maker) signature(subject ocispec.Descriptor, text string) ocispec.Descriptor {
	subject.Platform = nil
	return m.document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/example", Config: m.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []ocispec.Descriptor{m.blob("text/plain", []byte(text))}, Subject: &subject,
	})
}

// world is an index of two platforms with signatures of it, of one of its images and of a signature.
type world struct {
	host      string
	root      ocispec.Descriptor
	image     ocispec.Descriptor // for this machine
	referring map[digest.Digest][]digest.Digest
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{host: serve(t, true)}
	repo, err := client().Repository(parse(t, w.host+"/app:v1").Ref)
	if err != nil {
		t.Fatal(err)
	}
	m := maker{t, repo}
	w.image = m.image(content.Host().Architecture, "for us")
	other := m.image("mips64le", "for others")
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{other, w.image}}
	w.root = m.document(index.MediaType, index)
	data, err := json.Marshal(index)
	if err == nil {
		err = repo.Tag(t.Context(), w.root, "v1", data)
	}
	if err != nil {
		t.Fatal(err)
	}
	ofIndex := m.signature(w.root, "of the index")
	w.referring = map[digest.Digest][]digest.Digest{
		w.root.Digest:  {ofIndex.Digest},
		w.image.Digest: {m.signature(w.image, "of the image").Digest},
		ofIndex.Digest: {m.signature(ofIndex, "of the signature").Digest},
	}
	return w
}

// expect looks at a place: everything behind root is there, and so is what refers to it.
func (w world) expect(t *testing.T, place string, root digest.Digest, referrers bool) {
	t.Helper()
	src, err := openSource(t.Context(), client(), parse(t, place))
	if err != nil {
		t.Fatal(err)
	}
	defer src.close()
	got, err := src.resolve(t.Context())
	if err != nil || got.Digest != root {
		t.Errorf("%s is %s, %v, want %s", place, got.Digest, err, root)
		return
	}
	if err := content.Copy(t.Context(), sink{}, src, got, content.CopyOptions{}); err != nil {
		t.Errorf("%s is not whole: %v", place, err)
	}
	for d, want := range w.referring {
		list, err := src.referrers(t.Context(), ocispec.Descriptor{Digest: d})
		var have []digest.Digest
		for _, r := range list {
			have = append(have, r.Digest)
		}
		if !referrers {
			want = nil
		}
		if diff := cmp.Diff(want, have); err != nil || diff != "" {
			t.Errorf("%s: referrers of %s: %v %s", place, d, err, diff)
		}
	}
}

// sink reads everything.
type sink struct{}

func (sink) Exists(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }
func (sink) Push(_ context.Context, _ ocispec.Descriptor, r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// TestCopyAll copies from each kind of place to each other.
func TestCopyAll(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	places := []string{
		w.host + "/app:v1", "oci:" + filepath.Join(dir, "layout") + ":one", "oci-archive:" + filepath.Join(dir, "oci.tar") + ":two",
		serve(t, false) + "/no/api:v2", "docker-archive:" + filepath.Join(dir, "docker.tar") + ":app:three", "oci:" + filepath.Join(dir, "other"), "oci-archive:" + filepath.Join(dir, "other.tar"),
		serve(t, true) + "/last",
	}
	for i, place := range places[1:] {
		for range 2 { // again is no different
			got, err := Copy(t.Context(), client(), parse(t, place), parse(t, places[i]), Options{All: true})
			if err != nil || got.Digest != w.root.Digest {
				t.Fatalf("from %s to %s: %s, %v", places[i], place, got.Digest, err)
			}
		}
		w.expect(t, place, w.root.Digest, true)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*/ingest")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCopyTogether: several write to one new layout, and none is in the others' way.
func TestCopyTogether(t *testing.T) {
	w := newWorld(t)
	for range 5 {
		dir := filepath.Join(t.TempDir(), "layout")
		var all errgroup.Group
		for i := range 8 {
			all.Go(func() error {
				_, err := Copy(t.Context(), client(), parse(t, fmt.Sprintf("oci:%s:n%d", dir, i)), parse(t, w.host+"/app:v1"), Options{All: true})
				return err
			})
		}
		if err := all.Wait(); err != nil {
			t.Fatal(err)
		}
		for i := range 8 {
			w.expect(t, fmt.Sprintf("oci:%s:n%d", dir, i), w.root.Digest, true)
		}
		if _, err := os.Stat(filepath.Join(dir, "ingest")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the last has left ingest: %v", err)
		}
	}
}

// TestPeersRead has skopeo read what Copy writes, and Copy what skopeo writes.
func TestPeersRead(t *testing.T) {
	privilege.NeedRoot(t) // skopeo is there
	w := newWorld(t)
	dir := t.TempDir()
	for i, place := range []string{"oci:" + dir + "/layout:one", "oci-archive:" + dir + "/oci.tar:two", "docker-archive:" + dir + "/docker.tar:app:three"} {
		if _, err := Copy(t.Context(), client(), parse(t, place), parse(t, w.host+"/app:v1"), Options{}); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("skopeo", "inspect", "--config", "--raw", place).CombinedOutput(); err != nil || !strings.Contains(string(out), dgst("for us")) {
			t.Errorf("%s: skopeo reads %s, %v", place, out, err)
		}
		theirs := fmt.Sprintf("oci:%s/theirs%d:x", dir, i)
		if out, err := exec.Command("skopeo", "--insecure-policy", "copy", place, theirs).CombinedOutput(); err != nil {
			t.Errorf("skopeo: %v: %s", err, out)
		}
		if _, err := Copy(t.Context(), client(), parse(t, w.host+"/back"), parse(t, theirs), Options{}); err != nil {
			t.Error(err)
		}
	}
}

func TestCopyOnePlatform(t *testing.T) {
	w := newWorld(t)
	dst := "oci:" + filepath.Join(t.TempDir(), "layout")
	got, err := Copy(t.Context(), client(), parse(t, dst+":us"), parse(t, w.host+"/app:v1"), Options{})
	if err != nil || got.Digest != w.image.Digest {
		t.Fatalf("%s, %v", got.Digest, err)
	}
	w.expect(t, dst+":us", w.image.Digest, false)
	other, err := Copy(t.Context(), client(), parse(t, dst+":them"), parse(t, w.host+"/app:v1"), Options{Platform: &ocispec.Platform{OS: "linux", Architecture: "mips64le"}})
	if err != nil || other.Digest == got.Digest {
		t.Errorf("another platform: %s, %v", other.Digest, err)
	}
	// A name moves, and an image has no more than its names.
	if _, err := Copy(t.Context(), client(), parse(t, dst+":us"), parse(t, dst+":them"), Options{}); err != nil {
		t.Fatal(err)
	}
	w.expect(t, dst+":us", other.Digest, false)
}

func TestCopyRefusals(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	full := filepath.Join(dir, "full")
	if err := os.MkdirAll(filepath.Join(full, "precious"), 0o755); err != nil {
		t.Fatal(err)
	}
	app := w.host + "/app:v1"
	missing := func(err error) bool { return errors.Is(err, fs.ErrNotExist) }
	for _, tt := range []struct {
		src, dst, text string
		is             func(error) bool
	}{
		{w.host + "/nope", "oci:" + dir + "/x", "not found", errdefs.IsNotFound},
		{"oci:" + dir + "/none", app, "no OCI image layout", missing},
		{"oci-archive:" + dir + "/none.tar", app, "none.tar", missing},
		{app, "oci:" + full, "neither empty nor", errdefs.IsFailedPrecondition},
		{app, w.host + "/app@" + dgst("other"), "the image is", errdefs.IsInvalidArgument},
	} {
		_, err := Copy(t.Context(), client(), parse(t, tt.dst), parse(t, tt.src), Options{})
		if err == nil || !strings.Contains(err.Error(), tt.text) || !tt.is(err) {
			t.Errorf("%s to %s: %v", tt.src, tt.dst, err)
		}
	}
	// What breaks in the middle leaves no archive.
	broken := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
		if strings.Contains(q.URL.Path, "/blobs/") {
			rw.WriteHeader(http.StatusForbidden)
			return
		}
		resp, err := http.Get("http://" + w.host + q.URL.Path)
		if err != nil {
			t.Error(err)
			return
		}
		defer resp.Body.Close()
		for k, v := range resp.Header {
			rw.Header()[k] = v
		}
		rw.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(rw, resp.Body)
	}))
	defer broken.Close()
	src := strings.TrimPrefix(broken.URL, "http://") + "/app:v1"
	if _, err := Copy(t.Context(), client(), parse(t, "docker-archive:"+dir+"/half.tar"), parse(t, src), Options{All: true}); err == nil {
		t.Error("a copy of blobs that are denied went well")
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*half*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".teu*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestCopyOfFIFOs: a layout with something that is no file in it is refused, and not waited for.
func TestCopyOfFIFOs(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"index.json", "blobs/sha256/" + digest.FromString("for us").Encoded()} {
		dir := t.TempDir()
		if _, err := Copy(t.Context(), client(), parse(t, "oci:"+dir+":v1"), parse(t, w.host+"/app:v1"), Options{}); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Remove(path), unix.Mkfifo(path, 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := Copy(t.Context(), client(), parse(t, "oci:"+t.TempDir()), parse(t, "oci:"+dir), Options{}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("from a FIFO %s: %v", name, err)
		}
	}
}

// Indexes that list one another many times are each asked about once.
func TestCopyAllOfIndexesThatListEachOther(t *testing.T) {
	w := newWorld(t)
	repo, err := client().Repository(parse(t, w.host+"/app:v1").Ref)
	if err != nil {
		t.Fatal(err)
	}
	m := maker{t, repo}
	root := w.image
	var data []byte
	for range 4 {
		index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: slices.Repeat([]ocispec.Descriptor{root}, 30)}
		root = m.document(index.MediaType, index)
		if data, err = json.Marshal(index); err != nil {
			t.Fatal(err)
		}
	}
	if err := repo.Tag(t.Context(), root, "deep", data); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	to := serve(t, true) + "/app:deep"
	if _, err := Copy(ctx, client(), parse(t, to), parse(t, w.host+"/app:deep"), Options{All: true}); err != nil {
		t.Fatal(err)
	}
	w.referring = map[digest.Digest][]digest.Digest{w.image.Digest: w.referring[w.image.Digest]}
	w.expect(t, to, root.Digest, true)
}
