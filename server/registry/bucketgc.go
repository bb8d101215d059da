package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// bucketCollector is one collection of a bucket.
//
// One list of repos/ gives every repository's blobs, manifests and tags with their ages.
// Each repository in turn loses the markers that none of its manifests names, then the
// pointers go that no marker was seen of, and with each its bytes. Every deletion is bound
// to the version that was seen, and what is relied on is written again before: what was
// taken into use since stays.
type bucketCollector struct {
	b    *bucket
	o    GCOptions
	cut  time.Time
	pace pacer
	live marks           // digests with a marker, in any repository
	full map[uint64]bool // repositories with manifests, by a hash of the name

	report GCReport
	errs   []error
}

// repoList is what a list says about one repository.
type repoList struct {
	name      string
	blobs     []digestEntry
	manifests []digestEntry
	tags      []entry
}

type digestEntry struct {
	entry
	digest digest.Digest
}

// Collect implements storage.
func (b *bucket) Collect(ctx context.Context, o GCOptions) (GCReport, error) {
	if o.Grace == 0 {
		o.Grace = DefaultGrace
	}
	if o.Grace < b.minGrace {
		return GCReport{}, fmt.Errorf("a grace of %s is too short, it is at least %s in a bucket: %w", o.Grace, b.minGrace, errdefs.ErrInvalidArgument)
	}
	if !o.DryRun {
		end, err := b.lockGC(ctx)
		if err != nil {
			return GCReport{}, err
		}
		defer end()
	}
	c := &bucketCollector{b: b, o: o, cut: b.now().Add(-o.Grace), pace: pacer{rate: o.Rate, start: time.Now()}, live: marks{}, full: map[uint64]bool{}}
	err := c.run(ctx)
	if err == nil && !o.DryRun {
		err = b.put(ctx, "gc/last", nil)
	}
	return c.report, err
}

// lockGC makes this the only collection.
func (b *bucket) lockGC(ctx context.Context) (end func(), err error) {
	const key = "gc/lease"
	if _, _, err := b.create(ctx, key, []byte("free")); err != nil {
		return nil, err
	}
	wait, cancel := context.WithTimeoutCause(ctx, b.lease+b.lease/4, errHeld)
	defer cancel()
	owned := []byte("held")
	l, err := b.hold(wait, key, func(body []byte) (bool, error) { return string(body) == "held", nil },
		func([]byte) []byte { return owned }, func([]byte) []byte { return owned })
	if errors.Is(err, errHeld) {
		return nil, fmt.Errorf("another collection is running: %w", errdefs.ErrUnavailable)
	}
	if err != nil {
		return nil, err
	}
	return func() {
		l.end()
		_ = l.write(context.WithoutCancel(ctx), []byte("free")) // else it is free after the lease
	}, nil
}

// LastCollection implements storage.
func (b *bucket) LastCollection() time.Time {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	o, err := b.get(ctx, "gc/last")
	if err != nil {
		return time.Time{}
	}
	return o.modified.Add(-time.Duration(b.skew.Load()))
}

func (c *bucketCollector) run(ctx context.Context) error {
	var r *repoList
	for e, err := range c.b.list(ctx, "repos/", "") {
		if err != nil {
			return errors.Join(append(c.errs, err)...)
		}
		repo, kind, rest := splitRepoKey(e.key)
		if r == nil || r.name != repo {
			c.repository(ctx, r)
			r = &repoList{name: repo}
		}
		r.add(kind, rest, e)
		if err := c.pace.did(ctx, 1); err != nil {
			return err
		}
	}
	c.repository(ctx, r)
	err := ctx.Err()
	if err == nil {
		err = c.pointers(ctx)
	}
	if err == nil && !c.o.DryRun {
		err = c.names(ctx)
	}
	return errors.Join(append(c.errs, err)...)
}

// splitRepoKey takes "NAME/_kind/rest" apart. All keys of a repository follow each other.
func splitRepoKey(key string) (repo, kind, rest string) {
	repo, rest, _ = strings.Cut(key, "/_")
	kind, rest, _ = strings.Cut(rest, "/")
	return repo, kind, rest
}

func (r *repoList) add(kind, rest string, e entry) {
	d, err := parseDigest(strings.Replace(rest, "/", ":", 1))
	switch {
	case kind == "tags":
		e.key = rest
		r.tags = append(r.tags, e)
	case err != nil:
	case kind == "blobs":
		r.blobs = append(r.blobs, digestEntry{e, d})
	case kind == "manifests":
		r.manifests = append(r.manifests, digestEntry{e, d})
	}
}

