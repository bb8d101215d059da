package content

import (
	// The algorithms a digest can name; go-digest knows only those that are linked in.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// validate refuses digests that are malformed (they become file names) or of an algorithm
// that OCI image-spec v1.1, descriptor.md, "Registered algorithms" does not list.
func validate(dgst digest.Digest) error {
	if err := dgst.Validate(); err != nil {
		return fmt.Errorf("digest %.200q: %w: %w", string(dgst), errdefs.ErrInvalidArgument, err)
	}
	switch dgst.Algorithm() {
	case digest.SHA256, digest.SHA512:
		return nil
	}
	return fmt.Errorf("digest %s: algorithm is neither sha256 nor sha512: %w", dgst, errdefs.ErrInvalidArgument)
}

// A verifier knows whether the bytes written to it are those of a descriptor.
type verifier struct {
	want ocispec.Descriptor
	hash hash.Hash
	size int64
}

func newVerifier(d ocispec.Descriptor) (*verifier, error) {
	if err := validate(d.Digest); err != nil {
		return nil, err
	}
	if d.Size < 0 {
		return nil, fmt.Errorf("size %d of blob %s: %w", d.Size, d.Digest, errdefs.ErrInvalidArgument)
	}
	return &verifier{want: d, hash: d.Digest.Algorithm().Hash()}, nil
}

// Write fails as soon as there are more bytes than there should be.
func (v *verifier) Write(p []byte) (int, error) {
	v.size += int64(len(p))
	if v.size > v.want.Size {
		return 0, fmt.Errorf("blob %s is larger than its %d bytes: %w", v.want.Digest, v.want.Size, errdefs.ErrDataLoss)
	}
	return v.hash.Write(p)
}

// check is called after the last byte.
func (v *verifier) check() error {
	if v.size != v.want.Size {
		return fmt.Errorf("blob %s has %d of its %d bytes: %w", v.want.Digest, v.size, v.want.Size, errdefs.ErrDataLoss)
	}
	if got := digest.NewDigest(v.want.Digest.Algorithm(), v.hash); got != v.want.Digest {
		return fmt.Errorf("blob %s has the digest %s: %w", v.want.Digest, got, errdefs.ErrDataLoss)
	}
	return nil
}

// Verify returns a reader of r's bytes that ends with io.EOF only if they are those of d, and
// otherwise with an errdefs.ErrDataLoss. Closing it closes r. Implementations of Fetcher use it.
func Verify(r io.ReadCloser, d ocispec.Descriptor) (io.ReadCloser, error) {
	v, err := newVerifier(d)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &verifyReader{r: r, v: v}, nil
}

type verifyReader struct {
	r   io.ReadCloser
	v   *verifier
	err error
}

func (r *verifyReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.r.Read(p)
	if _, werr := r.v.Write(p[:n]); werr != nil {
		r.err = werr
		return 0, werr
	}
	if err == io.EOF {
		if cerr := r.v.check(); cerr != nil {
			err = cerr
		}
	}
	r.err = err
	return n, err
}

func (r *verifyReader) Close() error { return r.r.Close() }
