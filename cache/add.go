package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// AddLayer stores the plain tar r as a gzip blob and unpacks it. It returns the blob and the diffID.
// A tar that is no layer is an errdefs.ErrInvalidArgument. The caller holds a pin.
func (s *Store) AddLayer(ctx context.Context, r io.Reader, p content.Progress) (_ ocispec.Descriptor, _ digest.Digest, err error) {
	w, err := s.Content.Writer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	z, err := compressor(w, "gzip", runtime.GOMAXPROCS(0))
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	plain := digest.SHA256.Digester()
	_, err = io.Copy(io.MultiWriter(z, plain.Hash()), content.ContextReader(ctx, r))
	if err := errors.Join(err, z.Close()); err != nil {
		return ocispec.Descriptor{}, "", fmt.Errorf("storing a layer: %w", err)
	}
	d, err := w.Commit(ctx, ocispec.MediaTypeImageLayerGzip)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	_, err = s.fromBlob(ctx, plain.Digest(), d)
	return d, plain.Digest(), err
}
