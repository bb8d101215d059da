package contenthash

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/teu-dev/teu/cache/rootfs"
	"golang.org/x/sys/unix"
)

// followPaths returns paths as patterns, with the symbolic links on the way to them and what those
// lead to, as BuildKit's fsutil.FollowLinks does; all if one of them is the root.
func followPaths(d *rootfs.Dir, paths []string) (patterns []string, all bool, err error) {
	f := follower{dir: d, found: map[string]bool{}}
	for _, p := range paths {
		if err := f.add(p); err != nil {
			return nil, false, err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(f.found)) {
		if p == "" {
			return nil, true, nil
		}
		if n := len(patterns); n > 0 && strings.HasPrefix(p, patterns[n-1]+"/") {
			continue
		}
		patterns = append(patterns, p)
	}
	return patterns, false, nil
}

// maxFollowed bounds what wildcards and symbolic links together can lead to.
const maxFollowed = 10000

type follower struct {
	dir   *rootfs.Dir
	found map[string]bool
	steps int
}

// add walks p, which may have wildcards, up to the first symbolic link, and on from where that leads.
func (f *follower) add(p string) error {
	if f.steps++; f.steps > maxFollowed {
		return fmt.Errorf("%s leads through too many symbolic links: %w", p, errdefs.ErrInvalidArgument)
	}
	at, rest := "", trimSlash(path.Join("/", p))
	for {
		var name string
		name, rest, _ = strings.Cut(rest, "/")
		at = path.Join(at, name)
		targets, err := f.targets(at)
		if err != nil {
			return err
		}
		if rest != "" && targets == nil {
			continue
		}
		if f.found[at] {
			return nil
		}
		f.found[at] = true
		for _, target := range targets {
			if err := f.add(path.Join(target, rest)); err != nil {
				return err
			}
		}
		return nil
	}
}

// targets returns where the symbolic links lead that p, whose last component may be a wildcard, matches.
func (f *follower) targets(p string) ([]string, error) {
	dir, base := path.Split(p)
	if !hasWildcards(base) {
		return f.target(p)
	}
	d, err := f.dir.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if notThere(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.Close()
	entries, err := d.ReadDir(-1)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b os.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	var all []string
	for _, e := range entries {
		if ok, _ := path.Match(base, e.Name()); !ok || e.Type() != fs.ModeSymlink {
			continue
		}
		targets, err := f.target(dir + e.Name())
		if err != nil {
			return nil, err
		}
		all = append(all, targets...)
	}
	return all, nil
}

// target returns where p leads if it is a symbolic link.
func (f *follower) target(p string) ([]string, error) {
	if p == "" {
		return nil, nil
	}
	fi, err := f.dir.Lstat(p)
	if notThere(err) || err == nil && fi.Mode()&fs.ModeSymlink == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	link, err := f.dir.Readlink(p)
	if err != nil {
		return nil, err
	}
	if path.IsAbs(link) {
		return []string{path.Clean(link)}, nil
	}
	return []string{path.Join("/", path.Dir(p), link)}, nil
}

func notThere(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func hasWildcards(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}
