package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestConformance goes through the workflows of the specification as its public suite cuts
// them: every way to push a blob with either digest, and for every kind of content push,
// list, look up, pull, referrers and delete. It trusts no answer that can be checked by
// another request.
func TestConformance(t *testing.T) { conform(t, serve(t), "with from", "without") }

// TestConformanceTokens is TestConformance by a client that knows a password and keeps the
// token of each challenge for the repository and the kind of request. A token is for the
// repositories it names, so that no blob is mounted from anywhere with it.
func TestConformanceTokens(t *testing.T) {
	o := testStorage(t)
	o.Accounts, o.AllowDelete = true, true
	err := EditAccounts(t.Context(), o, func(a *Accounts) error {
		a.Rules = []AccessRule{{"**", "ann", []Action{actionPull, actionPush, actionDelete}}}
		return a.SetPassword("ann", "x")
	})
	if err != nil {
		t.Fatal(err)
	}
	c := serveOptions(t, o)
	conform(t, &client{t, c.base, &http.Client{Transport: &tokenTransport{c, map[string]string{}}}}, "with from")
}

func conform(t *testing.T, with *client, mounts ...string) {
	c := &conformer{with, rand.New(rand.NewPCG(1, 2))}
	t.Run("empty", func(t *testing.T) { c.in(t).empty() })
	for _, a := range algorithms {
		for name, push := range blobWays() {
			t.Run(a.String()+" blob, "+name, func(t *testing.T) { c.in(t).blobWay(a, push) })
		}
		for _, name := range mounts {
			t.Run(a.String()+" mount "+name, func(t *testing.T) { c.in(t).mount(a, name) })
		}
		t.Run(a.String()+" cancel", func(t *testing.T) { c.in(t).cancel() })
		t.Run(a.String()+" ranges", func(t *testing.T) { c.in(t).ranges(a) })
		t.Run(a.String()+" out of order", func(t *testing.T) { c.in(t).outOfOrder(a) })
	}
	for name, make := range contents() {
		t.Run(name, func(t *testing.T) {
			s := &contentSet{c: c.in(t), algorithm: digest.SHA256, tags: map[string]digest.Digest{}}
			make(s)
			s.run()
		})
	}
	t.Run("manifest errors", func(t *testing.T) { c.in(t).manifestErrors() })
}

// conformer is a client with random content.
type conformer struct {
	*client
	random *rand.Rand
}

const (
	conformRepo  = "conformance/repo1"
	conformRepo2 = "conformance/repo2"
)

func (c *conformer) in(t *testing.T) *conformer {
	return &conformer{&client{t, c.base, c.http}, c.random}
}

func (c *conformer) bytes(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(c.random.Uint32())
	}
	return b
}

func (c *conformer) empty() {
	c.want(c.do("GET", "/v2/", nil), 200, "")
	c.want(c.do("GET", "/v2/"+conformRepo+"/tags/list", nil), 404, codeNameUnknown)
	if got := referrersOf(c.client, "/v2/"+conformRepo+"/referrers/"+digest.FromString("none").String()); len(got) != 0 {
		c.t.Errorf("got referrers %v of nothing", got)
	}
	c.want(c.do("GET", "/v2/"+conformRepo+"/blobs/"+digest.FromString("none").String(), nil), 404, codeBlobUnknown)
}

// pushWay pushes b, announced as d, and returns the last answer.
type pushWay func(c *conformer, repo string, d digest.Digest, b []byte) answer

