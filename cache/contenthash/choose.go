package contenthash

import (
	"context"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
)

// A choice is a file, or a directory itself, that was met below the path of a selection.
type choice struct {
	node   *node
	path   string // as the selection calls it
	real   string // where it is
	follow bool   // if it is a symbolic link, what it leads to counts

	matches  matches
	included bool
	digest   digest.Digest
}

// A chooser walks a tree in the order of BuildKit's keys and lists what a selection takes.
type chooser struct {
	t                *Tree
	ctx              context.Context // of one call of choose, on whose stack this is
	sel              Selection
	path             string // of the selection
	parts            []string
	contents         bool
	include, exclude *patternmatcher.PatternMatcher
	parents          []*choice // directories that the walk is in
	list             []*choice
}

// choose lists what sel takes at p, and the part of p that is left out of the digest.
func (t *Tree) choose(ctx context.Context, p string, sel Selection) (prefix string, _ []*choice, err error) {
	c := &chooser{t: t, ctx: ctx, sel: sel, path: keyPath(p)}
	c.contents = sel.DirContents || strings.HasSuffix(p, "/")
	c.parts = strings.Split(c.path, "/")
	if c.include, err = NewMatcher(sel.Include); err != nil {
		return "", nil, err
	}
	if c.exclude, err = NewMatcher(sel.Exclude); err != nil {
		return "", nil, err
	}
	prefix, last := c.path, false
	if sel.Wildcard {
		prefix, last = splitWildcards(c.path)
	}
	n, real, err := t.resolve(prefix, last)
	if err != nil {
		return "", nil, err
	}
	if n == nil && len(sel.Include) == 0 {
		// A copy of it fails. BuildKit has it count as empty, like a directory of which nothing is let through.
		return "", nil, fmt.Errorf("%q: %w", prefix, errdefs.ErrNotFound)
	}
	if n != nil {
		matched := ""
		if !sel.Wildcard || c.path == "" {
			matched = c.path
		}
		if err := c.walk(n, prefix, real, matched, !sel.Wildcard || c.path == ""); err != nil {
			return "", nil, err
		}
	}
	return prefix, c.list, c.required()
}

// splitWildcards cuts p before its first component with a wildcard; more says that there is one.
func splitWildcards(p string) (before string, more bool) {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if hasWildcards(part) {
			return keyPath(strings.Join(parts[:i], "/")), true
		}
	}
	return p, false
}

// walk looks at n and below. Once the path of the selection has matched, base is what it matched,
// and everything in it is up to the patterns.
func (c *chooser) walk(n *node, p, real, base string, matched bool) error {
	if err := c.ctx.Err(); err != nil {
		return context.Cause(c.ctx)
	}
	if !matched {
		deeper, err := c.match(p, &matched)
		if err != nil {
			return err
		}
		if !matched {
			if !deeper {
				return nil
			}
			return c.below(n, p, real, "", false)
		}
		base = p
	}
	ch := &choice{node: n, path: p, real: real, follow: c.sel.FollowLinks && len(c.parents) == 0}
	if n.isDir() && c.contents && p == c.path {
		return c.below(n, p, real, base, true)
	}
	take, never, err := c.takes(ch, strings.TrimSuffix(strings.TrimPrefix(p+"/", base+"/"), "/"))
	if err != nil || never {
		return err
	}
	if take {
		for _, parent := range c.parents {
			c.add(parent)
		}
		c.add(ch)
	}
	if !n.isDir() {
		return nil
	}
	c.parents = append(c.parents, ch)
	err = c.below(n, p, real, base, true)
	c.parents = c.parents[:len(c.parents)-1]
	return err
}

func (c *chooser) add(ch *choice) {
	if !ch.included {
		ch.included = true
		c.list = append(c.list, ch)
	}
}

func (c *chooser) below(n *node, p, real, base string, matched bool) error {
	if err := c.t.load(n, real); err != nil {
		return err
	}
	for _, k := range n.kids {
		if err := c.walk(k, p+"/"+k.name, real+"/"+k.name, base, matched); err != nil {
			return err
		}
	}
	return nil
}

// match says whether the pattern matches p or, for deeper, may match something in it.
func (c *chooser) match(p string, matched *bool) (deeper bool, err error) {
	if *matched, err = path.Match(c.path, p); err != nil {
		return false, fmt.Errorf("the pattern %s: %w: %w", c.path, err, errdefs.ErrInvalidArgument)
	}
	if p == "" {
		return true, nil
	}
	n := strings.Count(p, "/") + 1 // parts begins with the empty one before the first slash
	if n >= len(c.parts) {
		return false, nil
	}
	return path.Match(strings.Join(c.parts[:n], "/"), p)
}

// takes says whether the patterns let the file through, whose path relative to the selection is
// rel; never says that nothing in it can be.
func (c *chooser) takes(ch *choice, rel string) (take, never bool, err error) {
	var parent matches
	if len(c.parents) > 0 {
		parent = c.parents[len(c.parents)-1].matches
	}
	take = true
	if c.include != nil {
		if take, ch.matches.include, err = c.include.MatchesUsingParentResults(rel, parent.include); err != nil {
			return false, false, fmt.Errorf("matching %s: %w", rel, err)
		}
	}
	// A file that was asked for is copied, whatever the patterns say of a path without a name. BuildKit leaves it out of the
	// digest, and finds COPY --exclude=* FILE in the cache after FILE has changed.
	if c.exclude != nil && take && (rel != "" || ch.node.isDir()) {
		out := false
		if out, ch.matches.exclude, err = c.exclude.MatchesUsingParentResults(rel, parent.exclude); err != nil {
			return false, false, fmt.Errorf("matching %s: %w", rel, err)
		}
		take = !out
		never = out && !c.exclude.Exclusions()
	}
	return take, never, nil
}

// required makes sure that what must be there was chosen.
func (c *chooser) required() error {
	for _, want := range c.sel.Required {
		found := false
		for _, ch := range c.list {
			if strings.HasPrefix(ch.path, want) {
				found = true
				break
			}
		}
		if !found {
			return fmt.Errorf("%q: %w", want, errdefs.ErrNotFound)
		}
	}
	return nil
}
