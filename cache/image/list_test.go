package image

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestList: what is kept in one file is what the records say, whatever happens to them.
func TestList(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, target string) {
		t.Helper()
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromString(target), Size: 7}
		if len(name)%2 == 0 {
			d.Platform, d.Annotations = &ocispec.Platform{OS: "linux"}, map[string]string{"a": "b"}
		}
		if err := s.Put(t.Context(), Image{Name: name, Target: d}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range listFrom + 10 {
		put(fmt.Sprintf("docker.io/library/x:%d", i), fmt.Sprint(i))
	}
	list := filepath.Join(dir, "names.list")
	all := func() []Image {
		t.Helper()
		got, err := s.All(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	// calm lets time pass since the last change.
	calm := func(age time.Duration) {
		t.Helper()
		at := time.Now().Add(-age)
		if err := os.Chtimes(filepath.Join(dir, "names"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	want := all()
	if _, err := os.Stat(list); !os.IsNotExist(err) {
		t.Errorf("a list was kept of a directory that has just changed: %v", err)
	}
	calm(time.Hour)
	for _, when := range []string{"made", "read"} {
		if d := cmp.Diff(want, all()); d != "" {
			t.Errorf("when the list is %s: %s", when, d)
		}
	}
	if _, err := os.Stat(list); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(){
		"another name":    func() { put("docker.io/library/new:1", "new") },
		"another target":  func() { put("docker.io/library/x:1", "new") },
		"a name less":     func() { _ = s.Delete(t.Context(), "docker.io/library/x:2") },
		"a damaged list":  func() { calm(2 * time.Hour); all(); _ = os.Truncate(list, 500) },
		"an empty list":   func() { calm(3 * time.Hour); all(); _ = os.Truncate(list, 0) },
		"the list of old": func() { calm(4 * time.Hour); all(); put("docker.io/library/x:3", "newer") },
	} {
		change()
		want, err := s.readFiles(t.Context(), filepath.Join(dir, "names"))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]digest.Digest{}
		for _, img := range all() {
			if img.Name != "" {
				got[img.Name] = img.Target.Digest
			}
		}
		for _, img := range want {
			if got[img.Name] != img.Target.Digest {
				t.Errorf("%s: %s is %s, want %s", what, img.Name, got[img.Name], img.Target.Digest)
			}
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d names, want %d", what, len(got), len(want))
		}
	}
}

// FuzzReadList: a list of any bytes is refused or gives records, and costs no more memory than it has.
func FuzzReadList(f *testing.F) {
	at := time.Unix(1, 2)
	path := filepath.Join(f.TempDir(), "list")
	if err := writeList(path, at, []Image{{Name: "a", Target: ocispec.Descriptor{Digest: digest.FromString("a"), Annotations: map[string]string{"a": "b"}}}}); err != nil {
		f.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add(data[:len(data)-5])
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "list")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if list, ok := readList(path, at); ok && len(list) > len(data) {
			t.Errorf("%d records of %d bytes", len(list), len(data))
		}
	})
}