func blobWays() map[string]pushWay {
	finish := func(c *conformer, location string, d digest.Digest, body io.Reader, headers ...string) answer {
		return c.do("PUT", location+"?digest="+d.String(), body, headers...)
	}
	octets := []string{"Content-Type", "application/octet-stream"}
	patch := func(c *conformer, location string, start, end int, b []byte) string {
		a := c.want(c.do("PATCH", location, bytes.NewReader(b[start:end]), "Content-Range", fmt.Sprintf("%d-%d", start, end-1)), 202, "")
		return a.header.Get("Location")
	}
	return map[string]pushWay{
		"POST": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			return c.do("POST", "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), bytes.NewReader(b), octets...)
		},
		"POST, PUT": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			return finish(c, c.start(repo), d, bytes.NewReader(b), octets...)
		},
		"one chunk": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			location := c.start(repo)
			if len(b) > 0 {
				location = patch(c, location, 0, len(b), b)
			}
			return finish(c, location, d, nil)
		},
		"three chunks": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			location, third := c.start(repo), len(b)/3
			if third > 0 {
				location = patch(c, patch(c, location, 0, third, b), third, 2*third, b)
			}
			if len(b) > 2*third {
				location = patch(c, location, 2*third, len(b), b)
			}
			return finish(c, location, d, nil)
		},
		"the last chunk by PUT": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			location, half := c.start(repo), len(b)/2
			if half > 0 {
				location = patch(c, location, 0, half, b)
			}
			if half == len(b) {
				return finish(c, location, d, nil)
			}
			return finish(c, location, d, bytes.NewReader(b[half:]), "Content-Range", fmt.Sprintf("%d-%d", half, len(b)-1))
		},
		"stream": func(c *conformer, repo string, d digest.Digest, b []byte) answer {
			a := c.want(c.do("PATCH", c.start(repo), struct{ io.Reader }{bytes.NewReader(b)}, octets...), 202, "")
			return finish(c, a.header.Get("Location"), d, nil)
		},
	}
}

// blobWay pushes contents in one way, looks at them in every way and deletes them; and
// content that is not what it is announced as, which must not be there afterwards.
func (c *conformer) blobWay(a digest.Algorithm, push pushWay) {
	for _, b := range [][]byte{{}, []byte("{}"), c.bytes(512), c.bytes(3067)} {
		d := digestOf(a, b)
		answer := c.want(push(c, conformRepo, d, b), 201, "")
		c.wantHeader(answer, "Docker-Content-Digest", d.String())
		for _, path := range []string{answer.header.Get("Location"), "/v2/" + conformRepo + "/blobs/" + d.String()} {
			c.wantContent(path, d, b, "application/octet-stream")
		}
		c.want(c.do("DELETE", "/v2/"+conformRepo+"/blobs/"+d.String(), nil), 202, "")
		c.want(c.do("HEAD", "/v2/"+conformRepo+"/blobs/"+d.String(), nil), 404, "")
		c.want(c.do("DELETE", "/v2/"+conformRepo+"/blobs/"+d.String(), nil), 404, codeBlobUnknown)
	}
	b := c.bytes(3067)
	d := digestOf(a, b)
	c.want(push(c, conformRepo, d, append(b, "oh no"...)), 400, codeDigestInvalid)
	c.want(c.do("GET", "/v2/"+conformRepo+"/blobs/"+d.String(), nil), 404, codeBlobUnknown)
}

func (c *conformer) wantHeader(a answer, name, want string) {
	c.t.Helper()
	if got := a.header.Get(name); got != want {
		c.t.Fatalf("got %s %q, want %q", name, got, want)
	}
}

// wantContent gets path by GET and HEAD.
func (c *conformer) wantContent(path string, d digest.Digest, b []byte, mediaType string) {
	c.t.Helper()
	for _, method := range []string{"GET", "HEAD"} {
		a := c.want(c.do(method, path, nil), 200, "")
		c.wantHeader(a, "Docker-Content-Digest", d.String())
		c.wantHeader(a, "Content-Type", mediaType)
		c.wantHeader(a, "Content-Length", fmt.Sprint(len(b)))
		if method == "HEAD" {
			b = nil
		}
		if !bytes.Equal(a.body, b) {
			c.t.Fatalf("%s %s: got %d bytes, want %d", method, path, len(a.body), len(b))
		}
	}
}

