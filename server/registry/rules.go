package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"github.com/containerd/errdefs"
)

// Rule says what becomes of tags and of manifests without any. Rules are a list: of a tag the
// first that speaks of it decides, and what no rule speaks of stays as it is.
type Rule struct {
	// Repositories and Tags are globs; Tags is all of them if empty.
	Repositories string `json:"repositories"`
	Tags         string `json:"tags,omitempty"`
	// Immutable tags cannot be moved nor deleted by clients.
	Immutable bool `json:"immutable,omitempty"`
	// KeepLast and MaxAge make collections remove tags: those that are neither among the last
	// so many pushed of this rule in a repository nor younger than that. Of the two what is
	// zero keeps nothing, and both zero everything.
	KeepLast int      `json:"keepLast,omitempty"`
	MaxAge   Duration `json:"maxAge,omitempty"`
	// Untagged makes collections remove manifests that nothing leads to. The first rule with
	// the repository and without Tags decides.
	Untagged bool `json:"untagged,omitempty"`
}

// Rules are the document "rules".
type Rules []Rule

const rulesDocument = "rules"

// expires reports whether the rule removes tags.
func (r Rule) expires() bool { return r.KeepLast > 0 || r.MaxAge > 0 }

// of returns the index of the rule that decides on a tag, -1 if none does.
func (rs Rules) of(repo, tag string) int {
	return slices.IndexFunc(rs, func(r Rule) bool {
		return (r.Tags != "" || !r.Untagged || r.Immutable || r.expires()) && matchGlob(r.Repositories, repo) && (r.Tags == "" || matchGlob(r.Tags, tag))
	})
}

// immutable reports whether a tag may not change.
func (rs Rules) immutable(repo, tag string) bool {
	i := rs.of(repo, tag)
	return i >= 0 && rs[i].Immutable
}

// untagged reports whether manifests of a repository go with their last tag.
func (rs Rules) untagged(repo string) bool {
	i := slices.IndexFunc(rs, func(r Rule) bool { return r.Tags == "" && matchGlob(r.Repositories, repo) })
	return i >= 0 && rs[i].Untagged
}

// DecodeRules reads a JSON list of rules. errdefs.ErrInvalidArgument when it is none.
func DecodeRules(r io.Reader) (rs Rules, err error) {
	d := json.NewDecoder(io.LimitReader(r, maxObject))
	d.DisallowUnknownFields()
	err = d.Decode(&rs)
	if err == nil {
		if _, more := d.Token(); more != io.EOF {
			err = errors.New("something follows the list")
		}
	}
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("rules: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	for i, rule := range rs {
		if rule.Repositories == "" || rule.KeepLast < 0 || rule.MaxAge < 0 || !rule.Immutable && !rule.expires() && !rule.Untagged && rule.Tags == "" {
			return nil, fmt.Errorf("rule %d says nothing, or nothing possible, of some repositories: %w", i+1, errdefs.ErrInvalidArgument)
		}
		if rule.Untagged && rule.Tags != "" {
			return nil, fmt.Errorf("rule %d: untagged goes without tags: %w", i+1, errdefs.ErrInvalidArgument)
		}
	}
	return rs, nil
}

// SetRules replaces the rules of the registry in o.Root or o.Bucket.
func SetRules(ctx context.Context, o Options, rs Rules) error {
	s, err := openStorage(o)
	if err != nil {
		return err
	}
	return editDocument(ctx, s, rulesDocument, func([]byte) ([]byte, error) { return json.MarshalIndent(rs, "", " ") })
}

// ReadRules returns the rules of the registry in o.Root or o.Bucket. errdefs.ErrNotFound when
// there is no registry.
func ReadRules(ctx context.Context, o Options) (Rules, error) {
	o.Existing = true
	s, err := openStorage(o)
	if err != nil {
		return nil, err
	}
	return readRules(ctx, s)
}

func readRules(ctx context.Context, s documents) (Rules, error) {
	b, _, err := s.Document(ctx, rulesDocument)
	if ignoreNotFound(err) != nil {
		return nil, err
	}
	return DecodeRules(bytes.NewReader(b))
}

func newRulesCache(s documents) *documentCache[Rules] {
	return &documentCache[Rules]{store: s, name: rulesDocument, decode: func(b []byte) (Rules, error) {
		return DecodeRules(bytes.NewReader(b))
	}}
}

// tagInfo is a tag as a list has it.
type tagInfo struct {
	name    string
	pushed  time.Time // in a directory, when its manifest was
	version string    // changes with the tag
}

