package cache

import (
	"strings"
	"testing"

	"github.com/distribution/reference"
)

// FuzzParseName: parseName is reference.ParseNormalizedNamed and TagNameOnly.
func FuzzParseName(f *testing.F) {
	hex := strings.Repeat("0123456789abcdef", 4)
	for _, s := range []string{
		"", "alpine", "alpine:3", "a/b", "a/b/c:1", "localhost/a", "localhost", "localhost:5000", "localhost:5000/a:b",
		"index.docker.io/a", "docker.io/a", "docker.io/a/b", "example.com:80/a/b@sha256:" + hex, "a:b@sha256:" + hex,
		"a@sha256:abc", "a@sha512:" + hex + hex, "a@md5:" + hex, "a@sha256:" + strings.ToUpper(hex), hex, hex + ":1", "Alpine", "EXAMPLE/a", "EXAMPLE.com/a", "a/B",
		"a:B", "a:.b", "a:" + strings.Repeat("t", 128), "a:" + strings.Repeat("t", 129), strings.Repeat("a", 255), strings.Repeat("a", 256),
		"x.y/" + strings.Repeat("a/", 127) + "b", "x.y/" + strings.Repeat("a/", 128) + "b", "a_b", "a__b", "a___b", "a--b", "a-", "_a", "a..b", "a._b",
		"foo_bar.baz/x", "-a.b/x", "a.b-/x", "[::1]:5000/a", "[::1]/a", "[::g]/a", "[::1/a", "a.b:/x", "a.b:x/y", "a//b", "/a", "a/", "a:", "a@", "a b", "ä", "İ/a",
		"a.b/c:d:e", "a@b@c", "a:b/c", "localhost:5000:tag",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want, wantErr := reference.ParseNormalizedNamed(s)
		got, err := parseName(s)
		if (err == nil) != (wantErr == nil) {
			t.Fatalf("%q: %v, want %v", s, err, wantErr)
		}
		if err != nil {
			if strings.Contains(wantErr.Error(), "must be lowercase") && err.Error() != wantErr.Error() && strings.Contains(wantErr.Error(), "(") {
				t.Errorf("%q: %v, want %v", s, err, wantErr)
			}
			return
		}
		if want = reference.TagNameOnly(want); got.String() != want.String() || got.repository != want.Name() {
			t.Errorf("%q: %s of %s, want %s of %s", s, got, got.repository, want, want.Name())
		}
	})
}