func (c *conformer) mount(a digest.Algorithm, name string) {
	way := blobWays()["POST, PUT"]
	b := c.bytes(512)
	d := digestOf(a, b)
	mount := "/v2/" + conformRepo + "/blobs/uploads/?mount=" + d.String()
	if name == "with from" {
		mount += "&from=" + conformRepo2
	}
	begun := c.want(c.do("POST", mount, nil), 202, "") // it is nowhere
	c.want(c.do("PUT", begun.header.Get("Location")+"?digest="+d.String(), bytes.NewReader(b)), 201, "")
	c.want(c.do("DELETE", "/v2/"+conformRepo+"/blobs/"+d.String(), nil), 202, "")

	c.want(way(c, conformRepo2, d, b), 201, "")
	mounted := c.want(c.do("POST", mount, nil), 201, "")
	c.wantHeader(mounted, "Docker-Content-Digest", d.String())
	c.wantContent(mounted.header.Get("Location"), d, b, "application/octet-stream")
	c.want(c.do("DELETE", "/v2/"+conformRepo2+"/blobs/"+d.String(), nil), 202, "")
	c.wantContent(mounted.header.Get("Location"), d, b, "application/octet-stream")
	c.want(c.do("DELETE", mounted.header.Get("Location"), nil), 202, "")
}

func (c *conformer) cancel() {
	cancelled := c.start(conformRepo)
	c.want(c.do("DELETE", cancelled, nil), 204, "")
	c.want(c.do("GET", cancelled, nil), 404, codeBlobUploadUnknown)
}

func (c *conformer) ranges(a digest.Algorithm) {
	b := c.bytes(2048)
	d := digestOf(a, b)
	path := c.want(blobWays()["POST"](c, conformRepo, d, b), 201, "").header.Get("Location")
	for header, want := range map[string][2]int{
		"bytes=500-1499": {500, 1499}, "bytes=500-": {500, 2047}, "bytes=-500": {1548, 2047},
		"bytes=2000-5000": {2000, 2047}, "bytes=0-0": {0, 0}, "bytes=-5000": {0, 2047},
	} {
		got := c.want(c.do("GET", path, nil, "Range", header), 206, "")
		c.wantHeader(got, "Content-Range", fmt.Sprintf("bytes %d-%d/2048", want[0], want[1]))
		c.wantHeader(got, "Content-Length", fmt.Sprint(want[1]-want[0]+1))
		if !bytes.Equal(got.body, b[want[0]:want[1]+1]) {
			c.t.Errorf("%s: other bytes", header)
		}
	}
	for _, header := range []string{"bytes=500-0", "bytes=5000-10000", "bytes=2048-", "bytes=x"} {
		c.want(c.do("GET", path, nil, "Range", header), 416, codeSizeInvalid)
	}
	etag := c.do("HEAD", path, nil).header.Get("Etag")
	c.want(c.do("GET", path, nil, "Range", "bytes=5-9", "If-Range", etag), 206, "")
	c.want(c.do("GET", path, nil, "Range", "bytes=5-9", "If-Range", `"another"`), 200, "")
	c.want(c.do("GET", path, nil, "If-None-Match", etag), 304, "")
	several := c.want(c.do("GET", path, nil, "Range", "bytes=0-4,10-14"), 206, "")
	if !strings.HasPrefix(several.header.Get("Content-Type"), "multipart/byteranges") {
		c.t.Errorf("several ranges: got %s", several.header.Get("Content-Type"))
	}
}

