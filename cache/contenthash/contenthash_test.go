package contenthash_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/contenthash"
	"golang.org/x/sys/unix"
)

// write makes files of a tree: a name that ends in a slash is a directory, content that begins
// with "->" a symbolic link. All are old.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch {
		case name[len(name)-1] == '/':
			err = os.MkdirAll(p, 0o755)
		case len(content) > 2 && content[:2] == "->":
			err = os.Symlink(content[2:], p)
		default:
			err = os.WriteFile(p, []byte(content), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func open(t testing.TB, dir string, o contenthash.TreeOptions) *contenthash.Tree {
	t.Helper()
	tree, err := contenthash.OpenTree(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tree.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return tree
}

func sum(t testing.TB, tree *contenthash.Tree, path string, sel contenthash.Selection) digest.Digest {
	t.Helper()
	d, err := tree.Digest(t.Context(), path, sel)
	if err != nil {
		t.Fatalf("digest of %s: %v", path, err)
	}
	return d
}

// once opens dir anew and returns one digest.
func once(t testing.TB, dir, path string, sel contenthash.Selection) digest.Digest {
	t.Helper()
	return sum(t, open(t, dir, contenthash.TreeOptions{ResetOwner: true}), path, sel)
}

// TestWhatCounts changes one thing at a time.
func TestWhatCounts(t *testing.T) {
	dir := t.TempDir()
	files := map[string]string{"d/f": "content", "d/l": "->f", "d/sub/g": "x"}
	write(t, dir, files)
	before := once(t, dir, "/d", contenthash.Selection{})
	for _, tc := range []struct {
		name    string
		change  func() error
		changes bool
	}{
		{"mtime", func() error { return os.Chtimes(filepath.Join(dir, "d/f"), time.Unix(1, 0), time.Unix(1, 0)) }, false},
		{"mtime of the directory", func() error { return os.Chtimes(filepath.Join(dir, "d"), time.Unix(1, 0), time.Unix(1, 0)) }, false},
		{"another file beside", func() error { return os.WriteFile(filepath.Join(dir, "other"), nil, 0o644) }, false},
		{"the same bytes again", func() error { return os.WriteFile(filepath.Join(dir, "d/f"), []byte("content"), 0o644) }, false},
		{"mode", func() error { return os.Chmod(filepath.Join(dir, "d/f"), 0o600) }, true},
		{"setuid", func() error { return unix.Chmod(filepath.Join(dir, "d/f"), 0o4600) }, true},
		{"bytes of the same size", func() error { return os.WriteFile(filepath.Join(dir, "d/f"), []byte("CONTENT"), 0o644) }, true},
		{"xattr", func() error { return unix.Setxattr(filepath.Join(dir, "d/f"), "user.x", []byte("1"), 0) }, true},
		{"another xattr value", func() error { return unix.Setxattr(filepath.Join(dir, "d/f"), "user.x", []byte("2"), 0) }, true},
		{"link target", func() error {
			return errors.Join(os.Remove(filepath.Join(dir, "d/l")), os.Symlink("sub", filepath.Join(dir, "d/l")))
		}, true},
		{"name", func() error { return os.Rename(filepath.Join(dir, "d/f"), filepath.Join(dir, "d/F")) }, true},
		{"mode of a directory", func() error { return os.Chmod(filepath.Join(dir, "d/sub"), 0o700) }, true},
		{"a new empty directory", func() error { return os.Mkdir(filepath.Join(dir, "d/new"), 0o755) }, true},
	} {
		if err := tc.change(); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		after := once(t, dir, "/d", contenthash.Selection{})
		if (after != before) != tc.changes {
			t.Errorf("%s: the digest changed: %v, want %v", tc.name, after != before, tc.changes)
		}
		before = after
	}
}

func TestResetOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "x"})
	reset := func() digest.Digest { return once(t, dir, "/", contenthash.Selection{}) }
	kept := func() digest.Digest {
		return sum(t, open(t, dir, contenthash.TreeOptions{}), "/f", contenthash.Selection{})
	}
	a, b := reset(), kept()
	if err := os.Chown(filepath.Join(dir, "f"), 1000, 1000); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if reset() != a {
		t.Error("the owner of a file or the mode of the root changed the digest of a local context")
	}
	if kept() == b {
		t.Error("the owner did not change the digest")
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"f": "x", "loop": "->loop", "out": "->../../../../etc/passwd", "dangling": "->nothing"})
	tree := open(t, dir, contenthash.TreeOptions{})
	for _, tc := range []struct {
		path string
		sel  contenthash.Selection
		want error
	}{
		{"/missing", contenthash.Selection{}, errdefs.ErrNotFound},
		{"/f/below", contenthash.Selection{}, errdefs.ErrNotFound},
		{"/dangling", contenthash.Selection{FollowLinks: true}, errdefs.ErrNotFound},
		{"/dangling", contenthash.Selection{}, nil},
		{"/out", contenthash.Selection{FollowLinks: true}, errdefs.ErrNotFound}, // /etc/passwd of the tree
		{"/loop", contenthash.Selection{FollowLinks: true}, unix.ELOOP},
		{"/mis*", contenthash.Selection{Wildcard: true}, nil},
		{"/[", contenthash.Selection{Wildcard: true}, errdefs.ErrInvalidArgument},
		{"/", contenthash.Selection{Include: []string{"["}}, errdefs.ErrInvalidArgument},
		{"/", contenthash.Selection{Include: []string{"f"}, Required: []string{"/g"}}, errdefs.ErrNotFound},
		{"/", contenthash.Selection{Include: []string{"f"}, Required: []string{"/f"}}, nil},
	} {
		if _, err := tree.Digest(t.Context(), tc.path, tc.sel); !errors.Is(err, tc.want) {
			t.Errorf("digest of %s %+v: got %v, want %v", tc.path, tc.sel, err, tc.want)
		}
	}
}