// Expired is a tag that the rules remove.
type Expired struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	Pushed     time.Time `json:"pushed"`
	Rule       int       `json:"rule"` // its place in the list, from 1
	version    string
}

// expired returns the tags of a repository that the rules remove.
func (rs Rules) expired(repo string, tags []tagInfo, now time.Time) (list []Expired) {
	byRule := map[int][]tagInfo{}
	for _, t := range tags {
		if i := rs.of(repo, t.name); i >= 0 && rs[i].expires() {
			byRule[i] = append(byRule[i], t)
		}
	}
	for i, rule := range rs {
		of := byRule[i]
		slices.SortFunc(of, func(a, b tagInfo) int { // the last pushed first
			if c := b.pushed.Compare(a.pushed); c != 0 {
				return c
			}
			return bytes.Compare([]byte(b.name), []byte(a.name))
		})
		for n, t := range of {
			if n >= rule.KeepLast && !(rule.MaxAge > 0 && now.Sub(t.pushed) < time.Duration(rule.MaxAge)) {
				list = append(list, Expired{repo, t.name, t.pushed, i + 1, t.version})
			}
		}
	}
	return list
}

// retain removes the tags that the rules remove, or only lists them. It goes repository by
// repository; one that cannot be read keeps its tags.
func retain(ctx context.Context, s storage, rs Rules, dryRun bool) (list []Expired, err error) {
	if !slices.ContainsFunc(rs, Rule.expires) {
		return nil, nil
	}
	var errs []error
	for last, more := "", true; more; {
		var names []string
		if names, more, err = s.Repositories(ctx, last, catalogPage); err != nil {
			return list, err
		}
		for _, repo := range names {
			gone, err := retainIn(ctx, s, rs, repo, dryRun)
			list = append(list, gone...)
			if err != nil && len(errs) < maxGCErrors {
				errs = append(errs, fmt.Errorf("repository %s: %w", repo, err))
			}
			if ctx.Err() != nil {
				return list, ctx.Err()
			}
			last = repo
		}
	}
	return list, errors.Join(errs...)
}

func retainIn(ctx context.Context, s storage, rs Rules, repo string, dryRun bool) (gone []Expired, err error) {
	if !slices.ContainsFunc(rs, func(r Rule) bool { return r.expires() && matchGlob(r.Repositories, repo) }) {
		return nil, nil
	}
	tags, err := s.TagInfos(ctx, repo)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	for _, e := range rs.expired(repo, tags, time.Now()) {
		if !dryRun {
			err := s.RemoveTag(ctx, repo, e.Tag, e.version)
			if errdefs.IsNotFound(err) {
				continue // it was pushed meanwhile
			}
			if err != nil {
				return gone, err
			}
		}
		gone = append(gone, e)
	}
	return gone, nil
}

// PreviewRules returns the tags that rs would remove from the registry in o.Root or o.Bucket.
// errdefs.ErrNotFound when there is none.
func PreviewRules(ctx context.Context, o Options, rs Rules) ([]Expired, error) {
	o.Existing = true
	s, err := openStorage(o)
	if err != nil {
		return nil, err
	}
	return retain(ctx, s, rs, true)
}

// errImmutable is the answer to a change of a tag that may not change.
func errImmutable(tag string) error {
	return &apiError{http.StatusForbidden, codeDenied, "the tag is immutable", map[string]string{"tag": tag}}
}

// fixedTags returns those of tags that may be set but not moved.
func (g *Registry) fixedTags(ctx context.Context, repo string, tags []string) (fixed []string, err error) {
	rs, err := g.rules.get(ctx)
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		if rs.immutable(repo, tag) {
			fixed = append(fixed, tag)
		}
	}
	return fixed, nil
}

// mayRemove returns an error if a tag, or a manifest with one, may not be deleted.
func (g *Registry) mayRemove(ctx context.Context, repo, ref string, isDigest bool) error {
	rs, err := g.rules.get(ctx)
	if err != nil || !slices.ContainsFunc(rs, func(r Rule) bool { return r.Immutable && matchGlob(r.Repositories, repo) }) {
		return err
	}
	if !isDigest {
		if rs.immutable(repo, ref) {
			return errImmutable(ref)
		}
		return nil
	}
	tags, err := g.store.TagInfos(ctx, repo)
	if err != nil {
		return ignoreNotFound(err)
	}
	for _, t := range tags {
		if !rs.immutable(repo, t.name) {
			continue
		}
		m, err := g.store.GetManifest(ctx, repo, t.name)
		if ignoreNotFound(err) != nil {
			return err
		}
		if m.digest.String() == ref {
			return errImmutable(t.name)
		}
	}
	return nil
}
