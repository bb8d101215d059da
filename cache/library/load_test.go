package library

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/listing"
)

// layoutOf returns a layout that lists roots under the names "x:0", "x:1", ... Their blobs are in the store.
func layoutOf(t *testing.T, roots ...ocispec.Descriptor) []byte {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}}
	for i, d := range roots {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: "docker.io/library/x:" + string(rune('0'+i))}
		index.Manifests = append(index.Manifests, d)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	data := string(marshal(t, index))
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "index.json", Size: int64(len(data)), Mode: 0o644}), write(w, data), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestLoadRefusesConfigs: an image with a config that nothing can be done with gets no name, or every later
// command would stumble over it.
func TestLoadRefusesConfigs(t *testing.T) {
	diffID := digest.FromString("x").String()
	for name, config := range map[string]string{
		"no JSON":           "\x1f\x8b",
		"nothing":           "null",
		"a list":            "[]",
		"no rootfs":         `{"os":"linux","architecture":"amd64"}`,
		"more diffIDs":      `{"rootfs":{"type":"layers","diff_ids":["` + diffID + `","` + diffID + `"]}}`,
		"a path as diffID":  `{"rootfs":{"type":"layers","diff_ids":["sha256:../../../../etc/passwd"]}}`,
		"another diffID":    `{"rootfs":{"type":"layers","diff_ids":["` + diffID + `"]}}`,
		"a word as Env":     `{"config":{"Env":"A=1"},"rootfs":{"type":"layers","diff_ids":["` + diffID + `"]}}`,
		"created yesterday": `{"created":"yesterday","rootfs":{"type":"layers","diff_ids":["` + diffID + `"]}}`,
	} {
		t.Run(name, func(t *testing.T) {
			l := open(t)
			good := put(t, l, content.Host(), time.Unix(1, 0), "a")
			img, err := content.Resolve(t.Context(), l.Store.Content, good, content.Host())
			if err != nil {
				t.Fatal(err)
			}
			bad := img.Manifest
			bad.Config = blob(t, l, ocispec.MediaTypeImageConfig, []byte(config))
			archive := layoutOf(t, good, blob(t, l, bad.MediaType, marshal(t, bad)))
			got, err := l.Load(t.Context(), bytes.NewReader(archive), LoadOptions{})
			if err == nil || errdefs.IsNotFound(err) {
				t.Errorf("got %v, %v", got, err)
			}
			if list := tags(t, l); len(list) > 0 {
				t.Errorf("there are the names %v", list)
			}
			if problems, err := l.Store.Check(t.Context()); err != nil || len(problems) > 0 {
				t.Errorf("check: %v, %v", problems, err)
			}
		})
	}
}

