package registry

import (
	"errors"
	"regexp"
	"strings"
	"testing"
)

func TestParseRoute(t *testing.T) {
	long := strings.Repeat("a", maxName)
	tests := map[string]struct {
		want route
		code string
	}{
		"/v2/":                                 {route{kind: routeBase}, ""},
		"/v2":                                  {route{kind: routeBase}, ""},
		"/v2/_catalog":                         {route{kind: routeCatalog}, ""},
		"/v2/a/tags/list":                      {route{kind: routeTags, repo: "a"}, ""},
		"/v2/a/b/c/tags/list":                  {route{kind: routeTags, repo: "a/b/c"}, ""},
		"/v2/a/manifests/v1":                   {route{kind: routeManifest, repo: "a", ref: "v1"}, ""},
		"/v2/a/manifests/manifests/manifests":  {route{kind: routeManifest, repo: "a/manifests", ref: "manifests"}, ""},
		"/v2/tags/list/tags/list":              {route{kind: routeTags, repo: "tags/list"}, ""},
		"/v2/a/blobs/sha256:x":                 {route{kind: routeBlob, repo: "a", ref: "sha256:x"}, ""},
		"/v2/a/blobs/uploads/":                 {route{kind: routeUploads, repo: "a"}, ""},
		"/v2/a/blobs/uploads":                  {route{kind: routeUploads, repo: "a"}, ""},
		"/v2/a/blobs/uploads/id":               {route{kind: routeUpload, repo: "a", ref: "id"}, ""},
		"/v2/a/blobs/uploads/blobs/uploads/id": {route{kind: routeUpload, repo: "a/blobs/uploads", ref: "id"}, ""},
		"/v2/a/referrers/sha256:x":             {route{kind: routeReferrers, repo: "a", ref: "sha256:x"}, ""},
		"/v2/" + long + "/tags/list":           {route{kind: routeTags, repo: long}, ""},
		"/v2/" + long + "a/tags/list":          {route{}, codeNameInvalid},
		"":                                     {route{}, codeUnsupported},
		"/v1/":                                 {route{}, codeUnsupported},
		"/v2//":                                {route{}, codeUnsupported},
		"/v2/a":                                {route{}, codeUnsupported},
		"/v2/tags/list":                        {route{}, codeUnsupported},
		"/v2/a/tags/lists":                     {route{}, codeUnsupported},
		"/v2/a/tags/list/":                     {route{}, codeUnsupported},
		"/v2/a/manifests/":                     {route{}, codeUnsupported},
		"/v2/a/uploads/id":                     {route{}, codeUnsupported},
		"/v2//manifests/x":                     {route{}, codeNameInvalid},
		"/v2/../manifests/x":                   {route{}, codeNameInvalid},
		"/v2/_tags/manifests/x":                {route{}, codeNameInvalid},
		"/v2/A/manifests/x":                    {route{}, codeNameInvalid},
	}
	for path, test := range tests {
		got, err := parseRoute(path)
		var e *apiError
		code := ""
		if errors.As(err, &e) {
			code = e.code
		}
		if got != test.want || code != test.code {
			t.Errorf("%s: got %+v %s, want %+v %s", path, got, code, test.want, test.code)
		}
	}
}

// nameGrammar and tagGrammar are those of distribution-spec 1.1, "Pulling manifests".
const (
	nameGrammar = `^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`
	tagGrammar  = `^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$`
)

func FuzzNames(f *testing.F) {
	name, tag := regexp.MustCompile(nameGrammar), regexp.MustCompile(tagGrammar)
	for _, s := range []string{"a", "a/b", "a--b", "a__b", "a___b", "a_.b", "a.", "-a", "a//b", "/a", "a/", "", "é", "a\n", "A", "_", ".x", strings.Repeat("a", 129)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := validName(s), name.MatchString(s) && len(s) <= maxName; got != want {
			t.Errorf("name %q: got %v, want %v", s, got, want)
		}
		if got, want := validTag(s), tag.MatchString(s); got != want {
			t.Errorf("tag %q: got %v, want %v", s, got, want)
		}
	})
}

