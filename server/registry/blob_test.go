package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestBase(t *testing.T) {
	c := serve(t)
	for _, path := range []string{"/v2/", "/v2"} {
		a := c.want(c.do("GET", path, nil), 200, "")
		if got := a.header.Get("Docker-Distribution-Api-Version"); got != "registry/2.0" {
			t.Errorf("%s: got API version %q", path, got)
		}
		if got := a.header.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: browsers may guess types: %q", path, got)
		}
	}
	c.want(c.do("GET", "/", nil), 404, codeUnsupported)
	c.want(c.do("GET", "/v2/a/b", nil), 404, codeUnsupported)
	c.want(c.do("GET", "/v2/UPPER/tags/list", nil), 400, codeNameInvalid)
}

func TestMethodNotAllowed(t *testing.T) {
	c := serve(t)
	for _, request := range []string{
		"DELETE /v2/", "POST /v2/_catalog", "PUT /v2/a/tags/list", "POST /v2/a/manifests/x", "PUT /v2/a/blobs/x",
		"GET /v2/a/blobs/uploads/", "POST /v2/a/blobs/uploads/x", "PUT /v2/a/referrers/x",
	} {
		method, path, _ := strings.Cut(request, " ")
		if a := c.want(c.do(method, path, nil), 405, codeUnsupported); a.header.Get("Allow") == "" {
			t.Errorf("%s: no Allow header", request)
		}
	}
}

// TestPushBlob pushes in every way there is.
func TestPushBlob(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	sum := digest.FromBytes(body)
	ways := map[string]func(c *client) answer{
		"POST then PUT": func(c *client) answer {
			return c.do("PUT", c.start("a/b")+"?digest="+sum.String(), bytes.NewReader(body))
		},
		"single POST": func(c *client) answer {
			return c.do("POST", "/v2/a/b/blobs/uploads/?digest="+sum.String(), bytes.NewReader(body))
		},
		"PATCH stream": func(c *client) answer {
			stream := struct{ io.Reader }{bytes.NewReader(body)} // of unknown length
			a := c.want(c.do("PATCH", c.start("a/b"), stream), 202, "")
			return c.do("PUT", a.header.Get("Location")+"?digest="+sum.String(), nil)
		},
		"PATCH chunks": func(c *client) answer {
			location := sendChunks(c, c.start("a/b"), body, 300_000)
			return c.do("PUT", location+"?digest="+sum.String(), nil)
		},
		"PUT last chunk": func(c *client) answer {
			location := sendChunks(c, c.start("a/b"), body[:600_000], 300_000)
			return c.do("PUT", location+"?digest="+sum.String(), bytes.NewReader(body[600_000:]),
				"Content-Range", fmt.Sprintf("600000-%d", len(body)-1))
		},
	}
	for name, push := range ways {
		t.Run(name, func(t *testing.T) {
			c := serve(t)
			a := c.want(push(c), 201, "")
			if got, want := a.header.Get("Location"), "/v2/a/b/blobs/"+sum.String(); got != want {
				t.Errorf("got location %s, want %s", got, want)
			}
			if got := a.header.Get("Docker-Content-Digest"); got != sum.String() {
				t.Errorf("got digest %s, want %s", got, sum)
			}
			if got := c.want(c.do("GET", a.header.Get("Location"), nil), 200, ""); !bytes.Equal(got.body, body) {
				t.Error("the blob came back different")
			}
		})
	}
}

// sendChunks sends b by PATCH and returns the last Location.
func sendChunks(c *client, location string, b []byte, size int) string {
	c.t.Helper()
	for start := 0; start < len(b); start += size {
		end := min(start+size, len(b))
		a := c.want(c.do("PATCH", location, bytes.NewReader(b[start:end]), "Content-Range", fmt.Sprintf("%d-%d", start, end-1)), 202, "")
		if got, want := a.header.Get("Range"), fmt.Sprintf("0-%d", end-1); got != want {
			c.t.Fatalf("got range %s, want %s", got, want)
		}
		location = a.header.Get("Location")
	}
	return location
}