// TestLoadArtifacts: what is no image is passed over beside images, and refused where there is nothing else.
// An image that says what it is used for is an image.
func TestLoadArtifacts(t *testing.T) {
	l := open(t)
	host := put(t, l, content.Host(), time.Unix(1, 0), "a")
	img, err := content.Resolve(t.Context(), l.Store.Content, host, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	typed := img.Manifest
	typed.ArtifactType = "application/vnd.example"
	sbom := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.example",
		Config: blob(t, l, ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{blob(t, l, "text/spdx", []byte("sbom"))}}
	artifact := blob(t, l, sbom.MediaType, marshal(t, sbom))
	if got, err := l.Load(t.Context(), bytes.NewReader(layoutOf(t, artifact)), LoadOptions{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "artifact") {
		t.Errorf("an artifact alone: got %v, %v", got, err)
	}
	image := blob(t, l, typed.MediaType, marshal(t, typed))
	got, err := l.Load(t.Context(), bytes.NewReader(layoutOf(t, artifact, image)), LoadOptions{})
	if err != nil || len(got) != 1 || got[0].ID != img.Manifest.Config.Digest {
		t.Errorf("got %v, %v, want the image %s alone", got, err, img.Manifest.Config.Digest)
	}
	if list := tags(t, l); len(list) != 1 || !strings.Contains(list[0], "x:1") {
		t.Errorf("there are the names %v", list)
	}
}

// TestLoadFromFile: a file, in which one can seek, comes to the same as a stream, and a layer that is another
// than the archive says is refused before anything has a name.
func TestLoadFromFile(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	both := index(t, l, put(t, l, content.Host(), day, "a", "shared"), put(t, l, other, day, "b", "shared"))
	name(t, l, both, "docker.io/library/x:1")
	var saved bytes.Buffer
	if err := l.Save(ctx, &saved, []string{"x:1"}, SaveOptions{}); err != nil {
		t.Fatal(err)
	}
	blobs := func(l *Library) map[digest.Digest]int64 {
		list := map[digest.Digest]int64{}
		if err := l.Store.Content.Walk(ctx, func(i content.Info) error { list[i.Digest] = i.Size; return nil }); err != nil {
			t.Fatal(err)
		}
		return list
	}
	streamed := open(t)
	want, err := streamed.Load(ctx, io.MultiReader(bytes.NewReader(saved.Bytes())), LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	filed := open(t)
	for range 2 { // the second time all of it is there
		got, err := filed.Load(ctx, bytes.NewReader(saved.Bytes()), LoadOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got) + cmp.Diff(blobs(streamed), blobs(filed)); diff != "" {
			t.Error(diff)
		}
	}
	if problems, err := filed.Store.Check(ctx); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
	for what, file := range map[string]string{"of this machine": "a", "of another": "b"} {
		// The layer's only file holds its own name.
		at := bytes.LastIndex(saved.Bytes(), []byte("\x00"+file+"\x00\x00\x00"))
		if at < 0 {
			t.Fatal("no such layer in the archive")
		}
		bad := bytes.Clone(saved.Bytes())
		bad[at+1] = 'z'
		l := open(t)
		if got, err := l.Load(ctx, bytes.NewReader(bad), LoadOptions{}); !errdefs.IsDataLoss(err) {
			t.Errorf("a bad layer %s: got %v, %v", what, got, err)
		}
		if list := tags(t, l); len(list) > 0 {
			t.Errorf("a bad layer %s: there are the names %v", what, list)
		}
		if problems, err := l.Store.Check(ctx); err != nil || len(problems) > 0 {
			t.Errorf("check: %v, %v", problems, err)
		}
	}
}

// TestLoadOmitted: docker's clients send an empty file, or none, for a layer that their daemon has below the same layers.
func TestLoadOmitted(t *testing.T) {
	ctx := t.Context()
	l := open(t)
	base, err := content.Resolve(ctx, l.Store.Content, put(t, l, content.Host(), day, "a", "b"), content.Host())
	if err != nil {
		t.Fatal(err)
	}
	name(t, l, put(t, l, content.Host(), day, "b"), "docker.io/library/other:1")
	name(t, l, base.Descriptor, "docker.io/library/base:1")
	a, b := base.Config.RootFS.DiffIDs[0], base.Config.RootFS.DiffIDs[1]
	var c bytes.Buffer
	w := tar.NewWriter(&c)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "c", Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	archive := func(layers []string, diffIDs ...digest.Digest) []byte {
		config := base.Config
		config.RootFS.DiffIDs, config.History = diffIDs, nil
		var out bytes.Buffer
		w := tar.NewWriter(&out)
		for _, f := range []struct{ name, data string }{
			{"c.json", string(marshal(t, config))},
			{"empty", ""},
			{"c.tar", c.String()},
			{"manifest.json", string(marshal(t, []map[string]any{{"Config": "c.json", "RepoTags": []string{"made:1"}, "Layers": layers}}))},
		} {
			if err := errors.Join(w.WriteHeader(&tar.Header{Name: f.name, Size: int64(len(f.data)), Mode: 0o644}), write(w, f.data)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	for what, streamed := range map[string]bool{"stream": true, "file": false} {
		load := func(archive []byte) ([]Loaded, error) {
			r := io.Reader(bytes.NewReader(archive))
			if streamed {
				r = io.MultiReader(r)
			}
			return l.Load(ctx, r, LoadOptions{})
		}
		if _, err := load(archive([]string{"empty", "missing", "c.tar"}, a, b, digest.FromBytes(c.Bytes()))); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if _, made, err := listing.Find(ctx, l.Store, "made:1"); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if diff := cmp.Diff(base.Manifest.Layers, made.Manifest.Layers[:2]); diff != "" {
			t.Errorf("%s: %s", what, diff)
		}
		for refused, bad := range map[string][]byte{
			"not at the bottom of any image": archive([]string{"c.tar", "empty"}, digest.FromBytes(c.Bytes()), b),
			"in another order":               archive([]string{"empty", "empty"}, b, a),
			"unknown":                        archive([]string{"empty", "empty", "empty"}, a, b, digest.FromString("nobody's")),
			"missing and unknown":            archive([]string{"missing"}, digest.FromString("nobody's")),
		} {
			if got, err := load(bad); !errdefs.IsDataLoss(err) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%s, a layer that is %s: %v, %v", what, refused, got, err)
			}
		}
	}
	if problems, err := l.Store.Check(ctx); err != nil || len(problems) > 0 {
		t.Errorf("check: %v, %v", problems, err)
	}
}