// FuzzParseRoute: whatever is accepted names nothing outside the repository.
func FuzzParseRoute(f *testing.F) {
	for _, s := range []string{"/v2/a/manifests/x", "/v2/a/blobs/uploads/../x", "/v2/../../blobs/x", "/v2/a/b/tags/list", "/v2/_catalog", "/v2/a/blobs/uploads/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rt, err := parseRoute(s)
		if err != nil {
			return
		}
		if rt.kind >= routeTags && !validName(rt.repo) {
			t.Errorf("%q: accepted repository %q", s, rt.repo)
		}
		if strings.Contains(rt.ref, "/") {
			t.Errorf("%q: accepted reference %q", s, rt.ref)
		}
		if validTag(rt.ref) && strings.HasPrefix(rt.ref, ".") {
			t.Errorf("%q: accepted tag %q", s, rt.ref)
		}
		if err := checkUpload("a", rt.ref); err == nil && len(rt.ref) != 48 {
			t.Errorf("%q: accepted upload %q", s, rt.ref)
		}
	})
}

func FuzzParseContentRange(f *testing.F) {
	for _, s := range []string{"0-0", "0-99", "bytes 0-99/*", "bytes=5-6", "5-4", "-1", "1-", "+1-2", "0-99999999999999999999", "bytes", " 1-2 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		start, end, ok := parseContentRange(s)
		if ok && (start < 0 || end < start || end-start+1 <= 0) {
			t.Errorf("%q: got %d-%d", s, start, end)
		}
		if !ok && regexp.MustCompile(`^[0-9]{1,9}-1[0-9]{9}$`).MatchString(s) {
			t.Errorf("%q was refused", s)
		}
	})
}

// FuzzParseManifest: what is accepted has only digests that are safe as names of files, and
// survives being stored.
func FuzzParseManifest(f *testing.F) {
	d := "sha256:" + strings.Repeat("a", 64)
	f.Add([]byte(`{"config":{"digest":"`+d+`"},"layers":[{"digest":"`+d+`"}],"subject":{"digest":"`+d+`"}}`), "application/vnd.oci.image.manifest.v1+json")
	f.Add([]byte(`{"manifests":[{"digest":"`+d+`"}],"mediaType":"application/vnd.oci.image.index.v1+json"}`), "")
	f.Add([]byte(`{"manifests":null,"layers":[{}]}`), "application/vnd.x+json; a=b")
	f.Add([]byte(`{"mediaType":"application/vnd.a b\n+json"}`), "")
	f.Add([]byte(`[]`), "x")
	f.Fuzz(func(t *testing.T, b []byte, contentType string) {
		m, err := parseManifest(b, contentType)
		if err != nil {
			return
		}
		for _, d := range append(m.references, m.subject) {
			if _, err := parseDigest(d.String()); d != "" && err != nil {
				t.Errorf("accepted digest %q", d)
			}
		}
		m.digest = digestOf("sha256", b)
		r, split, err := decodeRecord(append(encodeHeader(m.digest, m.mediaType, false), b...))
		if err != nil || split || r.digest != m.digest || r.mediaType != m.mediaType || string(r.body) != string(b) {
			t.Errorf("type %q came back as %q (%v)", m.mediaType, r.mediaType, err)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte("manifest sha256:" + strings.Repeat("a", 64) + " application/x\n{}"))
	f.Add([]byte("manifest sha256:" + strings.Repeat("a", 64) + " application/x split\n"))
	f.Add([]byte("manifest  \n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, _, err := decodeRecord(b)
		if err == nil && (len(r.body) >= len(b) || len(r.digest) < 71) {
			t.Errorf("%q: got %+v", b, r)
		}
	})
}
