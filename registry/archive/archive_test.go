package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

func open(t testing.TB) *content.Store {
	t.Helper()
	s, err := content.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *content.Store, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := s.Push(context.Background(), d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return d
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// plainLayer is a layer of one file.
func plainLayer(t testing.TB, name string) []byte {
	t.Helper()
	return tarball(t, entry{name: name, body: strings.Repeat(name, 1000)})
}

func gzipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func config(t testing.TB, p ocispec.Platform, layers ...[]byte) []byte {
	t.Helper()
	img := ocispec.Image{Platform: p, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
	}
	return marshal(t, img)
}

// image puts an image of gzip layers into s.
func image(t testing.TB, s *content.Store, p ocispec.Platform, names ...string) ocispec.Descriptor {
	t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	var plain [][]byte
	for _, n := range names {
		plain = append(plain, plainLayer(t, n))
		m.Layers = append(m.Layers, put(t, s, ocispec.MediaTypeImageLayerGzip, gzipped(t, plain[len(plain)-1])))
	}
	m.Config = put(t, s, ocispec.MediaTypeImageConfig, config(t, p, plain...))
	d := put(t, s, m.MediaType, marshal(t, m))
	d.Platform = &p
	return d
}

type entry struct {
	name, body, link string
	kind             byte // 0: a file
	pax              map[string]string
}

func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Typeflag: tar.TypeReg, Size: int64(len(e.body)), Mode: 0o644, PAXRecords: e.pax}
		if e.kind != 0 {
			h.Typeflag, h.Linkname, h.Size = e.kind, e.link, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, e.body)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var (
	amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}
	arm64 = ocispec.Platform{OS: "linux", Architecture: "arm64"}
)

