package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// bucketParallel is how many requests to the service one request of ours makes at once.
const bucketParallel = 16

// GetManifest implements manifests.
func (b *bucket) GetManifest(ctx context.Context, repo, ref string) (record, error) {
	key := tagKey(repo, ref)
	if strings.Contains(ref, ":") {
		key = recordKey(repo, digest.Digest(ref))
	}
	return b.record(ctx, key)
}

func (b *bucket) record(ctx context.Context, key string) (record, error) {
	o, err := b.get(ctx, key)
	if err != nil {
		return record{}, err
	}
	r, _, err := decodeRecord(o.body)
	if err != nil {
		return record{}, fmt.Errorf("%s: %w", key, err)
	}
	return r, nil
}

// ConfirmManifest implements manifests.
func (b *bucket) ConfirmManifest(ctx context.Context, repo string, d digest.Digest) error {
	_, err := b.touch(ctx, recordKey(repo, d))
	return err
}

// PutManifest implements manifests. The tags come last. A deletion of the manifest that came
// between removes the tags it sees, and this looks for the record again behind them: one of
// the two sees the other.
func (b *bucket) PutManifest(ctx context.Context, repo string, m manifest, tags []string) error {
	ctx, cancel := context.WithTimeout(ctx, b.minGrace/2)
	defer cancel()
	if err := b.touchReferences(ctx, repo, m.references); err != nil {
		return err
	}
	for range 5 {
		if err := b.putRecord(ctx, repo, m, tags); err != nil {
			return err
		}
		if len(tags) == 0 {
			return nil
		}
		_, err := b.get(ctx, recordKey(repo, m.digest))
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	return fmt.Errorf("manifest %s comes and goes: %w", m.digest, errdefs.ErrUnavailable)
}

func (b *bucket) putRecord(ctx context.Context, repo string, m manifest, tags []string) error {
	key, body := recordKey(repo, m.digest), append(encodeHeader(m.digest, m.mediaType, false), m.body...)
	_, created, err := b.create(ctx, key, body)
	if err != nil {
		return err
	}
	if !created {
		o, err := b.touch(ctx, key)
		if err == nil {
			err = b.healRecord(ctx, key, m.digest, o, body)
		}
		if errdefs.IsNotFound(err) {
			return b.putRecord(ctx, repo, m, tags)
		}
		if err != nil {
			return err
		}
	}
	work, inner := errgroup.WithContext(ctx)
	work.SetLimit(bucketParallel)
	for _, tag := range tags {
		work.Go(func() error { return b.put(inner, taggedKey(repo, m.digest, tag), nil) })
	}
	work.Go(func() error {
		if !created { // an earlier try may not have got as far as that
			if _, err := b.get(inner, nameKey(repo)); !errdefs.IsNotFound(err) {
				return err
			}
		}
		return b.put(inner, nameKey(repo), nil)
	})
	if m.subject != "" {
		work.Go(func() error { return b.put(inner, referrersKey(repo, m.subject)+flatDigest(m.digest), nil) })
	}
	if err := work.Wait(); err != nil {
		return err
	}
	work, inner = errgroup.WithContext(ctx)
	work.SetLimit(bucketParallel)
	for _, tag := range tags {
		work.Go(func() error {
			if slices.Contains(m.fixed, tag) {
				return b.putFixed(inner, repo, tag, m.digest, body)
			}
			return b.put(inner, tagKey(repo, tag), body)
		})
	}
	return work.Wait()
}

// healRecord writes a record over one that has other bytes than its digest says. errdefs.ErrNotFound
// when that is not there any more.
func (b *bucket) healRecord(ctx context.Context, key string, d digest.Digest, there object, body []byte) error {
	if r, _, err := decodeRecord(there.body); err == nil && r.is(d) {
		return nil
	}
	_, ok, err := b.replace(ctx, key, there.etag, body)
	if err == nil && !ok {
		return errdefs.ErrNotFound
	}
	return err
}

// putFixed sets a tag that does not change once it is there.
func (b *bucket) putFixed(ctx context.Context, repo, tag string, d digest.Digest, body []byte) error {
	for range 10 {
		_, created, err := b.create(ctx, tagKey(repo, tag), body)
		if err != nil || created {
			return err
		}
		there, err := b.record(ctx, tagKey(repo, tag))
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil && there.digest != d {
			err = errImmutable(tag)
		}
		return err
	}
	return fmt.Errorf("tag %s comes and goes: %w", tag, errdefs.ErrUnavailable)
}

// TagInfos implements tags.
func (b *bucket) TagInfos(ctx context.Context, repo string) (list []tagInfo, err error) {
	for e, err := range b.list(ctx, repoKey(repo, "tags"), "") {
		if err != nil {
			return nil, err
		}
		list = append(list, tagInfo{e.key, e.modified, e.etag})
	}
	return list, nil
}

// touchReferences is checkReferences.
func (b *bucket) touchReferences(ctx context.Context, repo string, refs []digest.Digest) error {
	missing := make([]bool, len(refs))
	work, inner := errgroup.WithContext(ctx)
	work.SetLimit(bucketParallel)
	for i, d := range refs {
		work.Go(func() error {
			_, err := b.touch(inner, markerKey(repo, d))
			if errdefs.IsNotFound(err) {
				_, err = b.touch(inner, recordKey(repo, d))
			}
			if errdefs.IsNotFound(err) {
				missing[i], err = true, nil
			}
			return err
		})
	}
	if err := work.Wait(); err != nil {
		return err
	}
	var unknown []digest.Digest
	for i, d := range refs {
		if missing[i] {
			unknown = append(unknown, d)
		}
	}
	if len(unknown) > 0 {
		return &missingError{unknown}
	}
	return nil
}

// RemoveManifest implements manifests. Tags go before the record, so that a deletion that
// was cut short can be repeated, and behind it once more: see PutManifest.
func (b *bucket) RemoveManifest(ctx context.Context, repo string, d digest.Digest) error {
	r, err := b.record(ctx, recordKey(repo, d))
	if err != nil {
		return err
	}
	if _, err := b.untag(ctx, repo, d); err != nil {
		return err
	}
	if _, subject, err := referencesOf(r); err == nil && subject != "" {
		if err := b.remove(ctx, referrersKey(repo, subject)+flatDigest(d)); err != nil {
			return err
		}
	}
	if err := ignoreNotFound(b.drop(ctx, recordKey(repo, d))); err != nil {
		return err
	}
	if _, err := b.get(ctx, recordKey(repo, d)); errdefs.IsNotFound(err) {
		if _, err := b.untag(ctx, repo, d); err != nil {
			return err
		}
	}
	return b.dropName(ctx, repo)
}

// untag removes the tags that point to d, and returns them.
func (b *bucket) untag(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	prefix := repoKey(repo, "tagged") + flatDigest(d) + "/"
	work, inner := errgroup.WithContext(ctx)
	work.SetLimit(bucketParallel)
	var mu sync.Mutex
	for e, err := range b.list(ctx, prefix, "") {
		if err != nil {
			return nil, errors.Join(err, work.Wait())
		}
		work.Go(func() error {
			ok, err := b.untagOne(inner, repo, e.key, d)
			if ok {
				mu.Lock()
				defer mu.Unlock()
				tags = append(tags, e.key)
			}
			return err
		})
	}
	err = work.Wait()
	return tags, err
}

func (b *bucket) untagOne(ctx context.Context, repo, tag string, d digest.Digest) (removed bool, err error) {
	for range 10 {
		o, err := b.get(ctx, tagKey(repo, tag))
		if err != nil {
			return false, ignoreNotFound(err)
		}
		r, _, err := decodeRecord(o.body)
		if err != nil || r.digest != d {
			return false, err
		}
		if ok, err := b.removeIf(ctx, tagKey(repo, tag), o.etag); ok || err != nil {
			return ok, err
		}
	}
	return false, fmt.Errorf("tag %s changes all the time: %w", tag, errdefs.ErrUnavailable)
}

// dropName takes a repository without manifests from the catalog. A manifest that comes in
// that moment is seen behind it, or comes with a name of its own.
func (b *bucket) dropName(ctx context.Context, repo string) error {
	prefix := repoKey(repo, "manifests")
	has, err := b.any(ctx, prefix)
	if err != nil || has {
		return err
	}
	if err := b.remove(ctx, nameKey(repo)); err != nil {
		return err
	}
	if has, err = b.any(ctx, prefix); err == nil && has {
		err = b.put(ctx, nameKey(repo), nil)
	}
	return err
}

// RemoveTag implements tags.
func (b *bucket) RemoveTag(ctx context.Context, repo, tag, version string) error {
	if version == "" {
		return b.drop(ctx, tagKey(repo, tag))
	}
	ok, err := b.removeIf(ctx, tagKey(repo, tag), version)
	if err == nil && !ok {
		err = errOtherVersion
	}
	return err
}

// Referrers implements manifests.
func (b *bucket) Referrers(ctx context.Context, repo string, d digest.Digest, last string) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		var batch []digest.Digest
		flush := func() bool {
			records, err := b.records(ctx, repo, batch)
			for _, r := range records {
				if !yield(r, nil) {
					return false
				}
			}
			batch = batch[:0]
			return err == nil || yield(record{}, err) && false
		}
		for e, err := range b.list(ctx, referrersKey(repo, d), strings.Replace(last, ":", "-", 1)) {
			if err != nil {
				yield(record{}, err)
				return
			}
			referrer, err := parseDigest(strings.Replace(e.key, "-", ":", 1))
			if err != nil {
				continue // not ours
			}
			if batch = append(batch, referrer); len(batch) == bucketParallel && !flush() {
				return
			}
		}
		flush()
	}
}