// outOfOrder sends a wrong chunk before every right one, and asks where to go on.
func (c *conformer) outOfOrder(a digest.Algorithm) {
	const size = 1024
	b := c.bytes(3*size - 5)
	d := digestOf(a, b)
	location := c.start(conformRepo)
	for at := 0; at < len(b); at += size {
		end := min(at+size, len(b))
		wrong := at + size
		if wrong >= len(b) {
			wrong = 0
		}
		wrongEnd := min(wrong+size, len(b))
		a := c.want(c.do("PATCH", location, bytes.NewReader(b[wrong:wrongEnd]), "Content-Range", fmt.Sprintf("%d-%d", wrong, wrongEnd-1)), 416, codeBlobUploadInvalid)
		c.wantHeader(a, "Range", fmt.Sprintf("0-%d", max(at-1, 0)))
		status := c.want(c.do("GET", a.header.Get("Location"), nil), 204, "")
		c.wantHeader(status, "Range", fmt.Sprintf("0-%d", max(at-1, 0)))
		a = c.want(c.do("PATCH", status.header.Get("Location"), bytes.NewReader(b[at:end]), "Content-Range", fmt.Sprintf("%d-%d", at, end-1)), 202, "")
		location = a.header.Get("Location")
	}
	c.want(c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(b[:5]), "Content-Range", "0-4"), 416, codeBlobUploadInvalid)
	c.want(c.do("PUT", location+"?digest="+d.String(), nil), 201, "")
	c.wantContent("/v2/"+conformRepo+"/blobs/"+d.String(), d, b, "application/octet-stream")
}

func (c *conformer) manifestErrors() {
	c.want(c.do("GET", "/v2/"+conformRepo+"/manifests/"+digest.FromString("none").String(), nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/"+conformRepo+"/manifests/missing", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/"+conformRepo+"/manifests/sha256:baddigeststring", nil), 400, codeDigestInvalid)
	m := encode(c.t, c.image(conformRepo, "c", "l"))
	put := func(ref string, b []byte) answer {
		return c.do("PUT", "/v2/"+conformRepo+"/manifests/"+ref, bytes.NewReader(b), "Content-Type", ocispec.MediaTypeImageManifest)
	}
	c.want(put("sha256:baddigeststring", m), 400, codeDigestInvalid)
	c.want(put(digest.FromBytes(m).String(), append(m, "  "...)), 400, codeDigestInvalid)
	c.want(put("x", []byte("blablabla")), 400, codeManifestInvalid)
}

// contentSet is one kind of content: manifests in the order to push them.
type contentSet struct {
	c         *conformer
	algorithm digest.Algorithm
	tagParam  bool // tags travel with the push by digest
	blobs     [][]byte
	manifests []conformManifest
	tags      map[string]digest.Digest
}

type conformManifest struct {
	ocispec.Descriptor
	body    []byte
	subject digest.Digest
}