func TestSaveLoad(t *testing.T) {
	ctx := t.Context()
	src := open(t)
	one := image(t, src, amd64, "a", "b")
	two := image(t, src, arm64, "a", "c")
	index := put(t, src, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	}))
	one.Platform = nil
	images := []Image{
		{Names: []string{"docker.io/library/one:1", "registry.example:5000/team/one:latest"}, Target: one},
		{Names: []string{"docker.io/library/both:latest"}, Target: index},
		{Target: image(t, src, amd64, "d")},
	}
	images[2].Target.Platform = nil
	var first, second bytes.Buffer
	for _, out := range []*bytes.Buffer{&first, &second} {
		if err := Save(ctx, out, src, images, SaveOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same images gave two archives")
	}
	var zstded bytes.Buffer
	z, err := zstd.NewWriter(&zstded)
	if err != nil {
		t.Fatal(err)
	}
	z.Write(first.Bytes())
	z.Close()
	for name, b := range map[string][]byte{"plain": first.Bytes(), "gzip": gzipped(t, first.Bytes()), "zstd": zstded.Bytes()} {
		t.Run(name, func(t *testing.T) {
			dst := open(t)
			got, err := Load(ctx, dst, onlyReader{bytes.NewReader(b)}, LoadOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(images, got); diff != "" {
				t.Error(diff)
			}
			if err := content.Copy(ctx, open(t), dst, index, content.CopyOptions{}); err != nil {
				t.Errorf("not whole: %v", err)
			}
		})
	}
}

type onlyReader struct{ io.Reader }

// manifestJSON returns manifest.json of an archive, and the names of all entries.
func manifestJSON(t *testing.T, archive []byte) (entries []dockerManifest, names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return entries, names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		if h.Name == dockerManifestFile {
			if err := json.NewDecoder(r).Decode(&entries); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSaveTellsDockerOfOnePlatform(t *testing.T) {
	ctx := t.Context()
	src := open(t)
	one, two := image(t, src, amd64, "a"), image(t, src, arm64, "c")
	index := put(t, src, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	}))
	img, err := content.Resolve(ctx, src, two, arm64)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err = Save(ctx, &out, src, []Image{{Names: []string{"docker.io/library/x:1"}, Target: index}}, SaveOptions{Platforms: []ocispec.Platform{arm64}})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := manifestJSON(t, out.Bytes())
	want := []dockerManifest{{
		Config: blobPath(img.Manifest.Config), RepoTags: []string{"x:1"}, Layers: []string{blobPath(img.Manifest.Layers[0])},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// An index is often here for one platform only.
func TestSavePartialIndex(t *testing.T) {
	ctx := t.Context()
	src, other := open(t), open(t)
	one, two := image(t, src, amd64, "a"), image(t, other, arm64, "c")
	index := put(t, src, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	}))
	images := []Image{{Names: []string{"docker.io/library/x:1"}, Target: index}}
	var out bytes.Buffer
	if err := Save(ctx, &out, src, images, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	entries, names := manifestJSON(t, out.Bytes())
	if len(entries) != 1 || len(names) != 2+4+3 {
		t.Errorf("%v in %v", entries, names)
	}
	dst := open(t)
	got, err := Load(ctx, dst, &out, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(images, got); diff != "" {
		t.Error(diff)
	}
	// With nothing of it there is nothing to save, and nothing is written.
	empty := open(t)
	put(t, empty, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	}))
	out.Reset()
	if err := Save(ctx, &out, empty, images, SaveOptions{}); !errdefs.IsNotFound(err) || out.Len() != 0 {
		t.Errorf("%v, %d bytes", err, out.Len())
	}
}

func TestSaveOfADamagedBlob(t *testing.T) {
	src := open(t)
	d := image(t, src, amd64, "a")
	err := Save(t.Context(), io.Discard, flipping{src}, []Image{{Target: d}}, SaveOptions{})
	if err == nil {
		t.Error("saved")
	}
}

// flipping is a store whose layers have other bytes on disk.
type flipping struct{ *content.Store }

func (f flipping) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if !content.IsLayer(d.MediaType) {
		return f.Store.Fetch(ctx, d)
	}
	return content.Verify(io.NopCloser(bytes.NewReader(make([]byte, d.Size))), d)
}

// legacy is what docker before version 25 writes: layers are plain tars, a layer that is
// there twice is a link.
func legacy(t testing.TB, layers ...[]byte) (archive []byte, configDigest digest.Digest) {
	t.Helper()
	cfg := config(t, amd64, layers...)
	id := digest.FromBytes(cfg).Encoded()
	m := dockerManifest{Config: id + ".json", RepoTags: []string{"old:1", "registry.example/old:2"}}
	var entries []entry
	seen := map[string]string{}
	for i, l := range layers {
		dir := fmt.Sprintf("%064d", i)
		file := dir + "/layer.tar"
		m.Layers = append(m.Layers, file)
		entries = append(entries, entry{name: dir + "/", kind: tar.TypeDir}, entry{name: dir + "/VERSION", body: "1.0"})
		if first, ok := seen[string(l)]; ok {
			entries = append(entries, entry{name: file, kind: tar.TypeSymlink, link: "../" + first})
			continue
		}
		seen[string(l)] = file
		entries = append(entries, entry{name: file, body: string(l)})
	}
	entries = append(entries, entry{name: id + ".json", body: string(cfg)},
		entry{name: "repositories", body: "{}"},
		entry{name: dockerManifestFile, body: string(marshal(t, []dockerManifest{m}))})
	return tarball(t, entries...), digest.FromBytes(cfg)
}

// What docker's archives have in the place of layer.tar may be compressed in any way that docker reads.
func TestLoadCompressedLayers(t *testing.T) {
	plain := plainLayer(t, "a")
	compressed := func(tool string, data []byte) []byte {
		cmd := exec.Command(tool, "-c")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	cfg := config(t, amd64, plain)
	for _, tool := range []string{"gzip", "zstd", "bzip2", "xz"} {
		m := dockerManifest{Config: "c.json", RepoTags: []string{"x:1"}, Layers: []string{"layer"}}
		raw := tarball(t, entry{name: "c.json", body: string(cfg)}, entry{name: "layer", body: string(compressed(tool, plain))},
			entry{name: dockerManifestFile, body: string(marshal(t, []dockerManifest{m}))})
		dst := open(t)
		got, err := Load(t.Context(), dst, bytes.NewReader(raw), LoadOptions{})
		if err != nil || len(got) != 1 {
			t.Errorf("%s: %+v, %v", tool, got, err)
			continue
		}
		// An archive has given up its window when one of its layers wants one.
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		if _, err := Load(ctx, open(t), bytes.NewReader(compressed(tool, raw)), LoadOptions{}); err != nil {
			t.Errorf("%s in %s: %v", tool, tool, err)
		}
		cancel()
		img, err := content.Resolve(t.Context(), dst, got[0].Target, amd64)
		if err != nil {
			t.Fatal(err)
		}
		layer := img.Manifest.Layers[0]
		if kind := strings.TrimPrefix(layer.MediaType, ocispec.MediaTypeImageLayer); kind != map[string]string{"gzip": "+gzip", "zstd": "+zstd"}[tool] {
			t.Errorf("%s: %s", tool, layer.MediaType)
		}
		cfg2 := config(t, amd64, []byte("other"))
		raw = tarball(t, entry{name: "c.json", body: string(cfg2)}, entry{name: "layer", body: string(compressed(tool, plain))},
			entry{name: dockerManifestFile, body: string(marshal(t, []dockerManifest{m}))})
		_, err = Load(t.Context(), open(t), bytes.NewReader(raw), LoadOptions{})
		if wrong := tool == "bzip2" || tool == "xz"; wrong != errdefs.IsDataLoss(err) { // others are verified when they are unpacked
			t.Errorf("%s: a layer of another diffID: %v", tool, err)
		}
	}
}

func TestLoadLegacy(t *testing.T) {
	ctx := t.Context()
	a, b := plainLayer(t, "a"), plainLayer(t, "b")
	raw, id := legacy(t, a, b, a)
	dst := open(t)
	got, err := Load(ctx, dst, bytes.NewReader(raw), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 {
		t.Fatalf("%d images", len(got))
	}
	if diff := cmp.Diff([]string{"docker.io/library/old:1", "registry.example/old:2"}, got[0].Names); diff != "" {
		t.Error(diff)
	}
	img, err := content.Resolve(ctx, dst, got[0].Target, amd64)
	if err != nil {
		t.Fatal(err)
	}
	if img.Manifest.Config.Digest != id {
		t.Errorf("ID %s, want %s", img.Manifest.Config.Digest, id)
	}
	for i, want := range [][]byte{a, b, a} {
		if l := img.Manifest.Layers[i]; l.Digest != digest.FromBytes(want) || l.MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("layer %d: %v", i, l)
		}
	}
}

// loadInPlace is Load by Open of a file.
func loadInPlace(ctx context.Context, dst *content.Store, raw []byte, o LoadOptions) ([]Image, error) {
	src, images, err := Open(ctx, dst, bytes.NewReader(raw), o)
	for i := range images {
		for _, d := range images[i].Blobs {
			if err == nil {
				err = content.Copy(ctx, dst, src, d, content.CopyOptions{Foreign: true})
			}
		}
		images[i].Blobs = nil
	}
	return images, err
}

// TestOpen: what is left in a file for later is the same in the end as what is stored at once.
func TestOpen(t *testing.T) {
	src := open(t)
	one, two := image(t, src, amd64, "a", "b"), image(t, src, arm64, "b", "c")
	index := put(t, src, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two},
	}))
	var saved bytes.Buffer
	if err := Save(t.Context(), &saved, src, []Image{{Names: []string{"docker.io/library/x:1"}, Target: index}}, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	a, b := plainLayer(t, "a"), plainLayer(t, "b")
	old, _ := legacy(t, a, b, a)
	cfg := config(t, amd64, a, b, a)
	mixed := tarball(t, entry{name: "a.tar.gz", body: string(gzipped(t, a))}, entry{name: "b.tar", body: string(b)}, entry{name: "c.json", body: string(cfg)},
		entry{name: "a2", kind: tar.TypeSymlink, link: "a.tar.gz"},
		entry{name: dockerManifestFile, body: string(marshal(t, []dockerManifest{{Config: "c.json", RepoTags: []string{"x:1"}, Layers: []string{"a.tar.gz", "b.tar", "a2"}}}))})
	for name, tt := range map[string]struct {
		raw   []byte
		left  int // layers that stay where they are at first
		wants []ocispec.Platform
	}{
		"a layout":              {saved.Bytes(), 3, nil},
		"one platform of it":    {saved.Bytes(), 2, []ocispec.Platform{arm64}},
		"of old":                {old, 2, nil},
		"with gzip":             {mixed, 2, nil},
		"which is gzip":         {gzipped(t, old), 0, nil},
		"of old, of a platform": {old, 2, []ocispec.Platform{amd64}},
	} {
		t.Run(name, func(t *testing.T) {
			o := LoadOptions{Platforms: tt.wants}
			dst := open(t)
			_, images, err := Open(t.Context(), dst, bytes.NewReader(tt.raw), o)
			if err != nil || len(images) != 1 || len(images[0].Blobs) != tt.left {
				t.Fatalf("%+v, %v, want an image with %d blobs", images, err, tt.left)
			}
			for _, d := range images[0].Blobs {
				if _, err := dst.Stat(t.Context(), d.Digest); !errdefs.IsNotFound(err) {
					t.Errorf("%s is stored: %v", d.Digest, err)
				}
			}
			streamed := open(t)
			want, err := Load(t.Context(), streamed, bytes.NewReader(tt.raw), o)
			if err != nil {
				t.Fatal(err)
			}
			got, err := loadInPlace(t.Context(), dst, tt.raw, o)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			for _, img := range got {
				if err := content.Copy(t.Context(), open(t), dst, img.Target, content.CopyOptions{Platforms: tt.wants}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestLoadRefuses(t *testing.T) {
	layer := string(plainLayer(t, "a"))
	cfg := string(config(t, amd64, []byte(layer)))
	cfgName := "blobs/sha256/" + digest.FromString(cfg).Encoded()
	doc := func(m ...dockerManifest) entry { return entry{name: dockerManifestFile, body: string(marshal(t, m))} }
	layout := func(d ocispec.Descriptor) entry {
		return entry{name: "index.json", body: string(marshal(t, ocispec.Index{Manifests: []ocispec.Descriptor{d}}))}
	}
	for _, tt := range []struct {
		name    string
		archive []byte
		text    string
	}{
		{"empty", tarball(t), "holds no image"},
		{"no tar", []byte(strings.Repeat("hello ", 1000)), "tar"},
		{"cut off", tarball(t, entry{name: "x", body: layer})[:1500], "EOF"},
		{"before docker 1.10", tarball(t, entry{name: "repositories", body: "{}"}, entry{name: "id/layer.tar", body: layer}), "before 1.10"},
		{"a blob that is another", tarball(t, entry{name: "blobs/sha256/" + digest.FromString("x").Encoded(), body: "y"}), "entry"},
		{"a layer that is another", tarball(t, entry{name: cfgName, body: cfg}, entry{name: "l", body: string(plainLayer(t, "b"))},
			doc(dockerManifest{Config: cfgName, Layers: []string{"l"}})), "the config says"},
		{"a layer too few", tarball(t, entry{name: cfgName, body: cfg}, doc(dockerManifest{Config: cfgName})), "0 layers for 1 diffIDs"},
		{"a missing layer", tarball(t, entry{name: cfgName, body: cfg}, doc(dockerManifest{Config: cfgName, Layers: []string{"../../etc/passwd"}})), "is missing"},
		{"links in a circle", tarball(t, entry{name: "a", kind: tar.TypeSymlink, link: "b"}, entry{name: "b", kind: tar.TypeLink, link: "a"},
			entry{name: cfgName, body: cfg}, doc(dockerManifest{Config: cfgName, Layers: []string{"a"}})), "too many links"},
		{"a link out", tarball(t, entry{name: "a", kind: tar.TypeSymlink, link: "../../../etc/passwd"},
			entry{name: cfgName, body: cfg}, doc(dockerManifest{Config: cfgName, Layers: []string{"a"}})), "is missing"},
		{"two manifests", tarball(t, doc(), doc()), "twice"},
		{"a layout without its image", tarball(t, layout(ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 7})), "not found"},
		{"a layout with a bad digest", tarball(t, layout(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "../../x", Size: 7})), "digest"},
		{"not JSON", tarball(t, entry{name: dockerManifestFile, body: "<"}), "manifest.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Load(t.Context(), open(t), bytes.NewReader(tt.archive), LoadOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.text) {
				t.Errorf("got %v, %v", got, err)
			}
			if tt.text == "entry" {
				tt.text = "holds no image" // it looks at nothing that no image needs
			}
			got, err = loadInPlace(t.Context(), open(t), tt.archive, LoadOptions{})
			if err == nil || !strings.Contains(err.Error(), tt.text) && !errdefs.IsDataLoss(err) {
				t.Errorf("in place: got %v, %v", got, err)
			}
		})
	}
}

// A few bytes of archive must not become exabytes of zeros on disk.
func TestLoadRefusesHoles(t *testing.T) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	h := &tar.Header{Name: "hole", Typeflag: tar.TypeReg, Size: 512, Format: tar.FormatPAX, PAXRecords: map[string]string{"TEUZZZ.sparse.major": "1", "TEUZZZ.sparse.minor": "0"}}
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("1\n0\n512\n" + strings.Repeat("\x00", 504)))
	w.Close()
	raw := bytes.ReplaceAll(out.Bytes(), []byte("TEUZZZ.sparse"), []byte("GNU.sparse"))
	raw = bytes.ReplaceAll(raw, []byte("25 GNU"), []byte("22 GNU")) // lengths of the records
	if _, err := Load(t.Context(), open(t), bytes.NewReader(raw), LoadOptions{}); err == nil {
		t.Error("loaded")
	}
}

