package registry

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestPutAndGetManifest(t *testing.T) {
	c := serve(t)
	m := c.image("a/b", "config", "layer")
	b := append(encode(t, m), '\n') // kept byte for byte
	d := digest.FromBytes(b)
	a := c.want(c.do("PUT", "/v2/a/b/manifests/v1", bytes.NewReader(b), "Content-Type", m.MediaType+"; charset=utf-8"), 201, "")
	if got, want := a.header.Get("Location"), "/v2/a/b/manifests/"+d.String(); got != want {
		t.Errorf("got location %s, want %s", got, want)
	}
	for _, ref := range []string{"v1", d.String()} {
		for _, method := range []string{"GET", "HEAD"} {
			a := c.want(c.do(method, "/v2/a/b/manifests/"+ref, nil), 200, "")
			got := []string{a.header.Get("Content-Type"), a.header.Get("Docker-Content-Digest"), a.header.Get("Content-Length"), string(a.body)}
			want := []string{m.MediaType, d.String(), fmt.Sprint(len(b)), string(b)}
			if method == "HEAD" {
				want[3] = ""
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s %s (-want +got):\n%s", method, ref, diff)
			}
		}
		for _, has := range []string{`"` + d.String() + `"`, `W/"` + d.String() + `"`, `"x",  "` + d.String() + `"`, "*", d.String()} {
			c.want(c.do("GET", "/v2/a/b/manifests/"+ref, nil, "If-None-Match", has), 304, "")
		}
		c.want(c.do("GET", "/v2/a/b/manifests/"+ref, nil, "If-None-Match", `"x", `), 200, "")
	}
}

// TestManifestKinds: every kind of document comes back with its type.
func TestManifestKinds(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	image := c.put("a", "oci", m)

	docker := m
	docker.MediaType = dockerManifest
	dockerImage := c.put("a", "docker", docker)

	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image, dockerImage}}
	index.SchemaVersion = 2
	nested := index
	nested.Manifests = []ocispec.Descriptor{c.put("a", "index", index)}
	c.put("a", "nested", nested)

	empty := index
	empty.Manifests = []ocispec.Descriptor{}
	c.put("a", "empty", empty)

	list := index
	list.MediaType = dockerList
	c.put("a", "list", list)

	// BuildKit's cache: an index whose entries are blobs.
	cache := index
	cache.Manifests = m.Layers
	c.put("a", "cache", cache)

	foreign := m
	foreign.Layers = []ocispec.Descriptor{
		{MediaType: dockerForeign, Digest: digest.FromString("1"), Size: 1, URLs: []string{"https://example.com/1"}},
		{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", Digest: digest.FromString("2"), Size: 1},
	}
	c.put("a", "foreign", foreign)

	artifact := m
	artifact.ArtifactType = "application/vnd.example"
	artifact.Layers = []ocispec.Descriptor{}
	c.put("a", "artifact", artifact)

	c.put("a", "old-artifact", map[string]any{"mediaType": "application/vnd.oci.artifact.manifest.v1+json", "blobs": m.Layers})

	for tag, want := range map[string]string{
		"oci": ocispec.MediaTypeImageManifest, "docker": dockerManifest, "index": ocispec.MediaTypeImageIndex,
		"nested": ocispec.MediaTypeImageIndex, "list": dockerList, "cache": ocispec.MediaTypeImageIndex,
		"old-artifact": "application/vnd.oci.artifact.manifest.v1+json",
	} {
		if got := c.want(c.do("GET", "/v2/a/manifests/"+tag, nil), 200, "").header.Get("Content-Type"); got != want {
			t.Errorf("%s: got %s, want %s", tag, got, want)
		}
	}
}

