package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Tags implements tags.
func (s *directory) Tags(_ context.Context, repo, last string, n int) ([]string, bool, error) {
	tags, err := s.tags.names(s.repo(repo) + "/_tags")
	if errdefs.IsNotFound(err) && s.exists(repo) {
		tags, err = nil, nil
	}
	if err != nil {
		return nil, false, err
	}
	from := 0
	if last != "" {
		from = sort.Search(len(tags), func(i int) bool { return tags[i] > last })
	}
	to := min(from+n, len(tags))
	// n=0 asks for nothing, and has nothing behind it.
	return append([]string{}, tags[from:to]...), n > 0 && to < len(tags), nil
}

// exists reports whether something was ever pushed to repo.
func (s *directory) exists(repo string) bool {
	for _, dir := range []string{"_manifests", "_blobs"} {
		if _, err := os.Lstat(s.repo(repo) + "/" + dir); err == nil {
			return true
		}
	}
	return false
}

// readNames returns the names in a directory, in no order.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, notFound(err)
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// listCache remembers the sorted names of large directories, so that a client who reads a
// long list by pages does not cost a sort per page. A directory's mtime tells whether the
// memory is still good, on this server or another.
type listCache struct {
	mu    sync.Mutex
	lists map[string]cachedList
}

type cachedList struct {
	mtime time.Time
	names []string // sorted, never changed
}

const (
	// cacheFrom is how many names make a list worth remembering.
	cacheFrom = 1000
	// maxLists bounds how many lists are remembered.
	maxLists = 16
	// settled is the age a directory's mtime must have for it to change with the next
	// change: the clock of file systems is a coarse one.
	settled = time.Second
)

// names returns the sorted names in dir. The caller must not change them.
func (c *listCache) names(dir string) ([]string, error) {
	fi, err := os.Stat(dir)
	if err != nil {
		return nil, notFound(err)
	}
	c.mu.Lock()
	l, ok := c.lists[dir]
	c.mu.Unlock()
	if ok && l.mtime.Equal(fi.ModTime()) {
		return l.names, nil
	}
	read := time.Now()
	names, err := readNames(dir)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	if len(names) >= cacheFrom && read.Sub(fi.ModTime()) > settled {
		c.remember(dir, cachedList{fi.ModTime(), names})
	}
	return names, nil
}

func (c *listCache) remember(dir string, l cachedList) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.lists == nil || len(c.lists) >= maxLists {
		c.lists = map[string]cachedList{}
	}
	c.lists[dir] = l
}

// Repositories implements storage.
func (s *directory) Repositories(ctx context.Context, last string, n int) ([]string, bool, error) {
	w := repositoryWalk{ctx: ctx, base: filepath.Join(s.root, "repositories"), last: last, n: n, names: []string{}}
	if n == 0 {
		return w.names, false, nil
	}
	err := w.walk("")
	if errors.Is(err, fs.SkipAll) {
		return w.names, true, nil
	}
	return w.names, false, err
}

// repositoryWalk collects the n names of repositories after last. It reads only the
// directories that can have such.
type repositoryWalk struct {
	ctx   context.Context
	base  string
	last  string
	n     int
	names []string
}

// walk visits what is below prefix, which is "" or ends with a slash. fs.SkipAll: there is
// one more name than was asked for.
func (w *repositoryWalk) walk(prefix string) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	entries, err := readNames(filepath.Join(w.base, prefix))
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("listing repositories: %w", err)
	}
	// Every directory is a name and a prefix of names: "a" and "a/". Sorted together they
	// come in the order of the names, "a", "a-b", "a/x".
	var steps []string
	for _, e := range entries {
		if !strings.HasPrefix(e, "_") {
			steps = append(steps, prefix+e, prefix+e+"/")
		}
	}
	slices.Sort(steps)
	for _, step := range steps {
		if err := w.step(step); err != nil {
			return err
		}
	}
	return nil
}

func (w *repositoryWalk) step(step string) error {
	if strings.HasSuffix(step, "/") {
		if step < w.last && !strings.HasPrefix(w.last, step) {
			return nil // all of it comes before last
		}
		return w.walk(step)
	}
	if step <= w.last || !w.hasManifest(step) {
		return nil
	}
	if len(w.names) == w.n {
		return fs.SkipAll
	}
	w.names = append(w.names, step)
	return nil
}

// hasManifest reports whether a repository has something to list.
func (w *repositoryWalk) hasManifest(repo string) bool {
	for _, algorithm := range []string{"sha256", "sha512"} {
		f, err := os.Open(filepath.Join(w.base, repo, "_manifests", algorithm))
		if err != nil {
			continue
		}
		names, _ := f.Readdirnames(1)
		f.Close()
		if len(names) > 0 {
			return true
		}
	}
	return false
}
