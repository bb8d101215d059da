package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// referencesOf returns everything a stored manifest leads to, layers that may not be
// distributed among it in case they were, and its subject or "".
func referencesOf(r record) (refs []digest.Digest, subject digest.Digest, err error) {
	doc, err := readDocument(r.body)
	if err != nil {
		return nil, "", fmt.Errorf("manifest %s: %w: %w", r.digest, errdefs.ErrDataLoss, err)
	}
	for _, desc := range doc.descriptors() {
		refs = append(refs, desc.Digest)
	}
	if doc.Subject != nil {
		subject = doc.Subject.Digest
	}
	return refs, subject, nil
}

// otherBytes says that nobody knows what a manifest leads to.
func otherBytes(d digest.Digest) error {
	return fmt.Errorf("manifest %s has other bytes: %w", d, errdefs.ErrDataLoss)
}

// manifestGraph is what leads to what among the manifests of a repository: indexes to
// manifests, and subjects to their referrers.
type manifestGraph struct {
	next map[digest.Digest][]digest.Digest // every manifest is a key
	subj map[digest.Digest]digest.Digest
	keep map[digest.Digest]bool
}

func newManifestGraph() *manifestGraph {
	return &manifestGraph{map[digest.Digest][]digest.Digest{}, map[digest.Digest]digest.Digest{}, map[digest.Digest]bool{}}
}

func (g *manifestGraph) add(d digest.Digest, refs []digest.Digest, subject digest.Digest) {
	g.next[d] = append(g.next[d], refs...)
	if subject != "" {
		g.subj[d] = subject
	}
}

// mark keeps all that roots lead to, once every manifest was added.
func (g *manifestGraph) mark(roots []digest.Digest) {
	for d, subject := range g.subj {
		if g.has(subject) {
			g.next[subject] = append(g.next[subject], d)
		}
	}
	for _, d := range roots {
		g.reach(d)
	}
}

// reach keeps d and all that it leads to.
func (g *manifestGraph) reach(d digest.Digest) {
	todo := []digest.Digest{d}
	for len(todo) > 0 {
		d, todo = todo[len(todo)-1], todo[:len(todo)-1]
		if !g.keep[d] {
			g.keep[d] = true
			todo = append(todo, g.next[d]...)
		}
	}
}

// garbage returns the manifests that are not kept, each behind all that lead to it.
func (g *manifestGraph) garbage() []digest.Digest {
	leads := map[digest.Digest]int{}
	for d, next := range g.next {
		if g.keep[d] {
			continue
		}
		for _, n := range next {
			leads[n]++
		}
	}
	var order []digest.Digest
	for d := range g.next {
		if !g.keep[d] && leads[d] == 0 {
			order = append(order, d)
		}
	}
	for i := 0; i < len(order); i++ {
		for _, n := range g.next[order[i]] {
			if leads[n]--; leads[n] == 0 && !g.keep[n] && g.has(n) {
				order = append(order, n)
			}
		}
	}
	return order // of a ring, made by a subject, nothing is in it
}

func (g *manifestGraph) has(d digest.Digest) bool { _, ok := g.next[d]; return ok }

// sweepManifests removes the manifests that no tag, kept index or kept subject leads to.
func (c *collector) sweepManifests(ctx context.Context, repo string) error {
	g, err := c.graph(ctx, repo)
	if err != nil {
		return err
	}
	order := g.garbage()
	for len(order) > 0 {
		n := min(gcBatch, len(order))
		if err := c.unlinkManifests(ctx, repo, g, order[:n]); err != nil {
			return err
		}
		order = order[n:]
	}
	return nil
}

func (c *collector) graph(ctx context.Context, repo string) (*manifestGraph, error) {
	g := newManifestGraph()
	var roots []digest.Digest
	err := c.eachRecord(ctx, repo, func(r record) error {
		refs, subject, err := referencesOf(r)
		if err != nil {
			return err
		}
		g.add(r.digest, refs, subject)
		if st, err := lstat(c.s.recordPath(repo, r.digest)); err != nil || !changed(&st).Before(c.cut) {
			roots = append(roots, r.digest)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	tags, err := readNames(c.s.repo(repo) + "/_tags")
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	for _, tag := range tags {
		r, _, err := readRecord(c.s.tagPath(repo, tag))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil && !r.is(r.digest) {
			err = fmt.Errorf("tag %s: %w", tag, otherBytes(r.digest))
		}
		if err != nil {
			return nil, err
		}
		roots = append(roots, r.digest)
		if err := c.pace.did(ctx, 1); err != nil {
			return nil, err
		}
	}
	g.mark(roots)
	return g, nil
}

// unlinkManifests removes manifests that are still garbage under the lock. One that was
// taken into use meanwhile keeps all it leads to, which comes behind it.
func (c *collector) unlinkManifests(ctx context.Context, repo string, g *manifestGraph, batch []digest.Digest) error {
	if !c.o.DryRun {
		unlock, err := c.lock(ctx, repo)
		if err != nil {
			return err
		}
		defer unlock()
	}
	for _, d := range batch {
		if g.keep[d] {
			continue
		}
		path := c.s.recordPath(repo, d)
		st, err := lstat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if !changed(&st).Before(c.cut) {
			c.report.Fresh++
			g.reach(d)
			continue
		}
		if !c.o.DryRun {
			if err := c.unlinkManifest(repo, d, g.subj[d]); err != nil {
				return err
			}
		}
		c.report.RemovedManifests++
	}
	return c.pace.did(ctx, 10*len(batch))
}

// unlinkManifest removes a manifest without tags. The record goes last, as always.
func (c *collector) unlinkManifest(repo string, d, subject digest.Digest) error {
	if subject != "" {
		referrer := filepath.Join(c.s.referrersPath(repo, subject), flatDigest(d))
		if err := os.Remove(referrer); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return os.Remove(c.s.recordPath(repo, d))
}