func TestPushBlobDigests(t *testing.T) {
	c := serve(t)
	for name, b := range map[string][]byte{"empty": {}, "small": []byte("x")} {
		for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
			for _, announced := range []string{"", "?digest-algorithm=" + algorithm.String()} {
				d := digestOf(algorithm, b)
				location := c.want(c.do("POST", "/v2/a/blobs/uploads/"+announced, nil), 202, "").header.Get("Location")
				c.want(c.do("PUT", location+"?digest="+d.String(), bytes.NewReader(b)), 201, "")
				if a := c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 200, ""); !bytes.Equal(a.body, b) {
					t.Errorf("%s %s: got %q", name, algorithm, a.body)
				}
			}
		}
	}
}

func TestPushBlobErrors(t *testing.T) {
	c := serve(t)
	good := digest.FromString("0123456789").String()
	unknown := "/v2/a/blobs/uploads/" + strings.Repeat("0", 48)
	elsewhere := strings.Replace(c.start("other"), "/other/", "/a/", 1)
	tests := map[string]struct {
		method, path, body, contentRange string
		status                           int
		code                             string
	}{
		"wrong digest":            {"PUT", c.start("a") + "?digest=" + good, "012345678", "", 400, codeDigestInvalid},
		"wrong digest, POST":      {"POST", "/v2/a/blobs/uploads/?digest=" + good, "x", "", 400, codeDigestInvalid},
		"short digest, POST":      {"POST", "/v2/a/blobs/uploads/?digest=sha256:fake", "x", "", 400, codeDigestInvalid},
		"no digest at all, POST":  {"POST", "/v2/a/blobs/uploads/?digest=fake", "x", "", 400, codeDigestInvalid},
		"no digest":               {"PUT", c.start("a"), "x", "", 400, codeDigestInvalid},
		"digest of md5":           {"PUT", c.start("a") + "?digest=md5:d41d8cd98f00b204e9800998ecf8427e", "x", "", 400, codeDigestInvalid},
		"digest in capitals":      {"PUT", c.start("a") + "?digest=" + strings.ToUpper(good), "x", "", 400, codeDigestInvalid},
		"algorithm md5":           {"POST", "/v2/a/blobs/uploads/?digest-algorithm=md5", "", "", 400, codeDigestInvalid},
		"bad name":                {"POST", "/v2/a//b/blobs/uploads/", "", "", 400, codeNameInvalid},
		"chunk out of order":      {"PATCH", c.start("a"), "x", "5-5", 416, codeBlobUploadInvalid},
		"last chunk out of order": {"PUT", c.start("a") + "?digest=" + good, "x", "5-5", 416, codeBlobUploadInvalid},
		"range not of the body":   {"PATCH", c.start("a"), "x", "0-5", 400, codeSizeInvalid},
		"range backwards":         {"PATCH", c.start("a"), "x", "5-0", 400, codeBlobUploadInvalid},
		"range is no range":       {"PATCH", c.start("a"), "x", "x-y", 400, codeBlobUploadInvalid},
		"PATCH unknown upload":    {"PATCH", unknown, "x", "", 404, codeBlobUploadUnknown},
		"PUT unknown upload":      {"PUT", unknown + "?digest=" + good, "x", "", 404, codeBlobUploadUnknown},
		"GET unknown upload":      {"GET", unknown, "", "", 404, codeBlobUploadUnknown},
		"DELETE unknown upload":   {"DELETE", unknown, "", "", 404, codeBlobUploadUnknown},
		"upload of another repo":  {"PATCH", elsewhere, "x", "", 404, codeBlobUploadUnknown},
		"upload ID is a path":     {"GET", "/v2/a/blobs/uploads/..%2flayout", "", "", 404, codeUnsupported},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := &client{t, c.base, c.http}
			var headers []string
			if test.contentRange != "" {
				headers = []string{"Content-Range", test.contentRange}
			}
			a := c.want(c.do(test.method, test.path, strings.NewReader(test.body), headers...), test.status, test.code)
			if test.status == 416 && (a.header.Get("Range") != "0-0" || a.header.Get("Location") == "") {
				t.Errorf("got headers %v, want Range and Location", a.header)
			}
		})
	}
	// None of that may have left a blob.
	c.want(c.do("GET", "/v2/a/blobs/"+good, nil), 404, codeBlobUnknown)
}