// records reads manifests at once. Those that are gone are left out.
func (b *bucket) records(ctx context.Context, repo string, digests []digest.Digest) ([]record, error) {
	all := make([]record, len(digests))
	work, ctx := errgroup.WithContext(ctx)
	for i, d := range digests {
		work.Go(func() error {
			r, err := b.record(ctx, recordKey(repo, d))
			all[i] = r
			return ignoreNotFound(err)
		})
	}
	if err := work.Wait(); err != nil {
		return nil, err
	}
	there := all[:0]
	for _, r := range all {
		if r.digest != "" {
			there = append(there, r)
		}
	}
	return there, nil
}

// Tags implements tags.
func (b *bucket) Tags(ctx context.Context, repo, last string, n int) ([]string, bool, error) {
	names, more, err := b.names(ctx, repoKey(repo, "tags"), last, "", n)
	if err != nil || len(names) > 0 {
		return names, more, err
	}
	for _, kind := range []string{"manifests", "blobs"} {
		if has, err := b.any(ctx, repoKey(repo, kind)); err != nil || has {
			return names, false, err
		}
	}
	return nil, false, fmt.Errorf("repository %s: %w", repo, errdefs.ErrNotFound)
}

// Repositories implements storage.
func (b *bucket) Repositories(ctx context.Context, last string, n int) ([]string, bool, error) {
	return b.names(ctx, "names/", last, "!", n)
}

// names lists up to n keys below prefix, without what they end with.
func (b *bucket) names(ctx context.Context, prefix, last, end string, n int) (names []string, more bool, err error) {
	names = []string{}
	if n == 0 {
		return names, false, nil
	}
	if last != "" {
		last += end
	}
	for e, err := range b.list(ctx, prefix, last) {
		if err != nil {
			return nil, false, err
		}
		if len(names) == n {
			return names, true, nil
		}
		names = append(names, strings.TrimSuffix(e.key, end))
	}
	return names, false, nil
}
