package contenthash_test

import (
	"path/filepath"
	"testing"

	"github.com/teu-dev/teu/cache/contenthash"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// TestOverlay hashes the union of two layers through a mount that has no place.
func TestOverlay(t *testing.T) {
	privilege.NeedRoot(t)
	base := t.TempDir()
	write(t, base, map[string]string{
		"low/d/a": "old", "low/d/gone": "x", "low/o/hidden": "x", "low/keep": "k",
		"high/d/a": "new", "high/o/seen": "s", "high/link": "->/d",
		"same/d/a": "new", "same/o/seen": "s", "same/link": "->/d", "same/keep": "k",
	})
	for _, err := range []error{
		unix.Mknod(filepath.Join(base, "high/d/gone"), unix.S_IFCHR, 0),
		unix.Setxattr(filepath.Join(base, "high/o"), "trusted.overlay.opaque", []byte("y"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := mount.Overlay{Lowers: []string{filepath.Join(base, "high"), filepath.Join(base, "low")}}.Open()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := contenthash.FromFile(m, contenthash.TreeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	same := open(t, filepath.Join(base, "same"), contenthash.TreeOptions{})
	for _, path := range []string{"/", "/d", "/d/a", "/link", "/o", "/keep"} {
		if got, want := sum(t, tree, path, contenthash.Selection{FollowLinks: true}), sum(t, same, path, contenthash.Selection{FollowLinks: true}); got != want {
			t.Errorf("%s: got %s through the overlay, want %s", path, got, want)
		}
	}
	if _, err := tree.Digest(t.Context(), "/d/gone", contenthash.Selection{}); err == nil {
		t.Error("a file that is hidden by a whiteout has a digest")
	}
}

// TestManyGoroutines asks one tree for different things at the same time.
func TestManyGoroutines(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{}
	for _, d := range []string{"a", "b", "c", "d"} {
		for _, f := range []string{"1", "2", "3"} {
			files[d+"/"+f+"/file"] = d + f
		}
	}
	write(t, dir, files)
	want := map[string]string{}
	for _, d := range []string{"/", "/a", "/b", "/c", "/d"} {
		want[d] = once(t, dir, d, contenthash.Selection{}).String()
	}
	tree := open(t, dir, contenthash.TreeOptions{ResetOwner: true, Exclude: []string{"nothing", "!x"}})
	done := make(chan error, 50)
	for i := range 50 {
		d := []string{"/", "/a", "/b", "/c", "/d"}[i%5]
		go func() {
			got, err := tree.Digest(t.Context(), d, contenthash.Selection{})
			if err == nil && got.String() != want[d] {
				t.Errorf("%s: got %s, want %s", d, got, want[d])
			}
			done <- err
		}()
	}
	for range 50 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