func contents() map[string]func(s *contentSet) {
	const type1, type2 = "application/vnd.example.oci.conformance.v1", "application/vnd.example.oci.conformance.v2"
	index := func(s *contentSet, tag string, edit func(*ocispec.Index)) conformManifest {
		return s.index(tag, edit, s.image("", nil), s.image("", nil))
	}
	artifact := func(kind string, subject *ocispec.Descriptor) func(m *ocispec.Manifest) {
		return func(m *ocispec.Manifest) {
			m.ArtifactType, m.Subject = kind, subject
			m.Annotations = map[string]string{"org.opencontainers.conformance": "hello", "of": kind}
		}
	}
	return map[string]func(s *contentSet){
		"image": func(s *contentSet) { s.image("image", nil) },
		"large manifest": func(s *contentSet) {
			s.image("large", func(m *ocispec.Manifest) {
				m.Annotations = map[string]string{}
				for i := range 390 {
					m.Annotations[fmt.Sprintf("large-%d", i)] = strings.Repeat("A", 10_000)
				}
			})
		},
		"index": func(s *contentSet) { index(s, "index", nil) },
		"nested index": func(s *contentSet) {
			s.index("nested", nil, index(s, "", nil), index(s, "", nil))
		},
		"empty index":    func(s *contentSet) { s.index("index", nil) },
		"artifact":       func(s *contentSet) { s.image("artifact", artifact(type1, nil)) },
		"artifact index": func(s *contentSet) { index(s, "index", func(x *ocispec.Index) { x.ArtifactType = type1 }) },
		"subjects": func(s *contentSet) {
			subject := s.image("image", nil)
			s.image("", func(m *ocispec.Manifest) { m.Subject = &subject.Descriptor })
			s.image("one", artifact(type1, &subject.Descriptor))
			s.image("two", artifact(type2, &subject.Descriptor))
		},
		"index with a subject": func(s *contentSet) {
			subject := index(s, "index", nil)
			index(s, "artifact", func(x *ocispec.Index) { x.ArtifactType, x.Subject = type1, &subject.Descriptor })
		},
		"missing subject": func(s *contentSet) {
			s.image("x", artifact(type1, &ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Size: 123, Digest: digest.FromString("missing")}))
		},
		"data field": func(s *contentSet) {
			s.image("data", func(m *ocispec.Manifest) { m.Layers[0].Data = s.blobs[len(s.blobs)-1] })
		},
		"layers that may not be distributed": func(s *contentSet) {
			s.image("x", func(m *ocispec.Manifest) {
				m.Layers[0] = ocispec.Descriptor{MediaType: "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
					Digest: digest.FromString("elsewhere"), Size: 123456, URLs: []string{"https://store.example.com/x"}}
			})
		},
		"no layers": func(s *contentSet) { s.image("x", func(m *ocispec.Manifest) { m.Layers = []ocispec.Descriptor{} }) },
		"custom fields": func(s *contentSet) {
			m := s.image("", nil)
			s.add("custom", ocispec.MediaTypeImageManifest, bytes.Replace(m.body, []byte("{"), []byte(`{"org.example":{"x":[1]},`), 1), "")
		},
		"sha512":          func(s *contentSet) { s.algorithm = digest.SHA512; index(s, "", nil) },
		"tags with it":    func(s *contentSet) { s.tagParam = true; index(s, "a", nil); index(s, "b", nil) },
		"sha512 and tags": func(s *contentSet) { s.algorithm, s.tagParam = digest.SHA512, true; index(s, "a", nil) },
		"Docker's types": func(s *contentSet) {
			m := s.image("", func(m *ocispec.Manifest) { m.MediaType = dockerManifest })
			s.index("list", func(x *ocispec.Index) { x.MediaType = dockerList }, m)
		},
	}
}

func (s *contentSet) blob(mediaType string) ocispec.Descriptor {
	b := s.c.bytes(600)
	s.blobs = append(s.blobs, b)
	return ocispec.Descriptor{MediaType: mediaType, Digest: digestOf(s.algorithm, b), Size: int64(len(b))}
}

func (s *contentSet) image(tag string, edit func(*ocispec.Manifest)) conformManifest {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: s.blob(ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{s.blob(ocispec.MediaTypeImageLayer)}}
	if edit != nil {
		edit(&m)
	}
	kind := m.ArtifactType
	if kind == "" {
		kind = m.Config.MediaType
	}
	added := s.add(tag, m.MediaType, encode(s.c.t, m), kind)
	s.manifests[len(s.manifests)-1].Annotations = m.Annotations
	return added
}

func (s *contentSet) index(tag string, edit func(*ocispec.Index), list ...conformManifest) conformManifest {
	x := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, m := range list {
		x.Manifests = append(x.Manifests, ocispec.Descriptor{MediaType: m.MediaType, Digest: m.Digest, Size: m.Size})
	}
	if edit != nil {
		edit(&x)
	}
	return s.add(tag, x.MediaType, encode(s.c.t, x), x.ArtifactType)
}

func (s *contentSet) add(tag, mediaType string, body []byte, artifactType string) conformManifest {
	var doc document
	if err := json.Unmarshal(body, &doc); err != nil {
		s.c.t.Fatal(err)
	}
	m := conformManifest{body: body}
	m.Descriptor = ocispec.Descriptor{MediaType: mediaType, Digest: digestOf(s.algorithm, body), Size: int64(len(body)), ArtifactType: artifactType}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest
	}
	s.manifests = append(s.manifests, m)
	if tag != "" {
		s.tags[tag] = m.Digest
	}
	// A descriptor within another manifest has neither of these.
	m.ArtifactType = ""
	return m
}

