package contenthash

import (
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/patternmatcher"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A filter says which files are part of a tree, by the rules of BuildKit's fsutil.FilterOpt: a
// directory that is left out still is there if something in it is let through by another pattern.
type filter struct {
	mu               sync.Mutex // a PatternMatcher compiles its patterns when it meets them
	include, exclude *patternmatcher.PatternMatcher

	includePrefixes []string // if not nil, the only directories in which something may be included
	exceptPrefixes  []string // if not nil, the only directories in which something may be excepted
	hidesAgain      bool     // behind an exception there is a pattern without one
}

// matches is what is known of a directory when one looks into it.
type matches struct{ include, exclude patternmatcher.MatchInfo }

func newFilter(d *rootfs.Dir, o TreeOptions) (*filter, error) {
	include := o.Include
	if o.FollowPaths != nil {
		follow, all, err := followPaths(d, o.FollowPaths)
		if err != nil {
			return nil, err
		}
		if include = append(include[:len(include):len(include)], follow...); all {
			include = nil
		}
	}
	f := &filter{}
	var err error
	if f.include, err = NewMatcher(include); err != nil {
		return nil, err
	}
	if f.exclude, err = NewMatcher(o.Exclude); err != nil {
		return nil, err
	}
	f.includePrefixes = prefixes(f.include, false)
	f.exceptPrefixes = prefixes(f.exclude, true)
	f.hidesAgain = hidesAgain(f.exclude)
	return f, nil
}

// maxWildcards bounds the patterns with wildcards of one list: each is a regular expression of 3 KB.
const maxWildcards = 50_000

// NewMatcher returns what matches the patterns, in the form of .dockerignore; nil if there are none.
func NewMatcher(patterns []string) (*patternmatcher.PatternMatcher, error) {
	if len(patterns) == 0 {
		return nil, nil
	}
	wildcards := 0
	for _, p := range patterns {
		if strings.ContainsAny(p, `*?[\`) {
			wildcards++
		}
	}
	if wildcards > maxWildcards {
		return nil, fmt.Errorf("%d patterns with wildcards: at most %d are taken: %w", wildcards, maxWildcards, errdefs.ErrInvalidArgument)
	}
	m, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("patterns %q: %w: %w", patterns, err, errdefs.ErrInvalidArgument)
	}
	return m, nil
}

// hidesAgain says whether a pattern that hides stands behind one that shows.
func hidesAgain(m *patternmatcher.PatternMatcher) bool {
	if m == nil {
		return false
	}
	shown := false
	for _, p := range m.Patterns() {
		if shown && !p.Exclusion() {
			return true
		}
		shown = shown || p.Exclusion()
	}
	return false
}

// prefixes returns the directories of the patterns, those that begin with "!" or the others, with
// a slash at the end; nil if one has wildcards elsewhere than at its end.
func prefixes(m *patternmatcher.PatternMatcher, exclusion bool) []string {
	if m == nil {
		return nil
	}
	dirs := []string{}
	for _, p := range m.Patterns() {
		if p.Exclusion() != exclusion {
			continue
		}
		s := strings.TrimSuffix(strings.TrimSuffix(p.String(), "/**"), "/*")
		if strings.ContainsAny(s, `*[]?^\`) {
			return nil
		}
		dirs = append(dirs, s+"/")
	}
	return dirs
}

// decide says whether the file kid of the directory n, at p without a leading slash, may be part of the tree.
// It marks a directory as weak if it only is when something in it is.
func (f *filter) decide(n, kid *node, p string, isDir bool) (bool, error) {
	if f.include == nil && f.exclude == nil {
		return true, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.include != nil {
		ok, info, err := f.include.MatchesUsingParentResults(p, n.matches.include)
		if err != nil {
			return false, fmt.Errorf("matching %s: %w", p, err)
		}
		kid.matches.include = info
		if !ok {
			if !isDir || !mayHold(f.includePrefixes, p) {
				return false, nil
			}
			kid.weak = true
		}
	}
	if f.exclude != nil {
		out, info, err := f.exclude.MatchesUsingParentResults(p, n.matches.exclude)
		if err != nil {
			return false, fmt.Errorf("matching %s: %w", p, err)
		}
		kid.matches.exclude = info
		if !out && !isDir && f.hidesAgain {
			// What a directory matched is not asked again of a pattern that came too late to change it there,
			// so that such a file slips through. BuildKit then sends it empty; the rule is that the last pattern counts.
			if out, err = f.exclude.MatchesOrParentMatches(p); err != nil {
				return false, fmt.Errorf("matching %s: %w", p, err)
			}
		}
		if out {
			if !isDir || !mayHold(f.exceptPrefixes, p) {
				return false, nil
			}
			kid.weak = true
		}
	}
	return true, nil
}

// mayHold says whether something in the directory may match, as far as prefixes tell.
func mayHold(prefixes []string, dir string) bool {
	if prefixes == nil {
		return true
	}
	for _, p := range prefixes {
		if strings.HasPrefix(p, dir+"/") {
			return true
		}
	}
	return false
}