func TestOddFiles(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}); err != nil {
		t.Fatal(err)
	}
	write(t, dir, map[string]string{"not\xffutf8": "x", "new\nline": "y"})
	if once(t, dir, "/", contenthash.Selection{}) == once(t, dir, "/fifo", contenthash.Selection{}) {
		t.Error("a tree and one of its files have the same digest")
	}
}

func TestSelect(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"a/one.go": "1", "a/two.txt": "2", "a/b/three.go": "3", "a.b": "x", "link": "->a", "empty/": "",
	})
	tree := open(t, dir, contenthash.TreeOptions{})
	for _, tc := range []struct {
		name, path string
		sel        contenthash.Selection
		want       []string
	}{
		{"all", "/", contenthash.Selection{}, []string{"a", "a/b", "a/b/three.go", "a/one.go", "a/two.txt", "a.b", "empty", "link"}},
		{"a directory", "a", contenthash.Selection{}, []string{"a", "a/b", "a/b/three.go", "a/one.go", "a/two.txt"}},
		{"what is in it", "/a", contenthash.Selection{DirContents: true}, []string{"a/b", "a/b/three.go", "a/one.go", "a/two.txt"}},
		{"patterns bring parents", "/", contenthash.Selection{Include: []string{"**/*.go"}}, []string{"a", "a/b", "a/b/three.go", "a/one.go"}},
		{"exclusion", "/a", contenthash.Selection{Exclude: []string{"b"}}, []string{"a", "a/one.go", "a/two.txt"}},
		{"exception", "/a", contenthash.Selection{Exclude: []string{"*", "!one.go"}}, []string{"a", "a/one.go"}},
		{"wildcard", "/a/*.go", contenthash.Selection{Wildcard: true}, []string{"a/one.go"}},
		{"wildcard of directories", "/*/*", contenthash.Selection{Wildcard: true}, []string{"a/b", "a/b/three.go", "a/one.go", "a/two.txt"}},
		{"through a link", "/link/*.txt", contenthash.Selection{Wildcard: true}, []string{"a/two.txt"}},
		{"wildcard without one", "/a/b", contenthash.Selection{Wildcard: true}, []string{"a/b", "a/b/three.go"}},
		{"nothing", "/z*", contenthash.Selection{Wildcard: true}, nil},
	} {
		entries, err := tree.Select(t.Context(), tc.path, tc.sel)
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		var got []string
		for _, e := range entries {
			if e.Path != "" || tc.path != "/" {
				got = append(got, e.Path)
			}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: %s", tc.name, d)
		}
	}
}

