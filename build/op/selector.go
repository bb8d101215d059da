package op

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/contenthash"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A selector says which part of an input an operation reads.
type selector struct {
	path string
	contenthash.Selection
}

func (s selector) filtered() bool {
	return s.Wildcard || len(s.Include) != 0 || len(s.Exclude) != 0
}

// selectorDigest is the key of a list of selected paths beside a definition key, as in BuildKit.
func selectorDigest(sels []selector) digest.Digest {
	paths := make([][]byte, len(sels))
	for i, s := range sels {
		paths[i] = []byte(s.path)
	}
	slices.SortFunc(paths, bytes.Compare)
	slices.Reverse(paths) // so that the digests are BuildKit's, "historical reasons" there
	return digest.FromBytes(bytes.Join(paths, []byte{0}))
}

// keyOf makes the key of an operation from its canonical JSON. Selectors, one per input or "",
// say what is read of an input; they stand beside the record of the input only, not beside its
// content, so that equal files under another path are found, as in BuildKit.
func keyOf(json []byte, selectors []digest.Digest, byContent func(input int) bool) solver.Key {
	op := digest.FromBytes(json)
	definition, content := []byte(op), []byte(op)
	for i, s := range selectors {
		if s == "" {
			continue
		}
		part := fmt.Appendf(nil, "\n%d %s", i, s)
		definition = append(definition, part...)
		if !byContent(i) {
			content = append(content, part...)
		}
	}
	key := solver.Key{Digest: op, Content: op, Reads: make([]bool, len(selectors))}
	for i := range selectors {
		key.Reads[i] = byContent(i)
	}
	if len(definition) > len(op) {
		key.Digest = digest.FromBytes(definition)
	}
	if len(content) > len(op) {
		key.Content = digest.FromBytes(content)
	}
	return key
}

// dedupe drops the plain paths that lie in others and sorts, as BuildKit's dedupeSelectors.
func dedupe(sels []selector) []selector {
	var plain, follow []string
	var out []selector
	for _, s := range sels {
		switch {
		case s.filtered():
		case s.FollowLinks:
			follow = append(follow, s.path)
		default:
			plain = append(plain, s.path)
		}
	}
	required := map[string][]string{}
	for _, s := range sels {
		required[s.path] = append(required[s.path], s.Required...)
	}
	for _, p := range outermost(plain) {
		out = append(out, selector{p, contenthash.Selection{Required: required[p]}})
	}
	for _, p := range outermost(follow) {
		out = append(out, selector{p, contenthash.Selection{FollowLinks: true, Required: required[p]}})
	}
	for _, s := range sels {
		if s.filtered() {
			out = append(out, s)
		}
	}
	slices.SortStableFunc(out, func(a, b selector) int { return cmp.Compare(a.path, b.path) })
	return out
}

// outermost returns the paths that lie in no other, sorted.
func outermost(paths []string) []string {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	paths = slices.Compact(paths)
	return slices.DeleteFunc(slices.Clone(paths), func(p string) bool {
		return slices.ContainsFunc(paths, func(q string) bool {
			return p != q && strings.HasPrefix(p, strings.TrimSuffix(q, "/")+"/")
		})
	})
}

// contentDigest returns the digest of what sels select of r; of all of it if there are none.
func (e *Env) contentDigest(ctx context.Context, c *solver.Console, r Result, sels []selector) (digest.Digest, error) {
	tree, release, err := e.tree(ctx, c, r)
	if err != nil {
		return "", err
	}
	defer release()
	if len(sels) == 0 {
		sels = []selector{{}}
	}
	list := make([][]byte, len(sels))
	for i, s := range sels {
		d, err := tree.Digest(ctx, path.Join("/", s.path), s.Selection)
		if err != nil {
			return "", err
		}
		list[i] = []byte(d)
	}
	return digest.FromBytes(bytes.Join(list, []byte{0})), nil
}

// tree opens r for hashing.
func (e *Env) tree(ctx context.Context, c *solver.Console, r Result) (t *contenthash.Tree, release func(), err error) {
	if r.Local != nil {
		return r.Local.tree, func() {}, nil
	}
	lowers, _, err := e.lowers(ctx, c, r)
	if err != nil {
		return nil, nil, err
	}
	f, err := mount.View(lowers)
	if err != nil {
		return nil, nil, err
	}
	t, err = contenthash.FromFile(f, contenthash.TreeOptions{})
	if err != nil {
		return nil, nil, err
	}
	return t, func() {
		if err := t.Close(); err != nil {
			e.warn("closing a hashed tree: %v", err)
		}
	}, nil
}

// readInput returns the content of a small file of r, such as /etc/passwd.
func readInput(d *rootfs.Dir, name string) ([]byte, error) {
	const limit = 10 << 20 // as BuildKit
	data, err := d.ReadFile(name, limit)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}