// TestChunkWithoutLength: a chunk whose length is told by its Content-Range alone has that length, or what
// came of it stays and the client is told.
func TestChunkWithoutLength(t *testing.T) {
	c := serve(t)
	for body, want := range map[string]struct {
		status int
		code   string
		has    string
	}{"12345": {202, "", "0-4"}, "123": {400, codeSizeInvalid, "0-2"}, "1234567": {400, codeSizeInvalid, "0-4"}} {
		location := c.start("a")
		streamed := io.MultiReader(strings.NewReader(body)) // whose length the client does not know
		c.want(c.do("PATCH", location, streamed, "Content-Range", "0-4"), want.status, want.code)
		a := c.want(c.do("GET", location, nil), 204, "")
		if got := a.header.Get("Range"); got != want.has {
			t.Errorf("after %q: got range %q, want %q", body, got, want.has)
		}
	}
}

func TestUploadStatusAndCancel(t *testing.T) {
	c := serve(t)
	location := c.start("a")
	c.want(c.do("PATCH", location, strings.NewReader("0123456789")), 202, "")
	a := c.want(c.do("GET", location, nil), 204, "")
	if got := a.header.Get("Range"); got != "0-9" {
		t.Errorf("got range %q, want 0-9", got)
	}
	// A chunk in the wrong place tells where to go on, and changes nothing.
	a = c.want(c.do("PATCH", location, strings.NewReader("x"), "Content-Range", "11-11"), 416, codeBlobUploadInvalid)
	if got := a.header.Get("Range"); got != "0-9" {
		t.Errorf("got range %q, want 0-9", got)
	}
	c.want(c.do("DELETE", location, nil), 204, "")
	c.want(c.do("GET", location, nil), 404, codeBlobUploadUnknown)
	c.want(c.do("PATCH", location, strings.NewReader("x")), 404, codeBlobUploadUnknown)
}

// TestFinishedUploadIsGone: whoever still has the Location cannot change the blob.
func TestFinishedUploadIsGone(t *testing.T) {
	c := serve(t)
	d := digest.FromString("x").String()
	location := c.start("a")
	c.want(c.do("PUT", location+"?digest="+d, strings.NewReader("x")), 201, "")
	c.want(c.do("PATCH", location, strings.NewReader("y")), 404, codeBlobUploadUnknown)
	c.want(c.do("PUT", location+"?digest="+d, nil), 404, codeBlobUploadUnknown)
	if a := c.want(c.do("GET", "/v2/a/blobs/"+d, nil), 200, ""); string(a.body) != "x" {
		t.Errorf("got %q, want x", a.body)
	}
}

func TestMountBlob(t *testing.T) {
	c := serve(t)
	d := c.blob("from", []byte("x")).Digest.String()
	unknown := digest.FromString("unknown").String()
	tests := map[string]struct {
		query, repo string
		status      int
		code        string
	}{
		"from":              {"mount=" + d + "&from=from", "a", 201, ""},
		"twice":             {"mount=" + d + "&from=from", "a", 201, ""},
		"without from":      {"mount=" + d, "b", 201, ""},
		"from itself":       {"mount=" + d + "&from=from", "from", 201, ""},
		"from where it not": {"mount=" + d + "&from=nowhere", "c", 202, ""},
		"unknown":           {"mount=" + unknown + "&from=from", "c", 202, ""},
		"unknown, anywhere": {"mount=" + unknown, "c", 202, ""},
		"bad digest":        {"mount=x&from=from", "c", 400, codeDigestInvalid},
		"bad from":          {"mount=" + d + "&from=../from", "c", 400, codeNameInvalid},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := &client{t, c.base, c.http}
			a := c.want(c.do("POST", "/v2/"+test.repo+"/blobs/uploads/?"+test.query, nil), test.status, test.code)
			switch test.status {
			case 201:
				c.want(c.do("GET", a.header.Get("Location"), nil), 200, "")
			case 202: // and the upload works
				text := "instead of " + name
				u := digest.FromString(text).String()
				c.want(c.do("PUT", a.header.Get("Location")+"?digest="+u, strings.NewReader(text)), 201, "")
			}
		})
	}
	c.want(c.do("HEAD", "/v2/c/blobs/"+d, nil), 404, "")
}

