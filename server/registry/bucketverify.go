package registry

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// dataSize implements sizer.
func (b *bucket) dataSize(ctx context.Context) (blobs int, bytes int64, err error) {
	for e, err := range b.list(ctx, "data/", "") {
		if err != nil {
			return 0, 0, err
		}
		blobs++
		bytes += e.size
	}
	return blobs, bytes, nil
}

// eachData implements verifiable: what is shared, and what only repositories have, as a quarantine
// that was cut short leaves it.
func (b *bucket) eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error {
	seen := map[string]bool{} // pointers
	visit := func(key string, d digest.Digest) error {
		o, err := b.get(ctx, key)
		if errdefs.IsNotFound(err) || err == nil && seen[string(o.body)] {
			return nil
		}
		seen[string(o.body)] = err == nil
		p, badPointer := decodePointer(o.body)
		if err = errors.Join(err, badPointer); err != nil {
			return f(d, failingReader{err})
		}
		data := &dataReader{ctx: ctx, b: b, p: p}
		return errors.Join(f(d, data), data.Close())
	}
	for e, err := range b.list(ctx, "blobs/", "") {
		if err != nil {
			return err
		}
		d, err := parseDigest(strings.Replace(e.key, "/", ":", 1))
		if err != nil {
			continue // not ours
		}
		if err := visit(blobKey(d), d); err != nil {
			return err
		}
	}
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return err
		}
		repo, kind, rest := splitRepoKey(e.key)
		d, err := parseDigest(strings.Replace(rest, "/", ":", 1))
		if kind != "blobs" || err != nil {
			continue
		}
		if err := visit(markerKey(repo, d), d); err != nil {
			return err
		}
	}
	return nil
}

// failingReader is a reader of what cannot be read.
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// eachManifest implements verifiable.
func (b *bucket) eachManifest(ctx context.Context, f func(repo string, d digest.Digest, r record, err error) error) error {
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return err
		}
		repo, kind, rest := splitRepoKey(e.key)
		d, err := parseDigest(strings.Replace(rest, "/", ":", 1))
		if kind != "manifests" || err != nil {
			continue
		}
		r, err := b.record(ctx, recordKey(repo, d))
		if err := f(repo, d, r, err); err != nil {
			return err
		}
	}
	return nil
}

// quarantineBlob implements verifiable. The bytes stay in data/, to be looked at: nothing
// names them any more. What was pushed again since it was found bad stays.
func (b *bucket) quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error) {
	good := map[string]bool{} // pointers
	quarantine := func(key string) (was bool, err error) {
		o, err := b.get(ctx, key)
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		if err != nil && !errdefs.IsDataLoss(err) {
			return false, err
		}
		body := string(o.body)
		if _, known := good[body]; !known {
			if good[body], err = b.isGood(ctx, d, o.body); err != nil {
				return false, err
			}
		}
		if good[body] {
			return false, nil
		}
		return b.removeIf(ctx, key, o.etag)
	}
	if _, err := quarantine(blobKey(d)); err != nil {
		return nil, err
	}
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return repos, err
		}
		repo, kind, rest := splitRepoKey(e.key)
		if kind != "blobs" || rest != d.Algorithm().String()+"/"+d.Encoded() {
			continue
		}
		was, err := quarantine(markerKey(repo, d))
		if err != nil {
			return repos, err
		}
		if was {
			repos = append(repos, repo)
		}
	}
	return repos, nil
}

// isGood reads what a pointer says, and tells whether it is d. It is an error when nobody can tell
// now: a service that does not answer is no reason to put all it has out of the way.
func (b *bucket) isGood(ctx context.Context, d digest.Digest, body []byte) (bool, error) {
	p, err := decodePointer(body)
	if err != nil || p.digest != d {
		return false, nil
	}
	data := &dataReader{ctx: ctx, b: b, p: p}
	defer data.Close()
	sum, err := readDigest(d.Algorithm(), data)
	if err == nil || errdefs.IsNotFound(err) {
		return sum == d, nil
	}
	there, statErr := b.api.StatObject(ctx, b.name, b.prefix+p.data, minio.StatObjectOptions{})
	if statErr == nil && there.Size < p.size {
		return false, nil
	}
	return false, err
}

// quarantineManifest implements verifiable. What is pushed meanwhile writes its tags again, so
// that they are not those that were seen.
func (b *bucket) quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	o, err := b.get(ctx, recordKey(repo, d))
	if err != nil && !errdefs.IsDataLoss(err) {
		return nil, ignoreNotFound(err)
	}
	if r, _, err := decodeRecord(o.body); err == nil && r.is(d) {
		return nil, nil // pushed again
	}
	versions := map[string]string{}
	for e, err := range b.list(ctx, repoKey(repo, "tagged")+flatDigest(d)+"/", "") {
		if err != nil {
			return nil, err
		}
		tag, err := b.get(ctx, tagKey(repo, e.key))
		if err != nil {
			if errdefs.IsNotFound(err) {
				continue
			}
			return nil, err
		}
		if r, _, err := decodeRecord(tag.body); err == nil && r.digest == d {
			versions[e.key] = tag.etag
		}
	}
	if ok, err := b.removeIf(ctx, recordKey(repo, d), o.etag); err != nil || !ok {
		return nil, err
	}
	for _, tag := range slices.Sorted(maps.Keys(versions)) {
		ok, err := b.removeIf(ctx, tagKey(repo, tag), versions[tag])
		if err != nil {
			return tags, err
		}
		if ok {
			tags = append(tags, tag)
		}
	}
	return tags, nil
}