func TestFilter(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"src/main.go": "1", "src/vendor/v.go": "2", "node_modules/x/index.js": "3", "docs/keep.md": "4", "docs/drop.txt": "5",
		"real/data": "6", "link": "->real", "app-1": "7", "app-2": "->docs/keep.md",
	})
	for _, tc := range []struct {
		name string
		o    contenthash.TreeOptions
		want []string
	}{
		{"exclude", contenthash.TreeOptions{Exclude: []string{"node_modules", "**/*.txt", "src", "real", "app*", "link"}}, []string{"docs", "docs/keep.md"}},
		{"exception in an excluded directory", contenthash.TreeOptions{Exclude: []string{"*", "!src/vendor"}}, []string{"src", "src/vendor", "src/vendor/v.go"}},
		{"hidden again by the last pattern", contenthash.TreeOptions{Exclude: []string{"src", "docs", "!src/*.go", "!docs/keep.md", "sr*", "node_modules", "**/*.txt", "real", "app*", "link"}}, []string{"docs", "docs/keep.md"}},
		{"exception that is not there", contenthash.TreeOptions{Exclude: []string{"*", "!src/nothing"}}, nil},
		{"wild exception", contenthash.TreeOptions{Exclude: []string{"**", "!**/*.md"}}, []string{"docs", "docs/keep.md"}},
		{"include", contenthash.TreeOptions{Include: []string{"src/main.go"}}, []string{"src", "src/main.go"}},
		{"include and exclude", contenthash.TreeOptions{Include: []string{"src"}, Exclude: []string{"**/vendor"}}, []string{"src", "src/main.go"}},
		{"follow a link on the way", contenthash.TreeOptions{FollowPaths: []string{"link/data"}}, []string{"link", "real", "real/data"}},
		{"follow a link at the end", contenthash.TreeOptions{FollowPaths: []string{"link"}}, []string{"link", "real", "real/data"}},
		{"follow a wildcard", contenthash.TreeOptions{FollowPaths: []string{"app-*"}}, []string{"app-1", "app-2", "docs", "docs/keep.md"}},
		{"follow nothing", contenthash.TreeOptions{FollowPaths: []string{"missing"}}, nil},
		{"follow the root", contenthash.TreeOptions{FollowPaths: []string{"src", "/"}, Exclude: []string{"*", "!app-1"}}, []string{"app-1"}},
	} {
		entries, err := open(t, dir, tc.o).Select(t.Context(), "/", contenthash.Selection{})
		if err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		var got []string
		for _, e := range entries {
			if e.Path != "" {
				got = append(got, e.Path)
			}
		}
		if d := cmp.Diff(tc.want, got); d != "" {
			t.Errorf("%s: %s", tc.name, d)
		}
	}
	filtered := open(t, dir, contenthash.TreeOptions{Exclude: []string{"docs"}})
	if _, err := filtered.Digest(t.Context(), "/docs/keep.md", contenthash.Selection{}); !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("a file that is left out: %v, want not found", err)
	}
	direct := open(t, dir, contenthash.TreeOptions{Exclude: []string{"*", "!src/vendor"}})
	if sum(t, direct, "/src/vendor/v.go", contenthash.Selection{}) == "" {
		t.Error("no digest")
	}
}
