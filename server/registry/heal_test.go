package registry

import (
	"os"
	"testing"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"

	upstream "github.com/teu-dev/teu/registry"
)

// TestHeal: what a verification put out of the way comes back from a registry that has it, by
// an import with its tags, and into a mirror with the next pull.
func TestHeal(t *testing.T) {
	u := newUpstream(t)
	m := u.image("team/app", "config", "a layer")
	manifest, layer := u.put("team/app", "v1", m), m.Layers[0].Digest
	puller := upstream.New(upstream.Options{HostDirs: []string{}})
	open := func(name, repo string) (Upstream, error) {
		ref, err := reference.ParseNormalizedNamed(name + "/" + repo)
		if err != nil {
			return nil, err
		}
		return puller.Repository(ref)
	}
	o := Options{Root: t.TempDir(), Mirrors: []Mirror{{Prefix: "hub", Registry: u.host, TTL: -1}}, OpenUpstream: open}
	load := func() {
		t.Helper()
		if _, err := Import(t.Context(), o, RemoteSource(u.host, open), []string{"team/app"}, func(string) {}); err != nil {
			t.Fatal(err)
		}
	}
	load()
	c := serveOptions(t, o)
	pull := func(repo string) {
		t.Helper()
		c.want(c.do("GET", "/v2/"+repo+"/manifests/v1", nil), 200, "")
		if a := c.want(c.do("GET", "/v2/"+repo+"/blobs/"+layer.String(), nil), 200, ""); string(a.body) != "a layer" {
			t.Errorf("%s: got %q", repo, a.body)
		}
	}
	pull("team/app")
	pull("hub/team/app")
	c.settled("hub/team/app", layer.String())
	flipStored(t, o, "team/app", []digest.Digest{layer}, manifest.Digest)
	if r, err := Verify(t.Context(), o, VerifyOptions{Quarantine: true}); err != nil || len(r.Bad) != 2 {
		t.Fatalf("got %+v, %v", r, err)
	}
	pull("hub/team/app")
	c.want(c.do("GET", "/v2/team/app/manifests/v1", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/team/app/blobs/"+layer.String(), nil), 404, codeBlobUnknown)
	load()
	pull("team/app")
	if r, err := Verify(t.Context(), o, VerifyOptions{Quarantine: false}); err != nil || len(r.Bad) != 0 {
		t.Errorf("got %+v, %v after it was healed", r, err)
	}
}

// TestVerifyHeal: a verification fetches what is bad from another registry, blobs for all the
// repositories that had them and manifests with their tags, and says what it could not get.
func TestVerifyHeal(t *testing.T) {
	for name, o := range map[string]Options{"directory": {Root: t.TempDir()}, "bucket": {Bucket: BucketOptions{URL: startS3(t), Region: "us-east-1", Temp: t.TempDir()}}} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			c := serveOptions(t, o)
			m := u.image("team/app", "config", "a layer")
			layer := m.Layers[0].Digest
			u.put("team/app", "v1", m)
			c.image("team/app", "config", "a layer")
			manifest := c.put("team/app", "v1", m)
			c.put("team/app", "v2", m)
			c.want(c.do("POST", "/v2/other/blobs/uploads/?mount="+layer.String()+"&from=team/app", nil), 201, "")
			lost := c.blob("team/app", []byte("only here"))
			flipStored(t, o, "team/app", []digest.Digest{layer, lost.Digest}, manifest.Digest)

			puller := upstream.New(upstream.Options{HostDirs: []string{}})
			src := RemoteSource(u.host, func(name, repo string) (Upstream, error) {
				ref, err := reference.ParseNormalizedNamed(name + "/" + repo)
				if err != nil {
					return nil, err
				}
				return puller.Repository(ref)
			})
			r, err := Verify(t.Context(), o, VerifyOptions{Heal: src})
			if err != nil || len(r.Bad) != 3 || r.Healed != 2 {
				t.Fatalf("got %+v, %v; want two of three healed", r, err)
			}
			for _, b := range r.Bad {
				if b.Healed == (b.Digest == lost.Digest) || b.Healed == (b.NotHealed != "") {
					t.Errorf("got %+v", b)
				}
			}
			for _, path := range []string{"team/app/manifests/v1", "team/app/manifests/v2", "team/app/manifests/" + manifest.Digest.String(),
				"team/app/blobs/" + layer.String(), "other/blobs/" + layer.String()} {
				if a := c.do("GET", "/v2/"+path, nil); a.status != 200 || a.header.Get("Docker-Content-Digest") != digest.FromBytes(a.body).String() {
					t.Errorf("%s: got %d %q", path, a.status, a.body)
				}
			}
			c.want(c.do("GET", "/v2/team/app/blobs/"+lost.Digest.String(), nil), 404, codeBlobUnknown)
			if r, err := Verify(t.Context(), o, VerifyOptions{}); err != nil || len(r.Bad) != 0 {
				t.Errorf("got %+v, %v after it was healed", r, err)
			}
		})
	}
}

// flipStored changes blobs, and a manifest of repo, below the registry.
func flipStored(t *testing.T, o Options, repo string, blobs []digest.Digest, manifest digest.Digest) {
	t.Helper()
	s, err := openStorage(o)
	if err != nil {
		t.Fatal(err)
	}
	if b, ok := s.(*bucket); ok {
		for _, d := range blobs {
			flipData(t, b, d)
		}
		record, err := b.get(t.Context(), recordKey(repo, manifest))
		if err != nil {
			t.Fatal(err)
		}
		record.body[len(record.body)-1] ^= 1
		if err := b.put(t.Context(), recordKey(repo, manifest), record.body); err != nil {
			t.Fatal(err)
		}
		return
	}
	paths := []string{s.(*directory).recordPath(repo, manifest)}
	for _, d := range blobs {
		paths = append(paths, s.(*directory).blobPath(d))
	}
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil { // in place, as a disk does it
			t.Fatal(err)
		}
	}
}

// flipData writes other bytes where those of d are.
func flipData(t *testing.T, b *bucket, d digest.Digest) {
	t.Helper()
	p, err := b.pointer(t.Context(), blobKey(d))
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString("xxx layer"); err != nil {
		t.Fatal(err)
	}
	if err := b.putData(t.Context(), p.data, f, 9); err != nil {
		t.Fatal(err)
	}
}
