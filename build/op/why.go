package op

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
)

// ReadFiles lists what operation reads of each of its inputs that is a directory of this machine: the digest
// of each file by its path. After its ContentKeys that costs no more than a walk.
func ReadFiles(ctx context.Context, operation solver.Op[Result], inputs []Result) ([]map[string]digest.Digest, error) {
	list := make([]map[string]digest.Digest, len(inputs))
	for i, in := range inputs {
		if in.Local == nil {
			continue
		}
		list[i] = map[string]digest.Digest{}
		for _, s := range reads(operation, i) {
			entries, err := in.Local.tree.Select(ctx, path.Join("/", s.path), s.Selection)
			if err != nil {
				return nil, err
			}
			for _, e := range entries {
				list[i][e.Path] = e.Own
			}
		}
	}
	return list, nil
}

func reads(operation solver.Op[Result], input int) []selector {
	switch o := operation.(type) {
	case *fileOp:
		return o.selectors[input]
	case *execOp:
		var sels []selector
		for _, p := range outermost(o.deps[input].selectors) {
			s := selector{path: p}
			s.FollowLinks = true
			sels = append(sels, s)
		}
		return sels
	}
	return nil
}

// HiddenBy returns the pattern that keeps the file p, which is there, out of the local:// source name with
// these attributes.
func (e *Env) HiddenBy(name string, attrs map[string]string, p string) (pattern string, hidden bool) {
	l, err := e.local(context.Background(), solver.NewConsole("", "", nil), name, attrs) // it was opened before
	if err != nil {
		return "", false
	}
	dir, err := rootfs.Open(l.path)
	if err != nil {
		return "", false
	}
	defer dir.Close()
	p = strings.TrimPrefix(path.Join("/", p), "/")
	if _, err := dir.Lstat(p); err != nil && !errors.Is(err, fs.ErrPermission) {
		return "", false
	}
	for _, x := range l.patterns.Exclude { // the last that changes something from in to out
		rule := strings.TrimSpace(x)
		shown, except := strings.CutPrefix(rule, "!")
		if rule == "" || except != hidden {
			continue // it changes nothing here
		}
		m, err := patternmatcher.New([]string{shown})
		if err != nil {
			return "", false
		}
		switch match, err := m.MatchesOrParentMatches(p); {
		case err != nil:
			return "", false
		case match && except:
			hidden = false
		case match:
			pattern, hidden = x, true
		}
	}
	return pattern, hidden
}

// Identity names the state r: two with one identity have equal files. It is "" for a directory of this
// machine.
func Identity(r Result) string {
	if r.Local != nil {
		return ""
	}
	var b strings.Builder
	for _, l := range r.Layers {
		b.WriteString(l.ID)
		b.WriteString(l.DiffID.String())
		b.WriteByte(' ')
	}
	return digest.FromString(b.String()).Encoded()
}

// ImageOf returns the name and the digest of the image that r is, "" if a step made it.
func ImageOf(r Result) (ref string, d digest.Digest) {
	if n := len(r.Layers); n > 0 && r.Layers[n-1].Origin != nil {
		o := r.Layers[n-1].Origin
		return o.Ref + o.Layout, o.Manifest.Digest
	}
	return "", ""
}
