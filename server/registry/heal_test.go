package registry

import (
	"os"
	"testing"

	"github.com/distribution/reference"

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
	s, err := openDirectory(o.Root)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{s.blobPath(layer), s.recordPath("team/app", manifest.Digest)} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil { // in place, as a disk does it
			t.Fatal(err)
		}
	}
	if r, err := Verify(t.Context(), o, true); err != nil || len(r.Bad) != 2 {
		t.Fatalf("got %+v, %v", r, err)
	}
	pull("hub/team/app")
	c.want(c.do("GET", "/v2/team/app/manifests/v1", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/team/app/blobs/"+layer.String(), nil), 404, codeBlobUnknown)
	load()
	pull("team/app")
	if r, err := Verify(t.Context(), o, false); err != nil || len(r.Bad) != 0 {
		t.Errorf("got %+v, %v after it was healed", r, err)
	}
}
