package remotecache

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

func layer(text string) Layer {
	return Layer{DiffID: digest.FromString("plain " + text), Blob: &ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString(text), Size: int64(len(text)),
	}}
}

func TestEntries(t *testing.T) {
	p, err := InDir(t.TempDir(), DirOptions{Make: true})
	if err != nil {
		t.Fatal(err)
	}
	key, alias := digest.FromString("key"), digest.FromString("alias")
	want := Entry{Canonical: key, Plain: []digest.Digest{alias}, Description: "RUN x", Outputs: [][]Layer{{{DiffID: digest.FromString("base")}, layer("a")}, {layer("a"), layer("b")}}}
	if err := Put(t.Context(), p, want, key, alias); err != nil {
		t.Fatal(err)
	}
	for _, k := range []digest.Digest{key, alias} {
		got, err := Get(t.Context(), p, k)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", k, err, diff)
		}
	}
	if _, err := Get(t.Context(), p, digest.FromString("other")); !errdefs.IsNotFound(err) {
		t.Errorf("an absent key: %v", err)
	}
	if _, err := InDir(t.TempDir()+"/none", DirOptions{}); !errdefs.IsNotFound(err) {
		t.Errorf("an absent directory: %v", err)
	}
}

func TestInline(t *testing.T) {
	base, made := layer("base"), layer("made")
	config := fmt.Appendf(nil, `{"os":"linux","x":1,"rootfs":{"type":"layers","diff_ids":[%q,%q]},"history":[{},{"created":"2020-01-01T00:00:00Z","empty_layer":true},{"created":"2021-01-01T00:00:00Z"}]}`, base.DiffID, made.DiffID)
	made.Created = time.Date(2021, 1, 1, 0, 0, 0, 0, time.UTC)
	key, alias := digest.FromString("key"), digest.FromString("alias")
	config, err := Embed(config, []Inline{{Keys: []digest.Digest{alias}, Canonical: key, Layers: 2}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := Inside(nil, "app", content.Image{Manifest: ocispec.Manifest{Layers: []ocispec.Descriptor{*base.Blob, *made.Blob}}, RawConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	got, err := Get(t.Context(), p, alias)
	if diff := cmp.Diff(Entry{Canonical: key, Outputs: [][]Layer{{base, made}}}, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if _, err := Inside(nil, "app", content.Image{Manifest: ocispec.Manifest{Layers: []ocispec.Descriptor{*base.Blob}}, RawConfig: config}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a manifest with other layers: %v", err)
	}
}

// TestMounts holds that a small change of a big cache mount sends little.
func TestMounts(t *testing.T) {
	p, err := InDir(t.TempDir(), DirOptions{Make: true})
	if err != nil {
		t.Fatal(err)
	}
	counted := &countingPlace{Place: p}
	key := digest.FromString("mount").Encoded()
	sizes := chunkSizes{min: 1 << 10, average: 4 << 10, max: 16 << 10}
	data := make([]byte, 1<<20)
	rand.New(rand.NewSource(1)).Read(data)
	save := func(data []byte) {
		t.Helper()
		err := saveMount(t.Context(), counted, key, sizes, func(w io.Writer) error {
			_, err := io.Copy(w, bytes.NewReader(data))
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := LoadMount(t.Context(), p, key)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes came back as %d, %v", len(data), len(got), err)
		}
	}
	save(data)
	counted.pushed = 0
	changed := append(append(append([]byte{}, data[:500000]...), "inserted"...), data[500000:]...)
	save(changed)
	if counted.pushed > 50000 {
		t.Errorf("8 bytes inserted into %d sent %d", len(data), counted.pushed)
	}
	save(nil)
	if _, err := LoadMount(t.Context(), p, digest.FromString("other").Encoded()); !errdefs.IsNotFound(err) {
		t.Errorf("an absent mount: %v", err)
	}
}

type countingPlace struct {
	Place
	pushed int64
}

func (c *countingPlace) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	c.pushed += d.Size
	return c.Place.Push(ctx, d, r)
}

func TestRefused(t *testing.T) {
	good := Entry{Canonical: digest.FromString("k"), Outputs: [][]Layer{{layer("a")}}}
	for name, change := range map[string]func(e *Entry, m *ocispec.Manifest){
		"no canonical key":      func(e *Entry, _ *ocispec.Manifest) { e.Canonical = "" },
		"a path as a key":       func(e *Entry, _ *ocispec.Manifest) { e.Canonical = "sha256:../../etc/passwd" },
		"another algorithm":     func(e *Entry, _ *ocispec.Manifest) { e.Canonical = digest.SHA512.FromString("x") },
		"a path as a plain key": func(e *Entry, _ *ocispec.Manifest) { e.Plain = []digest.Digest{"sha256:../../etc/passwd"} },
		"too many plain keys":   func(e *Entry, _ *ocispec.Manifest) { e.Plain = make([]digest.Digest, maxPlain+1) },
		"no outputs":            func(e *Entry, _ *ocispec.Manifest) { e.Outputs = nil },
		"a blob of no manifest": func(e *Entry, _ *ocispec.Manifest) { e.Outputs[0] = append(e.Outputs[0], layer("b")) },
		"a blob elsewhere":      func(e *Entry, m *ocispec.Manifest) { e.Outputs[0][0].Blob.URLs = []string{"http://x"} },
		"a foreign blob": func(e *Entry, m *ocispec.Manifest) {
			e.Outputs[0][0].Blob.MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
		},
		"a blob of no layer": func(e *Entry, m *ocispec.Manifest) { e.Outputs[0][0].Blob.MediaType = "text/html" },
		"a negative size":    func(e *Entry, m *ocispec.Manifest) { e.Outputs[0][0].Blob.Size, m.Layers[0].Size = -1, -1 },
		"too many layers":    func(e *Entry, _ *ocispec.Manifest) { e.Outputs[0] = make([]Layer, maxLayers+1) },
		"another artifact":   func(_ *Entry, m *ocispec.Manifest) { m.ArtifactType = mountType },
	} {
		t.Run(name, func(t *testing.T) {
			var e Entry
			copyOf(t, good, &e)
			_, data, err := encode(good)
			if err != nil {
				t.Fatal(err)
			}
			var m ocispec.Manifest
			copyOf(t, json.RawMessage(data), &m)
			change(&e, &m)
			text, err := json.Marshal(e)
			if err != nil {
				t.Fatal(err)
			}
			m.Annotations = map[string]string{annotationEntry: string(text)}
			if data, err = json.Marshal(m); err != nil {
				t.Fatal(err)
			}
			if _, err := decode(data); !errors.Is(err, errdefs.ErrInvalidArgument) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func copyOf(t *testing.T, from, to any) {
	t.Helper()
	data, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(data, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func FuzzDecode(f *testing.F) {
	_, data, err := encode(Entry{Canonical: digest.FromString("k"), Outputs: [][]Layer{{layer("a")}}})
	if err != nil {
		f.Fatal(err)
	}
	_, mount, err := manifestOf(mountType, []ocispec.Descriptor{{MediaType: chunkType, Digest: digest.FromString("x"), Size: 1,
		Annotations: map[string]string{annotationPlain: digest.FromString("y").String()}}}, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(mount)
	f.Add([]byte(`{"artifactType":"application/vnd.teu.buildcache.v1+json"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := decode(data); err == nil {
			if _, _, err := encode(e); err != nil {
				t.Errorf("what was read cannot be written: %v", err)
			}
		}
		if chunks, err := decodeMount(data); err == nil {
			for _, d := range chunks {
				if d.Digest.Validate() != nil {
					t.Errorf("chunk %q", d.Digest)
				}
			}
		}
	})
}

func FuzzInline(f *testing.F) {
	f.Add([]byte(fmt.Sprintf(`{"rootfs":{"diff_ids":[%q]},"dev.teu.buildcache.v1":[{"keys":[%q],"canonical":%q,"layers":1}]}`,
		digest.FromString("a"), digest.FromString("b"), digest.FromString("c"))))
	f.Fuzz(func(t *testing.T, config []byte) {
		entries, err := extract(ocispec.Manifest{Layers: []ocispec.Descriptor{*layer("a").Blob}}, config)
		if err != nil {
			return
		}
		for name, data := range entries {
			if _, err := decode(data); err != nil || len(name) != 64 {
				t.Errorf("entry %q: %v", name, err)
			}
		}
	})
}

func TestEmbedInNoObject(t *testing.T) {
	for _, config := range []string{"null", "[]", ""} {
		if _, err := Embed([]byte(config), nil); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", config, err)
		}
	}
}
