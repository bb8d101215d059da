package build

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/distribution/reference"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/server/registry"
)

// loopback brings the loopback interface of the tests' network namespace up.
func loopback(t *testing.T) {
	t.Helper()
	if out, err := exec.Command("busybox", "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func serveRegistry(t *testing.T) string {
	t.Helper()
	loopback(t)
	reg, err := registry.New(registry.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(reg)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func TestPushAndBuildOnIt(t *testing.T) {
	host := serveRegistry(t)
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	pushed, _ := b.must(Options{Tags: []string{host + "/base:1", host + "/base:2"}, Push: true}, "FROM busybox", "COPY f /f", "ENV A=b")

	// An empty machine. The base image is fetched only because a step needs its files.
	other := newBench(t)
	res, _ := other.must(Options{}, "FROM "+host+"/base:1", "RUN cat /f > /g")
	img := other.image(res)
	if !slices.Contains(img.Config.Config.Env, "A=b") {
		t.Errorf("the environment is %q", img.Config.Config.Env)
	}
	was := b.image(pushed)
	if got, want := img.Manifest.Layers[1].Digest, was.Manifest.Layers[1].Digest; got != want {
		t.Errorf("the layer of the base became %s, it was %s", got, want)
	}
	if _, _, err := other.build(Options{Pull: true}, "FROM "+host+"/nowhere:1"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("a base that is not there: %v", err)
	}
}

// TestForms: each output of one build has its own form of the image, and so does what is pushed.
func TestForms(t *testing.T) {
	host := serveRegistry(t)
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	image := func(name string, form *Form) Output {
		return Output{Type: "image", Push: true, Names: []string{host + "/" + name + ":1"}, Form: form}
	}
	var stream bytes.Buffer
	res, _ := b.must(Options{Form: Form{Annotations: map[string]string{"all": "yes"}}, Outputs: []Output{
		image("zstd", &Form{Compression: "zstd", Annotations: map[string]string{"own": "too"}}),
		image("plain", nil),
		{Type: "tar", Writer: &stream},
		image("gzip", &Form{}),
	}}, "FROM scratch", "COPY f /f")
	if len(res.Targets) != 4 || res.Targets[1].Digest != res.Targets[3].Digest || res.Targets[0].Digest == res.Targets[1].Digest || res.Targets[2].Digest != "" || res.Target.Digest != res.Targets[3].Digest {
		t.Errorf("the outputs are %v, the result is %v", res.Targets, res.Target)
	}
	manifest := func(name string) (m ocispec.Manifest) {
		t.Helper()
		named, err := reference.ParseNormalizedNamed(host + "/" + name + ":1")
		if err != nil {
			t.Fatal(err)
		}
		repo, err := b.Registry.Repository(named)
		if err != nil {
			t.Fatal(err)
		}
		_, data, err := repo.Manifest(t.Context(), "1")
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for name, want := range map[string]string{"zstd": ocispec.MediaTypeImageLayerZstd, "plain": ocispec.MediaTypeImageLayerGzip, "gzip": ocispec.MediaTypeImageLayerGzip} {
		m := manifest(name)
		if m.Layers[0].MediaType != want || m.Annotations["all"] != "yes" || (m.Annotations["own"] == "too") != (name == "zstd") {
			t.Errorf("%s: %+v", name, m)
		}
	}
	b.must(Options{Outputs: []Output{image("docker", &Form{DockerTypes: true}), image("oci", &Form{})}}, "FROM scratch", "COPY f /f")
	if a, b := manifest("docker").MediaType, manifest("oci").MediaType; a != "application/vnd.docker.distribution.manifest.v2+json" || b != ocispec.MediaTypeImageManifest {
		t.Errorf("media types %s and %s", a, b)
	}
	// --push is of the image that stays, in its form.
	b.must(Options{Tags: []string{host + "/pushed:1"}, Push: true, Outputs: []Output{{Type: "image", Form: &Form{Compression: "zstd"}}}}, "FROM scratch", "COPY f /f")
	if m := manifest("pushed"); m.Layers[0].MediaType != ocispec.MediaTypeImageLayerZstd {
		t.Errorf("pushed: %+v", m)
	}
}

// The manifest and the config of a base that a full disk or a power loss damaged are fetched again, as its layers are.
func TestBaseWithDamagedDocuments(t *testing.T) {
	host := serveRegistry(t)
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	pushed, _ := b.must(Options{Tags: []string{host + "/base:1"}, Push: true}, "FROM busybox", "COPY f /f")
	m := b.image(pushed)
	other := newBench(t)
	other.must(Options{}, "FROM "+host+"/base:1", "RUN cat /f > /g")
	for _, d := range []ocispec.Descriptor{m.Descriptor, m.Manifest.Config} {
		path := other.Store.Content.Path(d.Digest)
		if err := os.WriteFile(path, bytes.Repeat([]byte{0}, int(d.Size)), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, _, err := other.build(Options{Pull: true, NoCache: true}, "FROM "+host+"/base:1", "RUN cat /f > /h"); err != nil {
			t.Errorf("%s damaged: %v", d.MediaType, err)
		}
	}
}

func TestOutputArchive(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	dest := filepath.Join(t.TempDir(), "image.tar")
	var stream bytes.Buffer
	b.must(Options{Tags: []string{"app"}, Outputs: []Output{{Type: "oci", Dest: dest}, {Type: "docker", Writer: &stream}}}, "FROM busybox", "COPY f /f")
	file, err := os.ReadFile(dest)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(file, stream.Bytes()) {
		t.Error("the two archives differ")
	}
	var names []string
	for r := tar.NewReader(&stream); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	for _, want := range []string{"index.json", "oci-layout", "manifest.json"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s among %q", want, names)
		}
	}
}

// TestBuildsShareWork: of two builds at once, as of two processes, one runs the step.
func TestBuildsShareWork(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"Dockerfile": "FROM busybox\nRUN --mount=type=cache,target=/c echo ran >> /c/log; sleep 1\nRUN echo 1\n"})
	again, err := cache.Open(b.Store.Root(), b.Store.RunRoot())
	if err != nil {
		t.Fatal(err)
	}
	second := *b.Builder
	second.Store = again
	var wg sync.WaitGroup
	for _, builder := range []*Builder{b.Builder, &second, b.Builder} {
		wg.Go(func() {
			if _, err := builder.Build(t.Context(), Options{Context: b.dir}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	_, l := b.must(Options{}, "FROM busybox", "RUN --mount=type=cache,target=/c cat /c/log")
	if got := strings.Count(l.output.String(), "ran"); got != 1 {
		t.Errorf("the step ran %d times", got)
	}
}

func TestPlatforms(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	host := content.Host()
	other := host
	other.Architecture = map[bool]string{true: "arm64", false: "amd64"}[host.Architecture == "amd64"]
	res, _ := b.must(Options{Platforms: []ocispec.Platform{host, other}}, "FROM scratch", "ARG TARGETARCH", "COPY f /$TARGETARCH")
	for _, p := range []ocispec.Platform{host, other} {
		target, err := b.Store.Portable(t.Context(), res.Target, ocispec.MediaTypeImageLayerGzip)
		if err != nil {
			t.Fatal(err)
		}
		img, err := content.Resolve(t.Context(), b.Store.Content, target, p)
		if err != nil {
			t.Fatal(err)
		}
		files := b.layer(img.Manifest.Layers[0])
		if img.Config.Architecture != p.Architecture || len(files) != 1 || !strings.HasPrefix(files[0], p.Architecture+" ") {
			t.Errorf("%s: got %s with %q", p.Architecture, img.Config.Architecture, files)
		}
	}
}

// TestNamedContexts replaces images and stages by directories, images and OCI layouts.
func TestNamedContexts(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"main/x": "", "other/f": "from a directory"})
	made, _ := b.must(Options{Tags: []string{"made"}}, "FROM scratch", "COPY other/f /layout")
	index := ocispec.Index{Manifests: []ocispec.Descriptor{made.Target}}
	layout := filepath.Dir(filepath.Dir(filepath.Dir(b.Store.Content.Path(made.Target.Digest))))
	if err := os.WriteFile(filepath.Join(layout, "index.json"), toJSON(t, index), 0o644); err != nil {
		t.Fatal(err)
	}
	res, _ := b.must(Options{Contexts: map[string]string{
		"dir":   b.dir + "/other",
		"alias": "docker-image://busybox",
		"oci":   "oci-layout://" + layout,
	}},
		"FROM alias", "COPY --from=dir f /dir", "COPY --from=oci /layout /oci")
	want := []string{"dir 644 0:0 from a directory", "oci 644 0:0 from a directory"}
	if got := b.files(res); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A layout or a cache that is only read may be somebody else's, or on a filesystem that is read-only.
func TestReadingLeavesNoFiles(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	var saved bytes.Buffer
	made, _ := b.must(Options{Outputs: []Output{{Type: "oci", Writer: &saved}}}, "FROM scratch", "COPY f /f")
	layout, keys := t.TempDir(), t.TempDir()
	untar(t, layout, &saved)
	b.must(Options{CacheTo: []CacheRef{{Type: "local", Args: map[string]string{"dest": keys}}}}, "FROM busybox", "RUN echo 1 >/x")
	for _, sub := range []string{"ingest", "blobs/sha512"} {
		if err := os.Remove(filepath.Join(keys, sub)); err != nil {
			t.Fatal(err)
		}
	}
	list := func() (names []string) {
		for _, dir := range []string{layout, keys} {
			err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
				names = append(names, path)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		return names
	}
	before := list()
	other := newBench(t)
	other.must(Options{
		Contexts:  map[string]string{"l": "oci-layout://" + layout + "@" + made.Target.Digest.String()},
		CacheFrom: []CacheRef{{Type: "local", Args: map[string]string{"src": keys}}},
	}, "FROM busybox", "COPY --from=l /f /f", "RUN echo 1 >/x")
	if diff := cmp.Diff(before, list()); diff != "" {
		t.Error(diff)
	}
}

func untar(t *testing.T, dir string, r io.Reader) {
	t.Helper()
	cmd := exec.Command("tar", "-xC", dir)
	cmd.Stdin = r
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}
