package content

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory holds blobs, and counts how often each is fetched.
type memory struct {
	blobs   map[digest.Digest][]byte
	fetched map[digest.Digest]int
}

func newMemory() *memory {
	return &memory{blobs: map[digest.Digest][]byte{}, fetched: map[digest.Digest]int{}}
}

func (m *memory) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := m.blobs[d.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s: %w", d.Digest, errdefs.ErrNotFound)
	}
	m.fetched[d.Digest]++
	return Verify(io.NopCloser(bytes.NewReader(data)), d)
}

func (m *memory) put(mediaType string, data string) ocispec.Descriptor {
	d := describe(mediaType, []byte(data))
	m.blobs[d.Digest] = []byte(data)
	return d
}

func (m *memory) putJSON(mediaType string, v any) ocispec.Descriptor {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return m.put(mediaType, string(data))
}

// image puts an image with one layer.
func (m *memory) image(platform, layer string) ocispec.Descriptor {
	p := parsePlatform(platform)
	l := m.put(ocispec.MediaTypeImageLayer, layer)
	d := m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config: m.putJSON(ocispec.MediaTypeImageConfig, ocispec.Image{
			Platform: p, RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{l.Digest}},
		}),
		Layers: []ocispec.Descriptor{l},
	})
	d.Platform = &p
	return d
}

func (m *memory) index(entries ...ocispec.Descriptor) ocispec.Descriptor {
	return m.putJSON(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries})
}

func parsePlatform(s string) ocispec.Platform {
	parts := append(strings.Split(s, "/"), "", "")
	p := ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}
	if os, options, ok := strings.Cut(p.OS, "("); ok { // os(version+feature)
		version, feature, _ := strings.Cut(strings.TrimSuffix(options, ")"), "+")
		p.OS, p.OSVersion = os, version
		if feature != "" {
			p.OSFeatures = []string{feature}
		}
	}
	return p
}

const (
	someDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	descriptor = `{"mediaType":"x","digest":"` + someDigest + `","size":0}`
)