func TestGetBlob(t *testing.T) {
	c := serve(t)
	d := c.blob("a", []byte("0123456789")).Digest.String()
	tests := map[string]struct {
		method, rng  string
		status       int
		body         string
		contentRange string
	}{
		"GET":           {"GET", "", 200, "0123456789", ""},
		"HEAD":          {"HEAD", "", 200, "", ""},
		"first bytes":   {"GET", "bytes=0-3", 206, "0123", "bytes 0-3/10"},
		"from":          {"GET", "bytes=7-", 206, "789", "bytes 7-9/10"},
		"last bytes":    {"GET", "bytes=-2", 206, "89", "bytes 8-9/10"},
		"past the end":  {"GET", "bytes=8-100", 206, "89", "bytes 8-9/10"},
		"not there":     {"GET", "bytes=10-", 416, "", "bytes */10"},
		"backwards":     {"GET", "bytes=5-0", 416, "", "bytes */10"},
		"HEAD range":    {"HEAD", "bytes=0-3", 200, "", ""},
		"HEAD behind":   {"HEAD", "bytes=10-", 200, "", ""},
		"the last none": {"GET", "bytes=-0", 416, "", "bytes */10"},
		"no numbers":    {"GET", "bytes=a-b", 416, "", "bytes */10"},
		"one number":    {"GET", "bytes=3", 416, "", "bytes */10"},
		"none of two":   {"GET", "bytes=10-,12-13", 416, "", "bytes */10"},
		"more than all": {"GET", "bytes=-100", 206, "0123456789", "bytes 0-9/10"},
		"other unit":    {"GET", "lines=1-2", 200, "0123456789", ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			c := &client{t, c.base, c.http}
			var headers []string
			if test.rng != "" {
				headers = []string{"Range", test.rng}
			}
			a := c.do(test.method, "/v2/a/blobs/"+d, nil, headers...)
			if a.status != test.status || (test.status < 400 && string(a.body) != test.body) {
				t.Fatalf("got %d %q, want %d %q", a.status, a.body, test.status, test.body)
			}
			if test.status == 416 {
				c.want(a, 416, codeSizeInvalid)
				if a.header.Get("Cache-Control") != "" {
					t.Errorf("an error may be cached: %v", a.header)
				}
			}
			if got := a.header.Get("Content-Range"); got != test.contentRange {
				t.Errorf("got Content-Range %q, want %q", got, test.contentRange)
			}
			if test.status == 200 && (a.header.Get("Content-Length") != "10" || a.header.Get("Docker-Content-Digest") != d) {
				t.Errorf("got headers %v", a.header)
			}
		})
	}
	c.want(c.do("GET", "/v2/a/blobs/"+d, nil, "If-None-Match", `"`+d+`"`), 304, "")
	c.want(c.do("GET", "/v2/a/blobs/"+digest.FromString("y").String(), nil), 404, codeBlobUnknown)
	c.want(c.do("GET", "/v2/a/blobs/sha256:123", nil), 400, codeDigestInvalid)
	c.want(c.do("GET", "/v2/a/blobs/"+strings.Replace(d, ":", "%3A", 1), nil), 200, "")
}

// TestIsolation: knowing a digest is not enough.
func TestIsolation(t *testing.T) {
	c := serve(t)
	m := c.image("a", "config", "layer")
	d := c.put("a", "x", m).Digest.String()
	c.want(c.do("GET", "/v2/b/blobs/"+m.Config.Digest.String(), nil), 404, codeBlobUnknown)
	c.want(c.do("GET", "/v2/a/a/blobs/"+m.Config.Digest.String(), nil), 404, codeBlobUnknown)
	c.want(c.do("GET", "/v2/b/manifests/"+d, nil), 404, codeManifestUnknown)
	c.want(c.do("PUT", "/v2/b/manifests/x", bytes.NewReader(encode(t, m)), "Content-Type", m.MediaType), 404, codeManifestBlobUnknown)
}

