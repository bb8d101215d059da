package layer

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/teu-dev/teu/cache/statefile"
	"golang.org/x/sys/unix"
)

// What a layer needs in one chain. It is the text of the symbolic link chains/HASH.
const (
	chainPlain = "plain" // nothing: diff can be used as it is
	chainOver  = "over"  // the directories in chains/HASH.over, which lie on diff and give it modes and owners
	chainCopy  = "copy"  // chains/HASH.copy instead of diff, with other names and hard links for its files
)

// Stack returns the overlay lower directories, top first, of the layers ids, lowest first.
// Where a layer needs something of those below it (see Layer.Implicit), a directory that
// belongs to this chain is made and kept inside that layer's directory. Without any layers
// it returns one empty directory.
func (s *Store) Stack(ctx context.Context, ids []string) ([]string, error) {
	return s.StackOn(ctx, []string{filepath.Join(s.dir, "empty")}, ids, 0)
}

// MaxStack is how many layers a stack may have. Linux mounts 500 different ones; those that are there twice count once.
// A manifest has room for 30,000, and to make a directory for the chain of each takes time that grows with their square.
const MaxStack = 1000

// StackOn is Stack where the first n of ids are known to be lowers.
func (s *Store) StackOn(ctx context.Context, lowers, ids []string, n int) ([]string, error) {
	if len(ids) > MaxStack {
		return nil, invalid("a stack of %d layers, more than %d", len(ids), MaxStack)
	}
	for i := n; i < len(ids); i++ {
		id := ids[i]
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		r, err := s.read(id)
		if err == nil && r.stale {
			err = fmt.Errorf("layer %s is from before the last start of the machine: %w", id, errdefs.ErrNotFound)
		}
		if err != nil {
			return nil, err
		}
		if i > 0 && r.UserXattr != s.userXattr { // the lowest hides nothing
			return nil, &marksError{id, r.UserXattr}
		}
		own := []string{s.Path(id)}
		if i > 0 && r.Needs {
			if own, err = s.chain(ctx, r, ids[:i], lowers); err != nil {
				return nil, fmt.Errorf("layer %s on %d others: %w", id, i, err)
			}
		} else if len(r.needs.links) > 0 {
			return nil, missingTarget(r.needs.links[0])
		}
		if i == 0 || r.OpaqueRoot {
			lowers = nil
		}
		lowers = append(own, without(lowers, own)...)
	}
	return lowers, nil
}

// marksError refuses a layer that marks what it hides of those below in a way this process does
// not see: what the image has removed would come back.
type marksError struct {
	id   string
	user bool // user.overlay.* and not trusted.overlay.*
}

func (e *marksError) Error() string {
	who := "root with all rights"
	if e.user {
		who = "a user, or by root without CAP_SYS_ADMIN"
	}
	return fmt.Sprintf("layer %s was unpacked by %s and is not to be had with other rights: %s", e.id, who, errdefs.ErrFailedPrecondition)
}

func (e *marksError) Unwrap() error { return errdefs.ErrFailedPrecondition }

func (e *marksError) Hint() string {
	return "set TEU_ROOT to a directory that only processes with the same rights use"
}

// without returns list without what is in gone. A layer can be in an image twice, above all the empty one
// of a step that changed nothing, and overlayfs refuses a directory that is given twice (ELOOP); of equal
// layers the upper hides all that the lower shows.
func without(list, gone []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(dir string) bool { return slices.Contains(gone, dir) })
}

func missingTarget(l Link) error {
	return fmt.Errorf("the hard link %s leads to %s, which is in no layer: %w", shorten(l.Path), shorten(l.Target), errdefs.ErrInvalidArgument)
}

// chain returns the directories that stand for the layer r on top of below, whose union is lowers.
func (s *Store) chain(ctx context.Context, r *record, below, lowers []string) ([]string, error) {
	sum := sha256.Sum256([]byte(strings.Join(below, "\n")))
	base := filepath.Join(s.dir, r.id, "chains", hex.EncodeToString(sum[:16]))
	kind, err := os.Readlink(base)
	if errors.Is(err, fs.ErrNotExist) {
		kind, err = s.makeChain(ctx, r, base, lowers)
	}
	if err != nil {
		return nil, err
	}
	switch kind {
	case chainPlain:
		return []string{s.Path(r.id)}, nil
	case chainOver:
		return []string{base + ".over", s.Path(r.id)}, nil
	case chainCopy:
		return []string{base + ".copy"}, nil
	}
	return nil, fmt.Errorf("%s leads to %q: %w", base, kind, errdefs.ErrDataLoss)
}