func TestParse(t *testing.T) {
	oci, dockerList := ocispec.MediaTypeImageManifest, MediaTypeDockerIndex
	for name, test := range map[string]struct {
		mediaType, data string
		kind            string // manifest, index, or the class of the error
	}{
		"manifest":                     {oci, `{"schemaVersion":2,"config":` + descriptor + `,"layers":[]}`, "manifest"},
		"docker manifest":              {MediaTypeDockerManifest, `{"schemaVersion":2,"mediaType":"` + MediaTypeDockerManifest + `","config":` + descriptor + `,"layers":[` + descriptor + `]}`, "manifest"},
		"manifest without schema":      {oci, `{"config":` + descriptor + `}`, "manifest"},
		"index":                        {ocispec.MediaTypeImageIndex, `{"schemaVersion":2,"manifests":[` + descriptor + `]}`, "index"},
		"docker list":                  {dockerList, `{"schemaVersion":2,"manifests":[]}`, "index"},
		"told by nobody, manifest":     {"", `{"config":` + descriptor + `,"layers":[]}`, "manifest"},
		"told by nobody, index":        {"application/octet-stream", `{"manifests":[]}`, "index"},
		"told by itself":               {"", `{"mediaType":"` + dockerList + `","manifests":[]}`, "index"},
		"both":                         {oci, `{"config":` + descriptor + `,"layers":[],"manifests":[]}`, "invalid"},
		"both, as index":               {ocispec.MediaTypeImageIndex, `{"layers":[],"manifests":[]}`, "invalid"},
		"index called manifest":        {oci, `{"manifests":[]}`, "invalid"},
		"manifest called index":        {ocispec.MediaTypeImageIndex, `{"config":` + descriptor + `,"layers":[]}`, "invalid"},
		"contradicts its descriptor":   {oci, `{"mediaType":"` + MediaTypeDockerManifest + `","config":` + descriptor + `}`, "invalid"},
		"schema 1":                     {mediaTypeDockerSchema1Signed, `{"schemaVersion":1,"fsLayers":[]}`, "unsupported"},
		"schema 1 told by nobody":      {"", `{"schemaVersion":1,"fsLayers":[]}`, "unsupported"},
		"schema 1 called schema 2":     {MediaTypeDockerManifest, `{"schemaVersion":1,"fsLayers":[]}`, "unsupported"},
		"no JSON":                      {oci, `<html>`, "invalid"},
		"no object":                    {oci, `[]`, "invalid"},
		"empty":                        {oci, ``, "invalid"},
		"nothing":                      {"", `{}`, "invalid"},
		"no config":                    {oci, `{"layers":[]}`, "invalid"},
		"digest is a path":             {oci, `{"config":{"digest":"sha256:../../etc/passwd","size":1},"layers":[]}`, "invalid"},
		"digest of a child is missing": {ocispec.MediaTypeImageIndex, `{"manifests":[{"size":1}]}`, "invalid"},
		"negative size":                {oci, `{"config":{"digest":"` + someDigest + `","size":-1}}`, "invalid"},
		"size too large for a number":  {oci, `{"config":{"digest":"` + someDigest + `","size":1e400}}`, "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			doc, err := parse(test.mediaType, []byte(test.data))
			kind := map[bool]string{doc.manifest != nil: "manifest", doc.index != nil: "index"}[true]
			switch {
			case errdefs.IsInvalidArgument(err):
				kind = "invalid"
			case errdefs.IsNotImplemented(err):
				kind = "unsupported"
			case err != nil:
				t.Fatal(err)
			}
			if kind != test.kind {
				t.Errorf("got %s, %v, want %s", kind, err, test.kind)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, mediaType := range []string{"", ocispec.MediaTypeImageManifest, MediaTypeDockerIndex} {
		f.Add(mediaType, []byte(`{"schemaVersion":2,"config":`+descriptor+`,"layers":[`+descriptor+`]}`))
		f.Add(mediaType, []byte(`{"schemaVersion":2,"manifests":[{"digest":"`+someDigest+`","size":3,"platform":{"os":"linux","architecture":"amd64"}}]}`))
		f.Add(mediaType, []byte(`{"schemaVersion":1,"fsLayers":[{"blobSum":"x"}]}`))
		f.Add(mediaType, []byte(`{"manifests":null,"layers":[],"config":{}}`))
	}
	f.Fuzz(func(t *testing.T, mediaType string, data []byte) {
		doc, err := parse(mediaType, data)
		if err != nil {
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsNotImplemented(err) {
				t.Fatalf("error without a class: %v", err)
			}
			return
		}
		if (doc.manifest == nil) == (doc.index == nil) {
			t.Fatal("it must be either a manifest or an index")
		}
		named, _ := References(data)
		for _, c := range doc.children() {
			if validate(c.Digest) != nil || c.Size < 0 {
				t.Fatalf("child %v was let through", c)
			}
			if !slices.Contains(named, c.Digest) {
				t.Fatalf("child %v would be collected: only %v are referred to", c, named)
			}
		}
		// What is one kind to us must not be the other under another media type.
		for _, other := range []string{"", ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest, MediaTypeDockerIndex} {
			if again, err := parse(other, data); err == nil && (again.manifest == nil) != (doc.manifest == nil) {
				t.Fatalf("%q is a manifest and an index", data)
			}
		}
	})
}

func FuzzResolve(f *testing.F) {
	f.Add([]byte(`{"manifests":[]}`), []byte(`{"rootfs":{"diff_ids":[]}}`))
	f.Add([]byte(`{"mediaType":"`+ocispec.MediaTypeImageIndex+`","manifests":[]}`), []byte(`{"os":"linux","architecture":"arm64","config":{"Env":["A=1"]},"rootfs":{"type":"layers","diff_ids":["`+someDigest+`"]}}`))
	f.Fuzz(func(t *testing.T, root, config []byte) {
		m := newMemory()
		img := m.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Config: m.put(ocispec.MediaTypeImageConfig, string(config)), Layers: []ocispec.Descriptor{describe("x", nil)},
		})
		for _, d := range []ocispec.Descriptor{img, m.put("", string(root)), m.put(ocispec.MediaTypeImageIndex, string(root))} {
			img, err := Resolve(t.Context(), m, d, Host())
			if err == nil && len(img.Config.RootFS.DiffIDs) != len(img.Manifest.Layers) {
				t.Fatal("diffIDs and layers differ in number")
			}
			if _, diffIDs := References(config); err == nil && !slices.Equal(diffIDs, img.Config.RootFS.DiffIDs) {
				t.Fatalf("the config has the diffIDs %v, its references are %v", img.Config.RootFS.DiffIDs, diffIDs)
			}
		}
	})
}

func TestChildren(t *testing.T) {
	m := newMemory()
	img := m.image("linux/amd64", "layer")
	got, err := Children(t.Context(), m, img)
	if err != nil || len(got) != 2 || got[0].MediaType != ocispec.MediaTypeImageConfig || string(m.blobs[got[1].Digest]) != "layer" {
		t.Errorf("of a manifest: %v, %v, want config and layer", got, err)
	}
	if got, err := Children(t.Context(), m, m.index(img, img)); err != nil || len(got) != 2 || got[0].Digest != img.Digest {
		t.Errorf("of an index: %v, %v", got, err)
	}
	if got, err := Children(t.Context(), m, got[1]); err != nil || got != nil {
		t.Errorf("of a layer: %v, %v", got, err)
	}
	if _, err := Children(t.Context(), m, describe(mediaTypeDockerSchema1, nil)); !errdefs.IsNotImplemented(err) {
		t.Errorf("of a schema 1 manifest: %v, want not implemented", err)
	}
}

func TestReferences(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	for _, c := range []struct {
		name, data     string
		blobs, diffIDs []digest.Digest
	}{
		{"manifest", `{"config":{"digest":"` + a.String() + `"},"layers":[{"digest":"` + b.String() + `"}]}`, []digest.Digest{a, b}, nil},
		{"index", `{"manifests":[{"digest":"` + a.String() + `"}]}`, []digest.Digest{a}, nil},
		{"config", `{"config":{"Env":["x"]},"rootfs":{"diff_ids":["` + b.String() + `"]}}`, nil, []digest.Digest{b}},
		{"field of another kind", `{"manifests":7,"config":[],"layers":[{"digest":"` + b.String() + `"}]}`, []digest.Digest{b}, nil},
		{"half a document", `{"manifests":[{"digest":"` + a.String() + `"}`, nil, nil},
		{"array", `[]`, nil, nil},
		{"nothing", ``, nil, nil},
	} {
		blobs, diffIDs := References([]byte(c.data))
		if !slices.Equal(blobs, c.blobs) || !slices.Equal(diffIDs, c.diffIDs) {
			t.Errorf("%s: %v and %v, want %v and %v", c.name, blobs, diffIDs, c.blobs, c.diffIDs)
		}
	}
}

func TestReadAllLimit(t *testing.T) {
	m := newMemory()
	fits := m.put("", strings.Repeat(" ", MaxManifest))
	if data, err := ReadAll(t.Context(), m, fits); err != nil || len(data) != MaxManifest {
		t.Errorf("4 MiB: %d bytes, %v", len(data), err)
	}
	large := m.put("", strings.Repeat(" ", MaxManifest+1))
	if _, err := ReadAll(t.Context(), m, large); !errdefs.IsResourceExhausted(err) || m.fetched[large.Digest] > 0 {
		t.Errorf("more than 4 MiB: got %v after %d fetches, want refused before any", err, m.fetched[large.Digest])
	}
	liar := fits
	liar.Size = 10
	if _, err := ReadAll(t.Context(), m, liar); !errdefs.IsDataLoss(err) {
		t.Errorf("descriptor with the wrong size: got %v, want data loss", err)
	}
}

// TestFullIndex: as many platforms as 4 MiB have room for are not too many values.
func TestFullIndex(t *testing.T) {
	const entry = `{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%064x","size":1,"platform":{"architecture":"arm","os":"linux"}}`
	var b strings.Builder
	b.WriteString(`{"manifests":[` + fmt.Sprintf(entry, 0))
	n := 1
	for ; b.Len() < MaxManifest-300; n++ {
		b.WriteString("," + fmt.Sprintf(entry, n))
	}
	b.WriteString("]}")
	index, err := parseIndex([]byte(b.String()))
	if err != nil || len(index.index.Manifests) != n {
		t.Errorf("an index of %d images: %v", n, err)
	}
}

// TestReadIndex: an index.json may be anybody's.
func TestReadIndex(t *testing.T) {
	for name, tt := range map[string]struct {
		text string
		is   func(error) bool
	}{
		"an index":        {`{"schemaVersion":2,"manifests":[]}`, func(err error) bool { return err == nil }},
		"no JSON":         {`{"manifests":`, errdefs.IsInvalidArgument},
		"too many values": {`{"manifests":[` + strings.Repeat("{},", 1<<20) + `{}]}`, errdefs.IsResourceExhausted},
		"too many bytes":  {`{"manifests":[]}` + strings.Repeat(" ", maxIndex), errdefs.IsResourceExhausted},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadIndex(dir); !tt.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A hostile document is small until it is in memory. Quoted, its bytes are those of any text.
func TestTooManyValues(t *testing.T) {
	m := newMemory()
	many := func(size int) string { return strings.Repeat("{},", size/3-100) + "{}" }
	config := func(history, text string) ocispec.Descriptor {
		return m.put(ocispec.MediaTypeImageConfig, fmt.Sprintf(`{"os":"linux","author":%q,"rootfs":{"type":"layers"},"history":[%s]}`, text, history))
	}
	manifest := func(config ocispec.Descriptor, layers string) ocispec.Descriptor {
		d, err := json.Marshal(config)
		if err != nil {
			t.Fatal(err)
		}
		return m.put(ocispec.MediaTypeImageManifest, fmt.Sprintf(`{"config":%s,"layers":[%s]}`, d, layers))
	}
	few := config("{}", `\"`+many(MaxConfig/2))
	for name, tt := range map[string]struct {
		d    ocispec.Descriptor
		fine bool
	}{
		"text":    {d: manifest(few, ""), fine: true},
		"layers":  {d: manifest(few, many(MaxManifest))},
		"numbers": {d: manifest(few, strings.Repeat("1,", MaxManifest/2-200)+"1")},
		"index":   {d: m.put(ocispec.MediaTypeImageIndex, `{"manifests":[`+many(MaxManifest)+`]}`)},
		"history": {d: manifest(config(many(MaxConfig), ""), "")},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Resolve(t.Context(), m, tt.d, Host())
		runtime.ReadMemStats(&after)
		if tt.fine && err != nil || !tt.fine && !errdefs.IsResourceExhausted(err) {
			t.Errorf("%s: %v", name, err)
		}
		if n := (after.TotalAlloc - before.TotalAlloc) >> 20; n > 100 {
			t.Errorf("%s: %d MB allocated", name, n)
		}
	}
}

func TestMatchPlatform(t *testing.T) {
	for _, test := range []struct {
		want string
		have []string // best first
		not  []string
	}{
		{"linux/amd64", []string{"linux/amd64"}, []string{"linux/amd64/v2", "linux/arm64", "windows/amd64", "linux/386"}},
		{"linux/amd64/v1", []string{"linux/amd64"}, []string{"linux/amd64/v3"}},
		{"linux/amd64/v3", []string{"linux/amd64/v3", "linux/amd64/v2", "linux/amd64"}, []string{"linux/amd64/v4"}},
		{"linux/arm64", []string{"linux/arm64/v8"}, []string{"linux/arm64/v9", "linux/arm/v7"}},
		{"linux/arm64/v8", []string{"linux/arm64"}, nil},
		{"linux/aarch64", []string{"linux/arm64/v8"}, nil},
		{"linux/x86_64", []string{"linux/amd64"}, nil},
		{"linux/arm64/v9", []string{"linux/arm64/v9", "linux/arm64/v8.2", "linux/arm64"}, []string{"linux/arm64/v9.5"}},
		{"linux/arm", []string{"linux/arm/v7", "linux/arm/v6", "linux/arm/v5"}, []string{"linux/arm/v8"}},
		{"linux/arm/7", []string{"linux/armhf", "linux/armel"}, nil},
		{"linux/arm/v6", []string{"linux/arm/v6", "linux/arm/v5"}, []string{"linux/arm/v7", "linux/arm"}},
		{"linux/riscv64", []string{"linux/riscv64"}, []string{"linux/riscv64/rva23"}},
		{"Linux/AMD64", []string{"linux/amd64"}, nil},
		{"windows/amd64", []string{"windows(10.0.17763.1)/amd64"}, []string{"windows/arm64"}},
		{"windows(10.0.17763.9)/amd64", []string{"windows(10.0.17763.1)/amd64"}, []string{"windows(10.0.20348.1)/amd64", "windows(10.0.14393.1)/amd64", "windows(6.3.17763)/amd64", "windows(odd)/amd64"}},
		{"windows(10.0.17763)/amd64", []string{"windows/amd64"}, nil},
		{"windows(10.0.26100.1)/amd64", []string{"windows(10.0.20348.2)/amd64"}, []string{"windows(10.0.26200)/amd64", "windows(10.0.17763)/amd64"}},
		{"windows(10.0.26200)/amd64", []string{"windows(10.0.26100)/amd64"}, []string{"windows(10.0.19042)/amd64"}},
		{"linux(+special)/amd64", []string{"linux(+special)/amd64"}, nil},
		{"linux/amd64", []string{"linux/amd64"}, []string{"linux(+special)/amd64"}},
		{"windows/amd64", []string{"windows(+win32k)/amd64"}, nil},
		{"linux/amd64/v99999999999999999999", []string{"linux/amd64/v99999999999999999999"}, []string{"linux/amd64"}},
	} {
		last := 1 << 30
		for _, have := range test.have {
			n := MatchPlatform(parsePlatform(test.want), parsePlatform(have))
			if n <= 0 || n >= last {
				t.Errorf("%s with %s: %d, want more than 0 and less than %d", test.want, have, n, last)
			}
			last = n
		}
		for _, have := range test.not {
			if n := MatchPlatform(parsePlatform(test.want), parsePlatform(have)); n != 0 {
				t.Errorf("%s with %s: %d, want 0", test.want, have, n)
			}
		}
	}
	if got := normalizePlatform(Host()); !cmp.Equal(got, Host()) || got.OS != "linux" {
		t.Errorf("host is %v, normalised %v", Host(), got)
	}
}