// TestBlobsAreShared: the same bytes in several repositories are one file.
func TestBlobsAreShared(t *testing.T) {
	root := t.TempDir()
	c := serveOptions(t, Options{Root: root})
	d := c.blob("a", []byte("x")).Digest
	c.blob("b", []byte("x"))
	c.blob("b", []byte("x"))
	fi, err := os.Stat(filepath.Join(root, "blobs/sha256", d.Encoded()[:2], d.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"a", "b"} {
		link, err := os.Stat(filepath.Join(root, "repositories", repo, "_blobs/sha256", d.Encoded()))
		if err != nil || !os.SameFile(fi, link) {
			t.Errorf("%s has a copy (%v)", repo, err)
		}
	}
	left, err := os.ReadDir(filepath.Join(root, "uploads"))
	if err != nil || len(left) > 0 {
		t.Errorf("uploads were left: %v %v", left, err)
	}
}

// TestPushHealsBlob: what a disk cut short is replaced by the next push of it.
func TestPushHealsBlob(t *testing.T) {
	root := t.TempDir()
	c := serveOptions(t, Options{Root: root})
	d := c.blob("a", []byte("0123456789")).Digest
	if err := os.Truncate(filepath.Join(root, "blobs/sha256", d.Encoded()[:2], d.Encoded()), 4); err != nil {
		t.Fatal(err)
	}
	for _, repo := range []string{"a", "b"} {
		c.blob(repo, []byte("0123456789"))
		if a := c.want(c.do("GET", "/v2/"+repo+"/blobs/"+d.String(), nil), 200, ""); string(a.body) != "0123456789" {
			t.Errorf("%s: got %q", repo, a.body)
		}
	}
}

func TestDeleteBlob(t *testing.T) {
	c := serve(t)
	d := c.blob("a", []byte("x")).Digest.String()
	c.blob("b", []byte("x"))
	c.want(c.do("DELETE", "/v2/a/blobs/"+d, nil), 202, "")
	c.want(c.do("GET", "/v2/a/blobs/"+d, nil), 404, codeBlobUnknown)
	c.want(c.do("GET", "/v2/b/blobs/"+d, nil), 200, "")
	c.want(c.do("DELETE", "/v2/a/blobs/"+d, nil), 404, codeBlobUnknown)
	c.want(c.do("DELETE", "/v2/a/blobs/x", nil), 400, codeDigestInvalid)
	c.blob("a", []byte("x"))
	c.want(c.do("GET", "/v2/a/blobs/"+d, nil), 200, "")
}

func TestDeleteDisabled(t *testing.T) {
	c := serveOptions(t, Options{Root: t.TempDir()})
	m := c.tagged("a", "x")
	for _, path := range []string{"manifests/x", "manifests/" + m.Digest.String(), "blobs/" + digest.FromString("layer of x").String()} {
		c.want(c.do(http.MethodDelete, "/v2/a/"+path, nil), 405, codeUnsupported)
		c.want(c.do(http.MethodGet, "/v2/a/"+path, nil), 200, "")
	}
}

// TestPushTogether: many push the same new blob to one repository at once. Each moves its
// file to the name under which another is just sharing its own.
func TestPushTogether(t *testing.T) {
	s, err := openDirectory(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	s.sync.fsync = func(string) error { return nil } // so that they meet more often
	for round := range 300 {
		text := fmt.Sprint("blob ", round)
		d := digest.FromString(text)
		begin := make(chan struct{})
		var pushes sync.WaitGroup
		for range 8 {
			id, err := s.CreateUpload(t.Context(), "a", digest.SHA256)
			if err != nil {
				t.Fatal(err)
			}
			u, err := s.OpenUpload(t.Context(), "a", id, "")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := u.ReadFrom(strings.NewReader(text)); err != nil {
				t.Fatal(err)
			}
			pushes.Go(func() {
				defer u.Close()
				<-begin
				f := u.(*fileUpload)
				err := s.adoptFile(t.Context(), s.uploadPath(id), "a", d, f.size, func() error { return nil })
				if err != nil {
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		close(begin)
		pushes.Wait()
		if t.Failed() {
			return
		}
	}
}
