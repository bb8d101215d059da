package registry

import (
	"context"
	"errors"
	"io"
	"strings"

	"github.com/containerd/errdefs"
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

// eachData implements verifiable.
func (b *bucket) eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error {
	for e, err := range b.list(ctx, "blobs/", "") {
		if err != nil {
			return err
		}
		d, err := parseDigest(strings.Replace(e.key, "/", ":", 1))
		if err != nil {
			continue // not ours
		}
		p, err := b.pointer(ctx, blobKey(d))
		switch {
		case errdefs.IsNotFound(err):
			continue
		case err != nil:
			err = f(d, failingReader{err})
		default:
			data := &dataReader{ctx: ctx, b: b, p: p}
			err = errors.Join(f(d, data), data.Close())
		}
		if err != nil {
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
// names them any more.
func (b *bucket) quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error) {
	bad, err := b.get(ctx, blobKey(d))
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	if ok, err := b.removeIf(ctx, blobKey(d), bad.etag); err != nil || !ok {
		return nil, err // it has been pushed again
	}
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return repos, err
		}
		repo, kind, rest := splitRepoKey(e.key)
		if kind != "blobs" || rest != d.Algorithm().String()+"/"+d.Encoded() {
			continue
		}
		marker, err := b.get(ctx, markerKey(repo, d))
		if err == nil && string(marker.body) == string(bad.body) {
			repos = append(repos, repo)
			_, err = b.removeIf(ctx, markerKey(repo, d), marker.etag)
		}
		if ignoreNotFound(err) != nil {
			return repos, err
		}
	}
	return repos, nil
}

// quarantineManifest implements verifiable.
func (b *bucket) quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	if tags, err = b.untag(ctx, repo, d); err != nil {
		return tags, err
	}
	return tags, b.remove(ctx, recordKey(repo, d))
}