// makeChain finds out what r needs and makes it.
func (s *Store) makeChain(ctx context.Context, r *record, base string, lowers []string) (kind string, err error) {
	v, err := openView(lowers, s.userXattr)
	if err != nil {
		return "", err
	}
	defer v.close()
	own, err := openView([]string{s.Path(r.id)}, s.userXattr)
	if err != nil {
		return "", err
	}
	defer own.close()
	p, err := plan(v, own, r.needs)
	if err != nil {
		return "", err
	}
	if p.kind == chainPlain && len(r.needs.implicit) == 1 {
		return p.kind, nil // found out as fast as read
	}
	if err := os.Mkdir(filepath.Dir(base), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	lock := filepath.Join(s.tmp(), r.id+".chain.lock")
	unlock, err := statefile.Lock(ctx, lock, statefile.LockOptions{})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.Remove(lock), unlock()) }()
	if kind, err := os.Readlink(base); err == nil {
		return kind, nil // another process was faster
	}
	if p.kind != chainPlain {
		if err := s.buildChain(ctx, v, own, p, base+"."+p.kind); err != nil {
			return "", err
		}
	}
	return p.kind, os.Symlink(p.kind, base)
}

// buildChain makes the directory dir in one step. It is not made again after a power loss, so it
// must survive one; few layers need one at all.
func (s *Store) buildChain(ctx context.Context, v, own *view, p chainPlan, dir string) (err error) {
	scratch, err := statefile.NewScratch(s.tmp())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	made := filepath.Join(scratch.Path(), "made")
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	root, err := unix.Open(made, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: made, Err: err}
	}
	defer unix.Close(root)
	b := &chainBuilder{root: root, noChown: s.noChown, below: v, own: own, plan: p, moved: map[string]string{}}
	if p.kind == chainOver {
		err = b.over()
	} else {
		err = b.copy(ctx)
	}
	if err != nil {
		return err
	}
	if err := unix.Syncfs(root); err != nil {
		return os.NewSyscallError("syncfs", err)
	}
	// Left over by a process that died before it made the symbolic link: nobody uses it.
	if err := os.Rename(dir, filepath.Join(scratch.Path(), "old")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(made, dir)
}

// A chainPlan says what a layer needs in one chain.
type chainPlan struct {
	kind     string
	implicit map[string]bool       // directories of the layer; "" is the root
	attrs    map[string]attributes // of those that are directories below too
	links    []Link
}

// plan compares the implicit directories of a layer with what lies below.
func plan(below, own *view, n needs) (chainPlan, error) {
	p := chainPlan{kind: chainPlain, implicit: map[string]bool{}, attrs: map[string]attributes{}, links: n.links}
	if len(n.links) > 0 {
		p.kind = chainCopy
	}
	for _, path := range n.implicit {
		if path == "." {
			path = ""
		}
		p.implicit[path] = true
		m, err := below.lookup(path)
		if err != nil {
			return p, err
		}
		switch m.kind() {
		case unix.S_IFDIR:
		case unix.S_IFLNK:
			p.kind = chainCopy
			continue
		default:
			continue
		}
		want, err := below.attributesAt(m, path)
		if err != nil {
			return p, err
		}
		p.attrs[path] = want
		mine, err := own.lookup(path)
		if err != nil {
			return p, err
		}
		have, err := own.attributesAt(mine, path)
		if err != nil {
			return p, err
		}
		if p.kind == chainPlain && !want.same(have) {
			p.kind = chainOver
		}
	}
	return p, nil
}

// same ignores the time: with docker too it is that of the change.
func (a attributes) same(b attributes) bool {
	return a.mode == b.mode && a.uid == b.uid && a.gid == b.gid && slices.Equal(a.xattrs, b.xattrs)
}