func (s *contentSet) run() {
	c, base := s.c, "/v2/"+conformRepo
	for _, b := range s.blobs {
		c.want(blobWays()["POST"](c, conformRepo, digestOf(s.algorithm, b), b), 201, "")
	}
	for _, m := range s.manifests {
		s.push(m)
	}
	list := tagsOf(c.client, conformRepo, "")
	for tag, d := range s.tags {
		if !slices.Contains(list, tag) {
			c.t.Errorf("tag %s is not in the list %v", tag, list)
		}
		i := slices.IndexFunc(s.manifests, func(m conformManifest) bool { return m.Digest == d })
		c.wantContent(base+"/manifests/"+tag, d, s.manifests[i].body, s.manifests[i].MediaType)
	}
	for _, m := range s.manifests {
		c.wantContent(base+"/manifests/"+m.Digest.String(), m.Digest, m.body, m.MediaType)
		s.referrers(m)
	}
	for tag := range s.tags {
		c.want(c.do("DELETE", base+"/manifests/"+tag, nil), 202, "")
		c.want(c.do("HEAD", base+"/manifests/"+tag, nil), 404, "")
	}
	for _, m := range slices.Backward(s.manifests) {
		c.want(c.do("DELETE", base+"/manifests/"+m.Digest.String(), nil), 202, "")
		c.want(c.do("GET", base+"/manifests/"+m.Digest.String(), nil), 404, codeManifestUnknown)
		if m.subject != "" && slices.ContainsFunc(referrersOf(c.client, base+"/referrers/"+m.subject.String()), m.is) {
			c.t.Errorf("%s is deleted and still a referrer", m.Digest)
		}
	}
	for _, b := range s.blobs {
		c.want(c.do("DELETE", base+"/blobs/"+digestOf(s.algorithm, b).String(), nil), 202, "")
	}
}

// is compares what a list of referrers has to tell about m.
func (m conformManifest) is(d ocispec.Descriptor) bool {
	for k, v := range m.Annotations {
		if d.Annotations[k] != v {
			return false
		}
	}
	return d.Digest == m.Digest && d.MediaType == m.MediaType && d.Size == m.Size && d.ArtifactType == m.ArtifactType
}

func (s *contentSet) push(m conformManifest) {
	c, refs, query := s.c, []string{m.Digest.String()}, ""
	var with []string
	for tag, d := range s.tags {
		switch {
		case d == m.Digest && s.tagParam:
			with, query = append(with, tag), "?tag="+tag
		case d == m.Digest:
			refs = append(refs, tag)
		}
	}
	for _, ref := range refs {
		a := c.want(c.do("PUT", "/v2/"+conformRepo+"/manifests/"+ref+query, bytes.NewReader(m.body), "Content-Type", m.MediaType), 201, "")
		c.wantHeader(a, "Docker-Content-Digest", m.Digest.String())
		c.wantHeader(a, "OCI-Subject", m.subject.String())
		if got := a.header["Oci-Tag"]; !slices.Equal(got, with) {
			c.t.Errorf("got OCI-Tag %q, want %q", got, with)
		}
		c.wantContent(a.header.Get("Location"), m.Digest, m.body, m.MediaType)
		query = ""
	}
}

func (s *contentSet) referrers(m conformManifest) {
	if m.subject == "" {
		return
	}
	c, path := s.c, "/v2/"+conformRepo+"/referrers/"+m.subject.String()
	if got := referrersOf(c.client, path); !slices.ContainsFunc(got, m.is) {
		c.t.Errorf("%s is not among the referrers %v", m.Digest, got)
	}
	filtered := path + "?artifactType=" + strings.ReplaceAll(m.ArtifactType, "+", "%2B")
	c.wantHeader(c.want(c.do("GET", filtered, nil), 200, ""), "OCI-Filters-Applied", "artifactType")
	got := referrersOf(c.client, filtered)
	if !slices.ContainsFunc(got, m.is) || slices.ContainsFunc(got, func(d ocispec.Descriptor) bool { return d.ArtifactType != m.ArtifactType }) {
		c.t.Errorf("of type %s: got %v", m.ArtifactType, got)
	}
}