func TestPutManifestErrors(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	good := string(encode(t, m))
	without := func(edit func(m *ocispec.Manifest)) string {
		m := m
		m.Layers = slices.Clone(m.Layers)
		edit(&m)
		return string(encode(t, m))
	}
	oci, index := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	some := string(encode(t, m.Config))
	tests := map[string]struct {
		ref, contentType, body string
		status                 int
		code                   string
	}{
		"not JSON":             {"x", oci, "{", 400, codeManifestInvalid},
		"not an object":        {"x", oci, "[]", 400, codeManifestInvalid},
		"empty":                {"x", oci, "", 400, codeManifestInvalid},
		"no type at all":       {"x", "", `{"config":` + some + `}`, 400, codeManifestInvalid},
		"type is no manifest":  {"x", "text/html", `{}`, 400, codeManifestInvalid},
		"type with a line":     {"x", "", `{"mediaType":"application/vnd.x\nSet-Cookie: x+json"}`, 400, codeManifestInvalid},
		"type with a blank":    {"x", "", `{"mediaType":"application/vnd.x split+json"}`, 400, codeManifestInvalid},
		"types differ":         {"x", index, good, 400, codeManifestInvalid},
		"schema 1":             {"x", "application/vnd.docker.distribution.manifest.v1+prettyjws", `{}`, 400, codeManifestInvalid},
		"both kinds":           {"x", oci, `{"config":` + some + `,"manifests":[]}`, 400, codeManifestInvalid},
		"index with layers":    {"x", index, `{"layers":[],"manifests":[]}`, 400, codeManifestInvalid},
		"no config":            {"x", oci, `{"layers":[]}`, 400, codeManifestInvalid},
		"no schemaVersion":     {"x", index, `{"manifests":[]}`, 400, codeManifestInvalid},
		"schemaVersion 1":      {"x", index, `{"schemaVersion":1,"manifests":[]}`, 400, codeManifestInvalid},
		"schemaVersion a word": {"x", index, `{"schemaVersion":"2","manifests":[]}`, 400, codeManifestInvalid},
		"bad digest inside":    {"x", oci, without(func(m *ocispec.Manifest) { m.Layers[0].Digest = "sha256:../../x" }), 400, codeManifestInvalid},
		"a layer of null":      {"x", oci, `{"schemaVersion":2,"config":` + some + `,"layers":[null]}`, 400, codeManifestInvalid},
		"a layer of a word":    {"x", oci, `{"schemaVersion":2,"config":` + some + `,"layers":["x"]}`, 400, codeManifestInvalid},
		"negative size":        {"x", oci, without(func(m *ocispec.Manifest) { m.Layers[0].Size = -1 }), 400, codeManifestInvalid},
		"bad subject":          {"x", oci, without(func(m *ocispec.Manifest) { m.Subject = &ocispec.Descriptor{Digest: "x"} }), 400, codeManifestInvalid},
		"layer missing":        {"x", oci, without(func(m *ocispec.Manifest) { m.Layers[0].Digest = digest.FromString("?") }), 404, codeManifestBlobUnknown},
		"config missing":       {"x", oci, without(func(m *ocispec.Manifest) { m.Config.Digest = digest.FromString("?") }), 404, codeManifestBlobUnknown},
		"child missing":        {"x", index, fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"digest":%q}]}`, digest.FromString("?")), 404, codeManifestBlobUnknown},
		"digest differs":       {digest.FromString("?").String(), oci, good, 400, codeDigestInvalid},
		"digest malformed":     {"sha256:1", oci, good, 400, codeDigestInvalid},
		"bad tag":              {".x", oci, good, 400, codeManifestInvalid},
		"long tag":             {strings.Repeat("x", 129), oci, good, 400, codeManifestInvalid},
		"too large":            {"x", oci, strings.Repeat(" ", maxManifest) + good, 413, codeSizeInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := &client{t, c.base, c.http}
			c.want(c.do("PUT", "/v2/a/manifests/"+test.ref, strings.NewReader(test.body), "Content-Type", test.contentType), test.status, test.code)
		})
	}
	// The same without a Content-Length.
	stream := struct{ io.Reader }{strings.NewReader(strings.Repeat(" ", maxManifest) + good)}
	c.want(c.do("PUT", "/v2/a/manifests/x", stream, "Content-Type", oci), 413, codeSizeInvalid)
	c.want(c.do("GET", "/v2/a/manifests/x", nil), 404, codeManifestUnknown)
}

// TestMissingReferences: the answer names all that has to be pushed first, each once: layers, then
// the config.
func TestMissingReferences(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	there := m.Layers[0]
	var want []string
	for _, s := range []string{"x", "y", "z"} {
		want = append(want, digest.FromString(s).String())
	}
	layer := func(i int) ocispec.Descriptor {
		return ocispec.Descriptor{MediaType: there.MediaType, Digest: digest.Digest(want[i]), Size: 1}
	}
	m.Config.Digest, m.Layers = digest.Digest(want[2]), []ocispec.Descriptor{layer(0), there, layer(1), layer(0)}
	a := c.want(c.do("PUT", "/v2/a/manifests/x", bytes.NewReader(encode(t, m)), "Content-Type", m.MediaType), 404, codeManifestBlobUnknown)
	var doc struct {
		Errors []struct {
			Code   string
			Detail struct{ Digest string }
		}
	}
	if err := json.Unmarshal(a.body, &doc); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range doc.Errors {
		got = append(got, e.Detail.Digest)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v: %s", got, want, a.body)
	}
}

// TestManifestMemory: what a few bytes stand for takes no more memory than they do.
func TestManifestMemory(t *testing.T) {
	bodies := map[string]string{}
	for _, layer := range []string{"{}", "null", `{"digest":"x"}`, `{"urls":["",""]}`, "[]", "1"} {
		bodies["layers of "+layer] = `{"schemaVersion":2,"layers":[` + strings.Repeat(layer+",", maxManifest/(len(layer)+1)-20) + layer + "]}"
	}
	var notes strings.Builder
	for i := range maxManifest/11 - 20 {
		fmt.Fprintf(&notes, `"%05x":"",`, i)
	}
	bodies["annotations"] = `{"schemaVersion":2,"annotations":{` + notes.String() + `"":""}}`
	for name, body := range bodies {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := parseManifest([]byte(body), ocispec.MediaTypeImageManifest); err == nil {
			t.Errorf("%s are taken", name)
		}
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 4*maxManifest {
			t.Errorf("%s take %d MB", name, took>>20)
		}
	}
}

// TestSlowManifests: manifests that come slowly are not in memory.
func TestSlowManifests(t *testing.T) {
	c := serve(t)
	before := heap()
	sent := []byte(strings.Repeat(" ", 3<<20))
	for range 32 {
		conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", maxManifest)
		if _, err := conn.Write(sent); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		if took := heap() - before; took > 16<<20 {
			t.Fatalf("32 of them take %d MB", took>>20)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// heap is how many bytes are in use.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestLargeManifest(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	m.Annotations = map[string]string{"padding": strings.Repeat("x", maxManifest-2000)}
	d := c.put("a", "x", m)
	if a := c.want(c.do("GET", "/v2/a/manifests/x", nil), 200, ""); digest.FromBytes(a.body) != d.Digest {
		t.Error("the manifest came back different")
	}
}

func TestGetManifestErrors(t *testing.T) {
	c := serve(t)
	c.tagged("a", "x")
	c.want(c.do("GET", "/v2/a/manifests/y", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/.y", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/"+digest.FromString("y").String(), nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/sha256:y", nil), 400, codeDigestInvalid)
	c.want(c.do("GET", "/v2/b/manifests/x", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/x/manifests/x", nil), 404, codeManifestUnknown)
}

// TestPushHealsManifest: a manifest that a disk has changed is not there for who asks whether it need be pushed, and
// a push brings it back, for all its tags.
func TestPushHealsManifest(t *testing.T) {
	o := Options{Root: t.TempDir(), Anonymous: true, AllowDelete: true}
	c := serveOptions(t, o)
	s, err := openDirectory(o.Root, false)
	if err != nil {
		t.Fatal(err)
	}
	subject := c.tagged("a", "subject")
	m := c.image("a", "config", "layer")
	m.Subject = &subject
	d := c.put("a", "one", m).Digest
	c.put("a", "two", m)
	body := encode(t, m)
	good, err := os.ReadFile(s.recordPath("a", d))
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "zeros": make([]byte, len(good)), "short": good[:len(good)-10], "other bytes": bytes.Replace(good, []byte("image"), []byte("imago"), 2),
		"another digest": bytes.Replace(good, []byte(d.Encoded()[:4]), []byte("0000"), 1),
	} {
		for push, path := range map[string]string{"by tag": "one", "by digest": d.String()} {
			if err := os.WriteFile(s.recordPath("a", d), bad, 0o600); err != nil {
				t.Fatal(err)
			}
			if a := c.do("HEAD", "/v2/a/manifests/"+d.String(), nil); a.status != 404 {
				t.Errorf("%s: HEAD is answered %d", name, a.status)
			}
			c.want(c.do("PUT", "/v2/a/manifests/"+path, bytes.NewReader(body), "Content-Type", m.MediaType), 201, "")
			for _, ref := range []string{"one", "two", d.String()} {
				if a := c.do("GET", "/v2/a/manifests/"+ref, nil); a.status != 200 || !bytes.Equal(a.body, body) || a.header.Get("Docker-Content-Digest") != d.String() {
					t.Errorf("%s, pushed %s: %s is %d %.50s", name, push, ref, a.status, a.body)
				}
			}
			c.want(c.do("HEAD", "/v2/a/manifests/"+d.String(), nil), 200, "")
			if a := c.want(c.do("GET", "/v2/a/referrers/"+subject.Digest.String(), nil), 200, ""); !strings.Contains(string(a.body), d.String()) {
				t.Errorf("%s: the referrers are %s", name, a.body)
			}
		}
	}
	c.want(c.do("DELETE", "/v2/a/manifests/"+d.String(), nil), 202, "")
	for _, ref := range []string{"one", "two", d.String()} {
		c.want(c.do("GET", "/v2/a/manifests/"+ref, nil), 404, codeManifestUnknown)
	}
}

func TestMoveTag(t *testing.T) {
	c := serve(t)
	first := c.put("a", "latest", c.image("a", "1", "1"))
	second := c.put("a", "latest", c.image("a", "2", "2"))
	for range 2 { // setting it again to the same changes nothing
		a := c.want(c.do("GET", "/v2/a/manifests/latest", nil), 200, "")
		if got := a.header.Get("Docker-Content-Digest"); got != second.Digest.String() {
			t.Errorf("got %s, want %s", got, second.Digest)
		}
		c.want(c.do("GET", "/v2/a/manifests/"+first.Digest.String(), nil), 200, "")
		c.put("a", "latest", c.image("a", "2", "2"))
	}
}

// TestManifestByDigest covers distribution-spec 1.2's tag parameters, and sha512.
func TestManifestByDigest(t *testing.T) {
	c := serve(t)
	b := encode(t, c.image("a", "config", "layer"))
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		d := digestOf(algorithm, b).String()
		tags := []string{algorithm.String() + "-1", algorithm.String() + "-2"}
		a := c.want(c.do("PUT", "/v2/a/manifests/"+d+"?tag="+tags[0]+"&tag="+tags[1], bytes.NewReader(b)), 201, "")
		if got := a.header.Values("OCI-Tag"); !slices.Equal(got, tags) {
			t.Errorf("got OCI-Tag %v, want %v", got, tags)
		}
		for _, ref := range append(tags, d) {
			if got := c.want(c.do("GET", "/v2/a/manifests/"+ref, nil), 200, "").header.Get("Docker-Content-Digest"); got != d {
				t.Errorf("%s: got %s, want %s", ref, got, d)
			}
		}
	}
	d := digest.FromBytes(b).String()
	c.want(c.do("PUT", "/v2/a/manifests/"+d+"?tag=.x", bytes.NewReader(b)), 400, codeManifestInvalid)
	c.want(c.do("PUT", "/v2/a/manifests/"+d+"?"+strings.Repeat("tag=x&", maxTagParameters+1), bytes.NewReader(b)), 400, codeManifestInvalid)
}

func TestDeleteManifest(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	d := c.put("a", "one", m).Digest.String()
	c.put("a", "two", m)
	c.tagged("a", "other")

	c.want(c.do("DELETE", "/v2/a/manifests/one", nil), 202, "")
	c.want(c.do("GET", "/v2/a/manifests/one", nil), 404, codeManifestUnknown)
	c.want(c.do("DELETE", "/v2/a/manifests/one", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/two", nil), 200, "")
	c.want(c.do("GET", "/v2/a/manifests/"+d, nil), 200, "")

	c.want(c.do("DELETE", "/v2/a/manifests/"+d, nil), 202, "")
	c.want(c.do("GET", "/v2/a/manifests/"+d, nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/two", nil), 404, codeManifestUnknown)
	c.want(c.do("DELETE", "/v2/a/manifests/"+d, nil), 404, codeManifestUnknown)
	c.want(c.do("DELETE", "/v2/b/manifests/"+d, nil), 404, codeManifestUnknown)
	c.want(c.do("DELETE", "/v2/a/manifests/sha256:1", nil), 400, codeDigestInvalid)
	c.want(c.do("DELETE", "/v2/a/manifests/.x", nil), 404, codeManifestUnknown)

	if got, want := tagsOf(c, "a", ""), []string{"other"}; !slices.Equal(got, want) {
		t.Errorf("got tags %v, want %v", got, want)
	}
	c.put("a", "again", m)
	c.want(c.do("GET", "/v2/a/manifests/"+d, nil), 200, "")
}

// TestReferrers: subjects may come later than what refers to them.
func TestReferrers(t *testing.T) {
	c := serve(t)
	subject := c.image("a", "config", "layer")
	b := encode(t, subject)
	want := ocispec.Descriptor{MediaType: subject.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	path := "/v2/a/referrers/" + want.Digest.String()
	if got := referrersOf(c, path); len(got) != 0 {
		t.Fatalf("got %v, want none", got)
	}

	sbom := c.image("a", "{}", "sbom")
	sbom.ArtifactType, sbom.Subject = "application/vnd.example.sbom", &want
	sbom.Annotations = map[string]string{"k": "v"}
	plain := c.image("a", "config", "plain")
	plain.Subject = &want
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Subject: &want, Manifests: []ocispec.Descriptor{}}

	a := c.want(c.do("PUT", "/v2/a/manifests/sbom", bytes.NewReader(encode(t, sbom)), "Content-Type", sbom.MediaType), 201, "")
	if got := a.header.Get("OCI-Subject"); got != want.Digest.String() {
		t.Errorf("got OCI-Subject %q, want %s", got, want.Digest)
	}
	descs := []ocispec.Descriptor{c.put("a", "sbom", sbom), c.put("a", "plain", plain), c.put("a", "index", index)}
	descs[0].ArtifactType, descs[0].Annotations = sbom.ArtifactType, sbom.Annotations
	descs[1].ArtifactType = ocispec.MediaTypeImageConfig
	sorted := slices.Clone(descs)
	slices.SortFunc(sorted, func(a, b ocispec.Descriptor) int { return strings.Compare(a.Digest.String(), b.Digest.String()) })
	if diff := cmp.Diff(sorted, referrersOf(c, path)); diff != "" {
		t.Errorf("referrers (-want +got):\n%s", diff)
	}

	filtered := c.want(c.do("GET", path+"?artifactType="+sbom.ArtifactType, nil), 200, "")
	if got := filtered.header.Get("OCI-Filters-Applied"); got != "artifactType" {
		t.Errorf("got OCI-Filters-Applied %q", got)
	}
	if diff := cmp.Diff(descs[:1], referrersOf(c, path+"?artifactType="+sbom.ArtifactType)); diff != "" {
		t.Errorf("filtered (-want +got):\n%s", diff)
	}

	c.put("a", "subject", subject)
	c.want(c.do("DELETE", "/v2/a/manifests/"+descs[0].Digest.String(), nil), 202, "")
	if got := referrersOf(c, path); len(got) != 2 {
		t.Errorf("got %v after the deletion of one of three", got)
	}
	c.want(c.do("GET", "/v2/a/referrers/x", nil), 400, codeDigestInvalid)
	if got := referrersOf(c, "/v2/nowhere/referrers/"+want.Digest.String()); len(got) != 0 {
		t.Errorf("got %v from a repository that is not there", got)
	}
}

// referrersOf reads all pages of a list of referrers.
func referrersOf(c *client, path string) (list []ocispec.Descriptor) {
	c.t.Helper()
	for path != "" {
		a := c.want(c.do("GET", path, nil), 200, "")
		if got := a.header.Get("Content-Type"); got != ocispec.MediaTypeImageIndex {
			c.t.Errorf("got Content-Type %s", got)
		}
		var index ocispec.Index
		if err := json.Unmarshal(a.body, &index); err != nil {
			c.t.Fatal(err)
		}
		if index.Manifests == nil || index.SchemaVersion != 2 || len(a.body) > maxManifest {
			c.t.Errorf("not a proper index: %.200s", a.body)
		}
		list = append(list, index.Manifests...)
		path = nextPage(c, a)
	}
	return list
}

// nextPage returns the target of the Link header, "" without one.
func nextPage(c *client, a answer) string {
	link := a.header.Get("Link")
	if link == "" {
		return ""
	}
	path, ok := strings.CutSuffix(link, `>; rel="next"`)
	if !ok || path[0] != '<' {
		c.t.Fatalf("malformed Link header %q", link)
	}
	return path[1:]
}

func TestReferrersPages(t *testing.T) {
	c := serve(t)
	subject := c.tagged("a", "subject")
	want := map[digest.Digest]bool{}
	for i := range 5 {
		m := c.image("a", "config", "layer")
		m.Subject = &subject
		m.Annotations = map[string]string{"n": fmt.Sprint(i), "padding": strings.Repeat("x", 1<<20)}
		want[c.put("a", fmt.Sprint(i), m).Digest] = true
	}
	path := "/v2/a/referrers/" + subject.Digest.String()
	if nextPage(c, c.do("GET", path, nil)) == "" {
		t.Error("5 MB came on one page")
	}
	for _, d := range referrersOf(c, path) {
		if !want[d.Digest] {
			t.Errorf("%s came twice or should not have come", d.Digest)
		}
		delete(want, d.Digest)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}

// TestTooLargeManifestIsAnswered: also to who first sends all of it.
func TestTooLargeManifestIsAnswered(t *testing.T) {
	c := serve(t)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := bytes.Repeat([]byte(" "), maxManifest+8<<20)
	head := fmt.Sprintf("PUT /v2/a/manifests/x HTTP/1.1\r\nHost: x\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n", ocispec.MediaTypeImageManifest, len(body))
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("got %s, want 413", resp.Status)
	}
}