// repository collects one repository. If something of it cannot be read it keeps its garbage.
func (c *bucketCollector) repository(ctx context.Context, r *repoList) {
	if r == nil || ctx.Err() != nil {
		return
	}
	c.report.Repositories++
	if len(r.manifests) > 0 {
		c.full[nameHash(r.name)] = true
	}
	gone, err := c.sweep(ctx, r)
	if err != nil && len(c.errs) < maxGCErrors {
		c.errs = append(c.errs, fmt.Errorf("repository %s: %w", r.name, err))
	}
	for _, e := range r.blobs {
		if !gone[e.digest] {
			c.live.add(e.digest)
		}
	}
}

// sweep returns the blobs that are not visible in the repository any more.
func (c *bucketCollector) sweep(ctx context.Context, r *repoList) (gone map[digest.Digest]bool, err error) {
	var manifests map[digest.Digest]bool
	if c.o.untagged(r.name) {
		if manifests, err = c.sweepManifests(ctx, r); err != nil {
			return nil, err
		}
	}
	gone = map[digest.Digest]bool{}
	marked := marks{}
	for _, e := range r.manifests {
		if manifests[e.digest] {
			continue
		}
		c.report.Manifests++
		refs, _, err := c.references(ctx, r.name, e.digest)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, d := range refs {
			marked.add(d)
		}
	}
	for _, e := range r.blobs {
		c.report.Blobs++
		if marked.has(e.digest.Encoded()) {
			continue
		}
		if !e.modified.Before(c.cut) {
			c.report.Fresh++
			continue
		}
		if gone[e.digest], err = c.removeMarker(ctx, r.name, e); err != nil {
			return gone, err
		}
	}
	return gone, nil
}

func (c *bucketCollector) removeMarker(ctx context.Context, repo string, e digestEntry) (ok bool, err error) {
	ok = true
	if !c.o.DryRun {
		if ok, err = c.b.removeIf(ctx, markerKey(repo, e.digest), e.etag); err != nil {
			return false, err
		}
	}
	if !ok {
		c.report.Fresh++
		return false, nil
	}
	c.report.RemovedLinks++
	return true, c.pace.did(ctx, 10)
}

// references returns what a manifest leads to. They never change, so they are remembered.
func (c *bucketCollector) references(ctx context.Context, repo string, d digest.Digest) ([]digest.Digest, digest.Digest, error) {
	if known, ok := c.b.refs.get(d); ok {
		return known.refs, known.subject, nil
	}
	r, err := c.b.record(ctx, recordKey(repo, d))
	if err != nil {
		return nil, "", err
	}
	if !r.is(d) { // other repositories are not to suffer for what this one has
		return nil, "", otherBytes(d)
	}
	refs, subject, err := referencesOf(r)
	if err != nil {
		return nil, "", err
	}
	c.b.refs.put(d, knownRefs{refs, subject})
	return refs, subject, c.pace.did(ctx, 5)
}

// sweepManifests removes the manifests that nothing leads to, and returns them.
func (c *bucketCollector) sweepManifests(ctx context.Context, r *repoList) (map[digest.Digest]bool, error) {
	g := newManifestGraph()
	entries := map[digest.Digest]digestEntry{}
	var roots []digest.Digest
	for _, e := range r.manifests {
		refs, subject, err := c.references(ctx, r.name, e.digest)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		g.add(e.digest, refs, subject)
		entries[e.digest] = e
		if !e.modified.Before(c.cut) {
			roots = append(roots, e.digest)
		}
	}
	for _, tag := range r.tags {
		rec, err := c.b.record(ctx, tagKey(r.name, tag.key))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil && !rec.is(rec.digest) {
			err = fmt.Errorf("tag %s: %w", tag.key, otherBytes(rec.digest))
		}
		if err != nil {
			return nil, err
		}
		roots = append(roots, rec.digest)
	}
	g.mark(roots)
	gone := map[digest.Digest]bool{}
	for _, d := range g.garbage() {
		if g.keep[d] {
			continue
		}
		ok, err := c.removeManifest(ctx, r.name, entries[d], g.subj[d])
		if err != nil {
			return nil, err
		}
		if !ok {
			c.report.Fresh++
			g.reach(d)
			continue
		}
		gone[d] = true
		c.report.RemovedManifests++
	}
	if len(gone) > 0 && len(gone) == len(r.manifests) && !c.o.DryRun {
		return gone, c.b.dropName(ctx, r.name)
	}
	return gone, nil
}

// removeManifest removes a manifest without tags that is what it was when it was listed. A
// tag that is being set touched it.
func (c *bucketCollector) removeManifest(ctx context.Context, repo string, e digestEntry, subject digest.Digest) (ok bool, err error) {
	if c.o.DryRun {
		return true, nil
	}
	if ok, err := c.b.removeIf(ctx, recordKey(repo, e.digest), e.etag); err != nil || !ok {
		return false, err
	}
	if subject != "" {
		if err := c.b.remove(ctx, referrersKey(repo, subject)+flatDigest(e.digest)); err != nil {
			return false, err
		}
	}
	prefix := repoKey(repo, "tagged") + flatDigest(e.digest) + "/"
	for old, err := range c.b.list(ctx, prefix, "") {
		if err == nil && old.modified.Before(c.cut) {
			_, err = c.b.removeIf(ctx, prefix+old.key, old.etag)
		}
		if err != nil {
			return false, err
		}
	}
	return true, c.pace.did(ctx, 10)
}

