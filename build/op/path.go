package op

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// cleanPath makes p absolute and clean, but keeps a "/" or "/." at its end, which says that
// a directory is meant (BuildKit llbsolver/file/backend.go).
func cleanPath(p string) string {
	clean := path.Join("/", p)
	switch {
	case clean == "/" && strings.HasSuffix(p, "/."):
		return "/."
	case clean == "/":
		return "/"
	case strings.HasSuffix(p, "/."):
		return clean + "/."
	case strings.HasSuffix(p, "/"):
		return clean + "/"
	}
	return clean
}

// realPath returns the path without symbolic links that p leads to inside d, without a leading
// slash; "" is the root. Components that do not exist stay as they are. With follow a link at the
// end is followed too.
//
// The answer is for matching and joining. Whoever opens it still does so through d.
func realPath(d *rootfs.Dir, p string, follow bool) (string, error) {
	const most = 255 // as BuildKit's fs.RootPath
	rest := strings.Split(strings.Trim(path.Join("/", p), "/"), "/")
	done, links := "", 0
	for len(rest) > 0 {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = parentPath(done)
			continue
		}
		next := path.Join(done, part)
		if len(rest) == 0 && !follow {
			return next, nil
		}
		fi, err := d.Lstat(next)
		if missing(err) {
			done = next
			continue
		}
		if err != nil {
			return "", err
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > most {
			return "", &fs.PathError{Op: "resolve", Path: p, Err: unix.ELOOP}
		}
		target, err := d.Readlink(next)
		if err != nil {
			return "", err
		}
		if strings.HasPrefix(target, "/") {
			done = ""
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done, nil
}

// missing says whether err means that there is nothing at a path.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR)
}

// hasWildcards says whether name is a pattern of path.Match.
func hasWildcards(name string) bool {
	for i := 0; i < len(name); i++ {
		switch name[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// expand returns the paths that the pattern src matches in s, sorted, without following links
// behind the first wildcard. A src without wildcards is its only match. Nothing need match, but the
// directory before the first wildcard must be there, as in BuildKit.
func (s *source) expand(src string, follow bool) ([]string, error) {
	parts := strings.Split(strings.Trim(src, "/"), "/")
	i := slices.IndexFunc(parts, hasWildcards)
	if i < 0 {
		return []string{src}, nil
	}
	base, err := realPath(s.Dir, strings.Join(parts[:i], "/"), follow)
	if err != nil {
		return nil, err
	}
	if i > 0 {
		if _, err := s.lstat(base); err != nil {
			return nil, err
		}
	}
	return s.match(base, parts[i:])
}

// match returns what pattern, one part per component, matches below dir.
func (s *source) match(dir string, pattern []string) (found []string, err error) {
	f, err := s.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if missing(err) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	for _, name := range names {
		p := path.Join(dir, name)
		// A malformed pattern matches nothing, as in BuildKit.
		if ok, err := path.Match(pattern[0], name); err != nil || !ok || !s.sees(p) {
			continue
		}
		if len(pattern) == 1 {
			found = append(found, p)
			continue
		}
		below, err := s.match(p, pattern[1:])
		if err != nil {
			return nil, err
		}
		found = append(found, below...)
	}
	return found, nil
}