// skopeo and podman write bare tags into index.json; buildx whole names.
func TestLoadNames(t *testing.T) {
	for _, tt := range []struct {
		annotations map[string]string
		want        []string
	}{
		{map[string]string{"org.opencontainers.image.ref.name": "latest"}, nil},
		{map[string]string{"org.opencontainers.image.ref.name": "localhost/x:1"}, []string{"localhost/x:1"}},
		{map[string]string{"org.opencontainers.image.ref.name": "1", "io.containerd.image.name": "x:1"}, []string{"docker.io/library/x:1"}},
		{map[string]string{"io.containerd.image.name": "NOT a name"}, nil},
		{nil, nil},
	} {
		src := open(t)
		d := image(t, src, amd64, "a")
		d.Annotations = tt.annotations
		var entries []entry
		err := src.Walk(t.Context(), func(i content.Info) error {
			b, err := content.ReadAll(t.Context(), src, ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
			entries = append(entries, entry{name: "./blobs/sha256/" + i.Digest.Encoded(), body: string(b)})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{name: "./index.json", body: string(marshal(t, ocispec.Index{Manifests: []ocispec.Descriptor{d}}))})
		got, err := Load(t.Context(), open(t), bytes.NewReader(tarball(t, entries...)), LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, got[0].Names); diff != "" {
			t.Errorf("%v: %s", tt.annotations, diff)
		}
	}
}

func FuzzLoad(f *testing.F) {
	src := open(f)
	var saved bytes.Buffer
	if err := Save(context.Background(), &saved, src, []Image{{Names: []string{"docker.io/library/x:1"}, Target: image(f, src, amd64, "a")}}, SaveOptions{}); err != nil {
		f.Fatal(err)
	}
	old, _ := legacy(f, plainLayer(f, "a"), plainLayer(f, "a"))
	f.Add(saved.Bytes())
	f.Add(old)
	f.Add(gzipped(f, old))
	f.Fuzz(func(t *testing.T, b []byte) {
		dst := open(t)
		_, _ = Load(t.Context(), open(t), bytes.NewReader(b), LoadOptions{Platforms: []ocispec.Platform{amd64}})
		images, err := Load(t.Context(), dst, bytes.NewReader(b), LoadOptions{})
		if err != nil {
			return
		}
		for _, img := range images {
			if _, err := dst.Stat(t.Context(), img.Target.Digest); err != nil {
				t.Errorf("image %s is not stored: %v", img.Target.Digest, err)
			}
		}
		again, err := loadInPlace(t.Context(), open(t), b, LoadOptions{})
		if diff := cmp.Diff(images, again); diff != "" || err != nil {
			t.Errorf("in place: %v: %s", err, diff)
		}
		_, _ = loadInPlace(t.Context(), open(t), b, LoadOptions{Platforms: []ocispec.Platform{amd64}})
	})
}

// A small archive must not keep its reader busy for ever: indexes that list one another many times.
func TestIndexesThatListEachOther(t *testing.T) {
	s := open(t)
	img := image(t, s, amd64, "a")
	img.Platform = &amd64
	root := img
	for range maxDepth {
		list := append(slices.Repeat([]ocispec.Descriptor{root}, 30), img)
		root = put(t, s, ocispec.MediaTypeImageIndex, marshal(t, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
		}))
		root.Platform = &ocispec.Platform{OS: "plan9", Architecture: "386"} // whoever looks for an image of amd64 passes it by
	}
	root.Platform = nil
	done := make(chan error, 1)
	go func() {
		var saved bytes.Buffer
		err := Save(context.Background(), &saved, s, []Image{{Target: root, Names: []string{"docker.io/library/a:1"}}}, SaveOptions{})
		if err == nil {
			_, err = Load(context.Background(), open(t), &saved, LoadOptions{})
		}
		done <- err
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it takes longer than 20 seconds")
	}
}
