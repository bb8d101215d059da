package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// pointer says where the bytes of a blob are: "blob DIGEST SIZE KEY".
type pointer struct {
	digest digest.Digest
	size   int64
	data   string
}

func (p pointer) encode() []byte {
	return fmt.Appendf(nil, "blob %s %d %s\n", p.digest, p.size, p.data)
}

func decodePointer(b []byte) (pointer, error) {
	f := strings.Fields(string(b))
	if len(f) != 4 || f[0] != "blob" || !strings.HasPrefix(f[3], "data/") {
		return pointer{}, fmt.Errorf("not the pointer of a blob: %w", errdefs.ErrDataLoss)
	}
	d, err := parseDigest(f[1])
	size, ok := parseOffset(f[2])
	if err != nil || !ok {
		return pointer{}, fmt.Errorf("not the pointer of a blob: %w", errdefs.ErrDataLoss)
	}
	return pointer{d, size, f[3]}, nil
}

func (b *bucket) pointer(ctx context.Context, key string) (pointer, error) {
	o, err := b.get(ctx, key)
	if err != nil {
		return pointer{}, err
	}
	return decodePointer(o.body)
}

// OpenBlob implements blobs.
func (b *bucket) OpenBlob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, error) {
	p, err := b.pointer(ctx, markerKey(repo, d))
	if err != nil {
		return nil, err
	}
	return &dataReader{ctx: ctx, b: b, p: p}, nil
}

// BlobURL implements redirector.
func (b *bucket) BlobURL(ctx context.Context, repo string, d digest.Digest) (string, error) {
	if !b.redirect {
		return "", nil
	}
	p, err := b.pointer(ctx, markerKey(repo, d))
	if err != nil {
		return "", err
	}
	u, err := b.api.PresignedGetObject(ctx, b.name, b.prefix+p.data, presignLife,
		url.Values{"response-content-type": {"application/octet-stream"}})
	if err != nil {
		return "", bucketError(p.data, err)
	}
	return u.String(), nil
}

// dataReader reads the bytes of a blob, by one request from wherever it was last sought to.
type dataReader struct {
	ctx context.Context // the request's, which it does not outlive
	b   *bucket
	p   pointer
	at  int64
	r   io.ReadCloser
}

// Read implements io.Reader.
func (r *dataReader) Read(p []byte) (int, error) {
	if r.at >= r.p.size {
		return 0, io.EOF
	}
	if r.r == nil {
		var o minio.GetObjectOptions
		if r.at > 0 {
			if err := o.SetRange(r.at, 0); err != nil {
				return 0, err
			}
		}
		body, _, _, err := r.b.api.GetObject(r.ctx, r.b.name, r.b.prefix+r.p.data, o)
		if err != nil {
			return 0, bucketError(r.p.data, err)
		}
		r.r = body
	}
	n, err := r.r.Read(p)
	r.at += int64(n)
	if err == io.EOF && r.at < r.p.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Seek implements io.Seeker.
func (r *dataReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.p.size
	}
	if offset < 0 {
		return r.at, errors.New("seek before the beginning of a blob")
	}
	if offset != r.at {
		r.Close()
		r.at = offset
	}
	return offset, nil
}

// Close implements io.Closer.
func (r *dataReader) Close() error {
	if r.r == nil {
		return nil
	}
	err := r.r.Close()
	r.r = nil
	return err
}

// ConfirmBlob implements blobs.
func (b *bucket) ConfirmBlob(ctx context.Context, repo string, d digest.Digest) error {
	_, err := b.touch(ctx, markerKey(repo, d))
	return err
}

// MountBlob implements blobs.
func (b *bucket) MountBlob(ctx context.Context, repo, from string, d digest.Digest) error {
	if from != "" {
		if _, err := b.get(ctx, markerKey(from, d)); err != nil {
			return err
		}
	}
	_, err := b.share(ctx, repo, d)
	return err
}

// share makes a blob that the registry has visible in repo. The pointer is touched first: no
// collection takes it before the marker is seen.
func (b *bucket) share(ctx context.Context, repo string, d digest.Digest) (pointer, error) {
	o, err := b.touch(ctx, blobKey(d))
	if err != nil {
		return pointer{}, err
	}
	p, err := decodePointer(o.body)
	if err != nil {
		return pointer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, b.minGrace/2)
	defer cancel()
	return p, b.put(ctx, markerKey(repo, d), o.body)
}

// adopt makes the object p.data, which nobody else knows, the blob p.digest of repo. If the
// registry has the blob already, repo gets that and the object goes.
func (b *bucket) adopt(ctx context.Context, repo string, p pointer) error {
	for range 10 {
		_, created, err := b.create(ctx, blobKey(p.digest), p.encode())
		if err != nil {
			return err
		}
		if created {
			return b.put(ctx, markerKey(repo, p.digest), p.encode())
		}
		there, err := b.share(ctx, repo, p.digest)
		if err == nil && there.data != p.data { // else an earlier try got as far as that
			err = b.remove(ctx, p.data)
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	return fmt.Errorf("blob %s comes and goes: %w", p.digest, errdefs.ErrUnavailable)
}

// RemoveBlob implements blobs.
func (b *bucket) RemoveBlob(ctx context.Context, repo string, d digest.Digest) error {
	return b.drop(ctx, markerKey(repo, d))
}
