package op

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/contenthash"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A Local is a directory of this machine, such as a build context, with the patterns of the
// files that belong to it. It is read in place; its files count as owned by 0:0.
type Local struct {
	env      *Env
	name     string
	path     string
	opened   time.Time // a file that is newer changed during the build
	patterns localPatterns
	tree     *contenthash.Tree

	shown   once[*listing]
	layered once[Result]
}

type localPatterns struct {
	Include, Exclude, Follow []string
}

// local returns the directory behind a local:// source. Equal sources share one.
func (e *Env) local(ctx context.Context, c *solver.Console, name string, attrs map[string]string) (*Local, error) {
	var p localPatterns
	for attr, list := range map[string]*[]string{
		pb.AttrIncludePatterns: &p.Include,
		pb.AttrExcludePatterns: &p.Exclude,
		pb.AttrFollowPaths:     &p.Follow,
	} {
		if text := attrs[attr]; text != "" {
			if err := json.Unmarshal([]byte(text), list); err != nil {
				return nil, fmt.Errorf("attribute %s of local directory %q: %w: %w", attr, name, errdefs.ErrInvalidArgument, err)
			}
		}
	}
	id, err := json.Marshal([]any{name, p, attrs[pb.AttrLocalSessionID], attrs[pb.AttrSharedKeyHint]})
	if err != nil {
		return nil, err
	}
	return e.locals.get(string(id), func() (*Local, error) {
		dir, ok := e.Locals[name]
		switch {
		case ok:
		case e.OpenLocal == nil:
			return nil, fmt.Errorf("local directory %q: %w", name, errdefs.ErrNotFound)
		default:
			var err error
			if dir, err = e.OpenLocal(ctx, c, name, attrs); err != nil {
				return nil, fmt.Errorf("local directory %q: %w", name, err)
			}
		}
		return e.openLocal(name, dir, p)
	})
}

func (e *Env) openLocal(name, dir string, p localPatterns) (*Local, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	// Not CLOCK_REALTIME_COARSE: since Linux 6.13 times of files may be ahead of it, and
	// a file that was written just before would count as changed.
	now := time.Now()
	tree, err := contenthash.OpenTree(path, contenthash.TreeOptions{
		CacheFile:   filepath.Join(e.Dir, "contexts", digest.FromString(path).Encoded()),
		ResetOwner:  true,
		Include:     p.Include,
		Exclude:     p.Exclude,
		FollowPaths: p.Follow,
	})
	if err != nil {
		return nil, fmt.Errorf("local directory %q: %w", name, err)
	}
	return &Local{env: e, name: name, path: path, opened: now, patterns: p, tree: tree}, nil
}

func (l *Local) String() string { return "local directory " + l.name }

// A listing is what belongs to a directory, as it was when its content was hashed.
type listing struct {
	paths    map[string]bool
	children map[string]int // by directory
}

// list returns what belongs to the directory.
func (l *Local) list(ctx context.Context) (*listing, error) {
	return l.shown.get(func() (*listing, error) {
		entries, err := l.tree.Select(ctx, "/", contenthash.Selection{})
		if err != nil {
			return nil, err
		}
		ls := &listing{paths: make(map[string]bool, len(entries)), children: map[string]int{}}
		for _, e := range entries {
			// A file that an exception to .dockerignore brings back is seen in its directories.
			for p := e.Path; p != "" && !ls.paths[p]; p = parentPath(p) {
				ls.paths[p] = true
				ls.children[parentPath(p)]++
			}
		}
		return ls, nil
	})
}

// parentPath returns "" for what lies in the root, and for the root.
func parentPath(p string) string {
	if dir := filepath.Dir(p); dir != "." && dir != "/" {
		return dir
	}
	return ""
}

// changed returns an error that names path if st says it changed after the build began. Times
// in the future say nothing: some other machine's clock made them.
func (l *Local) changed(path string, st *unix.Stat_t) error {
	ctime := time.Unix(st.Ctim.Unix())
	if ctime.After(l.opened) && ctime.Before(time.Now()) {
		return fmt.Errorf("%s of the %s changed during the build: %w", path, l, errdefs.ErrAborted)
	}
	return nil
}

// solid returns a layer with the files of the directory, for those who need more than to read it.
func (l *Local) solid(ctx context.Context, c *solver.Console) (Result, error) {
	return l.layered.get(func() (_ Result, err error) {
		m, err := l.env.prepare(ctx, c, Result{})
		if err != nil {
			return Result{}, err
		}
		defer func() { err = errors.Join(err, m.discard(ctx)) }()
		dst, err := m.open()
		if err != nil {
			return Result{}, err
		}
		src, err := l.env.source(ctx, c, Result{Local: l})
		if err != nil {
			return Result{}, err
		}
		defer src.Close()
		if err := copyTree(ctx, src, "/", destination{Dir: dst}, "/", copyOptions{dirContents: true, rootToo: true, warn: l.env.warn}); err != nil {
			return Result{}, fmt.Errorf("reading the %s: %w", l, err)
		}
		return m.commit(ctx)
	})
}

// A source is a tree that is copied from.
type source struct {
	*rootfs.Dir
	local  *Local
	listed *listing // of local
}

// source opens r to copy from it.
func (e *Env) source(ctx context.Context, c *solver.Console, r Result) (*source, error) {
	var listed *listing
	if r.Local != nil {
		var err error
		if listed, err = r.Local.list(ctx); err != nil {
			return nil, err
		}
	}
	dir, err := e.view(ctx, c, r)
	if err != nil {
		return nil, err
	}
	return &source{Dir: dir, local: r.Local, listed: listed}, nil
}

// sees says whether path, without leading slash and links, belongs to the tree.
func (s *source) sees(path string) bool {
	return s.listed == nil || path == "" || s.listed.paths[path]
}

// complete fails if something that belongs to the directory path was not among its names any more.
func (s *source) complete(dir string, names []string) error {
	if s.listed == nil {
		return nil
	}
	seen := 0
	for _, name := range names {
		if s.listed.paths[path.Join(dir, name)] {
			seen++
		}
	}
	if seen != s.listed.children[dir] {
		return fmt.Errorf("a file in /%s of the %s vanished during the build: %w", dir, s.local, errdefs.ErrAborted)
	}
	return nil
}

// localOp is a local:// source.
type localOp struct {
	env   *Env
	name  string
	attrs map[string]string
}

// Key implements solver.Op. A directory has no lasting key, as in BuildKit.
func (o *localOp) Key(ctx context.Context) (solver.Key, error) { return solver.Key{Live: true}, nil }

// ContentKeys implements solver.Op.
func (o *localOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op.
func (o *localOp) Run(ctx context.Context, c *solver.Console, _ []Result) ([]Result, error) {
	l, err := o.env.local(ctx, c, o.name, o.attrs)
	if err != nil {
		return nil, err
	}
	return []Result{{Local: l}}, nil
}

// closeLocals writes what was learnt about the directories.
func (e *Env) closeLocals() error {
	var errs []error
	for _, l := range e.locals.take() {
		errs = append(errs, l.tree.Close())
	}
	return errors.Join(errs...)
}