// removing has the pointers that are about to be removed: who is killed between a pointer and its
// data leaves something that nothing names.
const removing = "gc/removing"

// removeBatch is how many pointers are written down at once.
const removeBatch = 64

// pointers removes the blobs of which no marker was seen.
func (c *bucketCollector) pointers(ctx context.Context) error {
	if !c.o.DryRun {
		if err := c.finishRemoving(ctx); err != nil {
			return err
		}
	}
	var batch []digestEntry
	for e, err := range c.b.list(ctx, "blobs/", "") {
		if err != nil {
			return err
		}
		d, err := parseDigest(strings.Replace(e.key, "/", ":", 1))
		if err != nil || c.live.has(d.Encoded()) || !e.modified.Before(c.cut) {
			continue
		}
		if batch = append(batch, digestEntry{e, d}); len(batch) == removeBatch {
			if err := c.removeBlobs(ctx, batch); err != nil {
				return err
			}
			batch = batch[:0]
		}
	}
	if err := c.removeBlobs(ctx, batch); err != nil || c.o.DryRun {
		return err
	}
	return ignoreNotFound(c.b.drop(ctx, removing))
}

// names takes the repositories without a manifest from the catalog, where whoever removed the last was killed before he did.
func (c *bucketCollector) names(ctx context.Context) error {
	for e, err := range c.b.list(ctx, "names/", "") {
		if err != nil {
			return err
		}
		repo := strings.TrimSuffix(e.key, "!")
		if c.full[nameHash(repo)] {
			continue
		}
		if err := c.b.dropName(ctx, repo); err != nil {
			return fmt.Errorf("repository %s: %w", repo, err)
		}
		if err := c.pace.did(ctx, 10); err != nil {
			return err
		}
	}
	return nil
}

func nameHash(repo string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(repo))
	return h.Sum64()
}

// finishRemoving removes the data of blobs that a collection left which was killed.
func (c *bucketCollector) finishRemoving(ctx context.Context) error {
	o, err := c.b.get(ctx, removing)
	if err != nil {
		return ignoreNotFound(err)
	}
	for line := range bytes.Lines(o.body) {
		p, err := decodePointer(line)
		if err != nil {
			return err
		}
		there, err := c.b.pointer(ctx, blobKey(p.digest))
		if ignoreNotFound(err) != nil {
			return err
		}
		if there.data != p.data {
			if err := c.b.remove(ctx, p.data); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeBlobs removes pointers that are what they were when they were listed, and their data.
func (c *bucketCollector) removeBlobs(ctx context.Context, batch []digestEntry) error {
	var going []pointer
	var etags []string
	var list []byte
	for _, e := range batch {
		o, err := c.b.get(ctx, blobKey(e.digest))
		if errdefs.IsNotFound(err) || err == nil && o.etag != e.etag {
			continue // somebody took it into use
		}
		if err != nil {
			return err
		}
		p, err := decodePointer(o.body)
		if err != nil {
			return err
		}
		going, etags, list = append(going, p), append(etags, e.etag), append(list, p.encode()...)
	}
	if len(going) > 0 && !c.o.DryRun {
		if err := c.b.put(ctx, removing, list); err != nil {
			return err
		}
	}
	for i, p := range going {
		if !c.o.DryRun {
			ok, err := c.b.removeIf(ctx, blobKey(p.digest), etags[i])
			if err == nil && ok {
				err = c.b.remove(ctx, p.data)
			}
			if err != nil {
				return err
			}
			if !ok {
				continue
			}
		}
		c.report.RemovedBlobs++
		c.report.Bytes += p.size
		if err := c.pace.did(ctx, 10); err != nil {
			return err
		}
	}
	return nil
}

// refCache remembers what manifests refer to.
type refCache struct {
	mu   sync.Mutex
	m    map[digest.Digest]knownRefs
	size int // digests in all of them
}

type knownRefs struct {
	refs    []digest.Digest
	subject digest.Digest
}

// maxRefs bounds the memory of references: about 100 bytes each.
const maxRefs = 500_000

func (c *refCache) get(d digest.Digest) (knownRefs, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	k, ok := c.m[d]
	return k, ok
}

func (c *refCache) put(d digest.Digest, k knownRefs) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil || c.size > maxRefs {
		c.m, c.size = map[digest.Digest]knownRefs{}, 0
	}
	c.m[d] = k
	c.size += len(k.refs) + 2
}
