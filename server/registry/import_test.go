package registry

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	upstream "github.com/teu-dev/teu/registry"
)

// distributionTree is a data directory as distribution writes it.
type distributionTree struct {
	t    *testing.T
	root string
}

func (d distributionTree) write(path, text string) {
	d.t.Helper()
	path = filepath.Join(d.root, "docker/registry/v2", path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
}

func (d distributionTree) blob(text string) ocispec.Descriptor {
	sum := digest.FromString(text)
	d.write("blobs/sha256/"+sum.Encoded()[:2]+"/"+sum.Encoded()+"/data", text)
	return ocispec.Descriptor{MediaType: "application/vnd.oci.image.layer.v1.tar", Digest: sum, Size: int64(len(text))}
}

// image writes an image without a mediaType, as OCI allows it.
func (d distributionTree) image(repo, layer string) ocispec.Descriptor {
	m := ocispec.Manifest{Config: d.blob("config"), Layers: []ocispec.Descriptor{d.blob(layer)}}
	m.SchemaVersion = 2
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	return d.manifest(repo, string(encode(d.t, m)))
}

func (d distributionTree) manifest(repo, text string) ocispec.Descriptor {
	desc := d.blob(text)
	d.write("repositories/"+repo+"/_manifests/revisions/sha256/"+desc.Digest.Encoded()+"/link", desc.Digest.String())
	desc.MediaType = ocispec.MediaTypeImageManifest
	return desc
}

func (d distributionTree) tag(repo, tag string, m ocispec.Descriptor) {
	d.write("repositories/"+repo+"/_manifests/tags/"+tag+"/current/link", m.Digest.String())
}

// TestImportDistribution: tags, indexes and manifests without a tag come from the directory
// of a registry:2, and a second time nothing does.
func TestImportDistribution(t *testing.T) {
	d := distributionTree{t, t.TempDir()}
	one, two := d.image("team/app", "layer 1"), d.image("team/app", "layer 2")
	index := ocispec.Index{Manifests: []ocispec.Descriptor{one, two}}
	index.SchemaVersion = 2
	all := d.manifest("team/app", string(encode(t, index)))
	d.tag("team/app", "all", all)
	d.tag("team/app", "one", one)
	other := d.image("other", "layer 1") // the same blob elsewhere, and no tag
	src, err := DistributionSource(d.root)
	if err != nil {
		t.Fatal(err)
	}
	o := testStorage(t)
	run := func() ImportReport {
		t.Helper()
		r, err := Import(t.Context(), o, src, nil, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := run(); r.Repositories != 2 || r.Tags != 2 || r.Manifests != 4 || r.Blobs != 5 {
		t.Errorf("got %+v", r)
	}
	if r := run(); r.Manifests != 0 || r.Blobs != 0 || r.Bytes != 0 {
		t.Errorf("a second time: got %+v", r)
	}
	c := serveOptions(t, o)
	for path, want := range map[string]digest.Digest{
		"team/app/manifests/all": all.Digest, "team/app/manifests/one": one.Digest, "team/app/manifests/" + two.Digest.String(): two.Digest,
		"other/manifests/" + other.Digest.String(): other.Digest, "other/blobs/" + digest.FromString("layer 1").String(): digest.FromString("layer 1"),
	} {
		if a := c.want(c.do("GET", "/v2/"+path, nil), 200, ""); digest.FromBytes(a.body) != want {
			t.Errorf("%s: other bytes", path)
		}
	}
	d.write("blobs/sha256/"+one.Digest.Encoded()[:2]+"/"+one.Digest.Encoded()+"/data", `{"config":{}}`)
	o = Options{Root: t.TempDir()}
	if _, err := Import(t.Context(), o, src, nil, func(string) {}); err == nil {
		t.Error("a manifest with other bytes was imported")
	}
	if _, err := DistributionSource(t.TempDir()); err == nil {
		t.Error("an empty directory is the data of distribution")
	}
}

// TestImportDiamonds: indexes that lead to the same by very many ways are gone through once.
func TestImportDiamonds(t *testing.T) {
	d := distributionTree{t, t.TempDir()}
	level := []ocispec.Descriptor{d.image("app", "layer")}
	for i := range maxNesting {
		var above []ocispec.Descriptor
		for j := range 8 {
			index := ocispec.Index{Manifests: level, Annotations: map[string]string{"which": fmt.Sprint(i, j)}}
			index.SchemaVersion = 2
			m := d.manifest("app", string(encode(t, index)))
			m.MediaType = ocispec.MediaTypeImageIndex
			above = append(above, m)
		}
		level = above
	}
	d.tag("app", "all", level[0])
	src, err := DistributionSource(d.root)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	r, err := Import(ctx, testStorage(t), src, nil, func(string) {})
	if want := 1 + 8*maxNesting; err != nil || r.Manifests != want {
		t.Errorf("got %+v, %v, want %d manifests", r, err, want)
	}
}

// TestImportRemote imports from a running registry.
func TestImportRemote(t *testing.T) {
	u := newUpstream(t)
	d := u.tagged("team/app", "v1")
	client := upstream.New(upstream.Options{HostDirs: []string{}})
	src := RemoteSource(u.host, func(name, repo string) (Upstream, error) {
		ref, err := reference.ParseNormalizedNamed(name + "/" + repo)
		if err != nil {
			return nil, err
		}
		return client.Repository(ref)
	})
	o := testStorage(t)
	if _, err := Import(t.Context(), o, src, nil, func(string) {}); err == nil {
		t.Error("nobody said what to import")
	}
	r, err := Import(t.Context(), o, src, []string{"team/app"}, func(string) {})
	if err != nil || r.Manifests != 1 || r.Blobs != 2 {
		t.Fatalf("got %+v %v", r, err)
	}
	c := serveOptions(t, o)
	if got := tagsOf(c, "team/app", ""); !slices.Equal(got, []string{"v1"}) {
		t.Errorf("got tags %v", got)
	}
	c.want(c.do("GET", "/v2/team/app/manifests/"+d.Digest.String(), nil), 200, "")
}
