package cache

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
)

func TestLookup(t *testing.T) {
	s, src := openStore(t), newMemory()
	hold(t, s)
	host := content.Host()
	one, _ := src.image(host, tarOf("a", "1"))
	one.Platform = &host
	two, _ := src.image(host, tarOf("a", "2"))
	index := src.index(one)
	ids := map[string]digest.Digest{}
	for name, d := range map[string]ocispec.Descriptor{
		"docker.io/library/one:latest": index,
		"docker.io/library/one:1.0":    index,
		"docker.io/acme/two:v2":        two,
		"localhost:5000/one:alone":     one, // the same image
		"localhost:5000/two:latest":    two,
		"":                             src.put(ocispec.MediaTypeImageManifest, []byte(`{"not":"there"}`)),
	} {
		if name != "" {
			img, err := s.Pull(t.Context(), src, d, PullOptions{})
			if err != nil {
				t.Fatal(err)
			}
			ids[name] = img.Manifest.Config.Digest
		}
		if err := s.Images.Put(t.Context(), image.Image{Name: name, Target: d}); err != nil {
			t.Fatal(err)
		}
	}
	oneID, twoID := ids["docker.io/library/one:latest"].Encoded(), ids["docker.io/acme/two:v2"].Encoded()
	for query, want := range map[string]struct {
		name   string
		target digest.Digest
	}{
		"one":                                  {"docker.io/library/one:latest", index.Digest},
		"one:1.0":                              {"docker.io/library/one:1.0", index.Digest},
		"library/one":                          {"docker.io/library/one:latest", index.Digest},
		"docker.io/one":                        {"docker.io/library/one:latest", index.Digest},
		"index.docker.io/library/one":          {"docker.io/library/one:latest", index.Digest},
		"acme/two:v2":                          {"docker.io/acme/two:v2", two.Digest},
		"localhost:5000/two":                   {"localhost:5000/two:latest", two.Digest},
		"one@" + string(index.Digest):          {"docker.io/library/one:1.0", index.Digest},
		"one:whatever@" + string(index.Digest): {"docker.io/library/one:1.0", index.Digest},
		"one@" + string(one.Digest):            {"docker.io/library/one:1.0", one.Digest},
		oneID:                                  {"docker.io/library/one:1.0", index.Digest},
		oneID[:12]:                             {"docker.io/library/one:1.0", index.Digest},
		"sha256:" + oneID:                      {"docker.io/library/one:1.0", index.Digest},
		"sha256:" + oneID[:7]:                  {"docker.io/library/one:1.0", index.Digest},
		twoID[:12]:                             {"docker.io/acme/two:v2", two.Digest},
		two.Digest.Encoded()[:12]:              {"docker.io/acme/two:v2", two.Digest},
		string(index.Digest):                   {"docker.io/library/one:1.0", index.Digest},
		string(one.Digest):                     {"localhost:5000/one:alone", one.Digest},
	} {
		got, err := s.Lookup(t.Context(), query)
		if err != nil || got.Name != want.name || got.Target.Digest != want.target {
			t.Errorf("%s: got %s %s, %v, want %s %s", query, got.Name, got.Target.Digest, err, want.name, want.target)
		}
	}
	for query, class := range map[string]func(error) bool{
		"three":                          errdefs.IsNotFound,
		"one:2.0":                        errdefs.IsNotFound,
		"two@" + string(one.Digest):      errdefs.IsNotFound,
		"abcdefabcdef":                   errdefs.IsNotFound,
		digest.FromString("x").Encoded(): errdefs.IsNotFound,
		"sha256:":                        func(err error) bool { return err != nil },
		"":                               errdefs.IsInvalidArgument,
		"One":                            errdefs.IsInvalidArgument,
		"a b":                            errdefs.IsInvalidArgument,
		"../one":                         errdefs.IsInvalidArgument,
	} {
		if got, err := s.Lookup(t.Context(), query); !class(err) {
			t.Errorf("%q: got %v, %v", query, got, err)
		}
	}
}

func TestLookupAmbiguousPrefix(t *testing.T) {
	s := openStore(t)
	// Of 17 digests two begin with the same digit.
	first := map[byte]bool{}
	var twice string
	for i := range 17 {
		d := digest.FromString(string(rune('a' + i)))
		if err := s.Images.Put(t.Context(), image.Image{Name: "", Target: ocispec.Descriptor{Digest: d}}); err != nil {
			t.Fatal(err)
		}
		if c := d.Encoded()[0]; first[c] {
			twice = string(c)
		} else {
			first[c] = true
		}
	}
	if _, err := s.Lookup(t.Context(), "sha256:"+twice); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want invalid argument", err)
	}
}

func TestCanonicalName(t *testing.T) {
	for name, want := range map[string]string{
		"alpine":            "docker.io/library/alpine:latest",
		"alpine:3":          "docker.io/library/alpine:3",
		"acme/x":            "docker.io/acme/x:latest",
		"localhost/x":       "localhost/x:latest",
		"reg.example:5/x:1": "reg.example:5/x:1",
		"x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "docker.io/library/x@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
	} {
		if got, err := CanonicalName(name); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
}

func FuzzLookup(f *testing.F) {
	for _, s := range []string{"alpine", "a@sha256:", "sha256:ab", "ABC", "a/b/c:d@e", "\x00", "0123456789abcdef"} {
		f.Add(s)
	}
	dir := f.TempDir()
	s, err := Open(dir+"/root", dir+"/run")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, query string) {
		if _, err := s.Lookup(t.Context(), query); !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want not found or invalid argument", query, err)
		}
		if name, err := CanonicalName(query); err == nil {
			if again, err := CanonicalName(name); err != nil || again != name {
				t.Errorf("%q: canonical %q becomes %q, %v", query, name, again, err)
			}
		}
	})
}
