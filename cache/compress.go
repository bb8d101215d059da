package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/pgzip"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/statefile"
)

// CompressLayer returns the blob of the layer id, and makes it if it has not been made yet: an OCI
// layer of mediaType (gzip, zstd or plain, or docker's names for them). Equal layers give equal blobs
// on every machine. The blob a layer was pulled as, if it is there and compressed the same way, is returned
// instead. A layer that was pulled and whose blob is gone is an errdefs.ErrFailedPrecondition when it
// cannot be turned back into the same tar. The caller holds a pin.
func (s *Store) CompressLayer(ctx context.Context, id string, mediaType string) (_ ocispec.Descriptor, err error) {
	kind, err := compression(mediaType)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	l, err := s.sealed(ctx, id, mediaType)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compressing layer %s: %w", id, err)
	}
	if d, ok, err := s.compressed(ctx, l, kind, mediaType); ok || err != nil {
		return d, err
	}
	// Two exports of one layer: the second waits and finds the blob of the first.
	lock := s.path("compressed", l.DiffID.Encoded()+".lock")
	unlock, err := statefile.Lock(ctx, lock, statefile.LockOptions{})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if d, ok, err := s.compressed(ctx, l, kind, mediaType); ok || err != nil {
		return d, err
	}
	d, err := s.compress(ctx, l, kind, mediaType)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("compressing layer %s: %w", id, err)
	}
	return d, s.remember(l.DiffID, d)
}

// SealCompressed seals the layer id, as Layers.Seal does, and makes its blob of what is read for that.
// CompressLayer then finds it. A layer that was sealed before is returned as it is.
func (s *Store) SealCompressed(ctx context.Context, id string, epoch *time.Time, mediaType string) (_ layer.Layer, err error) {
	kind, err := compression(mediaType)
	if err != nil {
		return layer.Layer{}, err
	}
	if l, err := s.Layers.Get(id); err != nil || l.DiffID != "" {
		return l, err
	}
	w, err := s.Content.Writer(ctx)
	if err != nil {
		return layer.Layer{}, err
	}
	defer w.Close()
	z, err := compressor(w, kind, runtime.GOMAXPROCS(0))
	if err != nil {
		return layer.Layer{}, err
	}
	complete := false
	l, err := s.Layers.SealTo(ctx, id, epoch, layer.SealTee{Writer: z, Done: func(l layer.Layer) error {
		complete = true
		if err := z.Close(); err != nil {
			return err
		}
		d, err := w.Commit(ctx, mediaType)
		if err != nil {
			return err
		}
		return s.remember(l.DiffID, d)
	}})
	if !complete {
		err = errors.Join(err, z.Close()) // ends its goroutines; what it wrote is dropped
	}
	return l, err
}

// compression returns gzip, zstd or "" for the media type of a layer.
func compression(mediaType string) (string, error) {
	if !content.IsLayer(mediaType) || content.IsForeign(mediaType) {
		return "", fmt.Errorf("media type %q is not that of a layer: %w", mediaType, errdefs.ErrInvalidArgument)
	}
	for _, kind := range []string{"gzip", "zstd"} {
		if strings.HasSuffix(mediaType, kind) {
			return kind, nil
		}
	}
	return "", nil
}

// sealed touches the layer and returns it with its diffID. If that is only made now, so is the blob.
func (s *Store) sealed(ctx context.Context, id, mediaType string) (layer.Layer, error) {
	ok, err := s.Layers.Touch(id)
	if err != nil {
		return layer.Layer{}, err
	}
	if !ok {
		return layer.Layer{}, fmt.Errorf("it is not there: %w", errdefs.ErrNotFound)
	}
	return s.SealCompressed(ctx, id, nil, mediaType)
}

// compressed finds a blob that was made before.
func (s *Store) compressed(ctx context.Context, l layer.Layer, kind, mediaType string) (ocispec.Descriptor, bool, error) {
	blobs, err := s.blobsOf(l.DiffID)
	if err != nil {
		return ocispec.Descriptor{}, false, err
	}
	for _, d := range blobs {
		if k, err := compression(d.MediaType); err != nil || k != kind {
			continue
		}
		ok, err := s.Content.Exists(ctx, d)
		if err != nil {
			return ocispec.Descriptor{}, false, err
		}
		if ok {
			d.MediaType = mediaType
			return d, true, nil
		}
	}
	return ocispec.Descriptor{}, false, nil
}

// compress makes the blob.
func (s *Store) compress(ctx context.Context, l layer.Layer, kind, mediaType string) (ocispec.Descriptor, error) {
	w, err := s.Content.Writer(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Close()
	z, err := compressor(w, kind, runtime.GOMAXPROCS(0))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := errors.Join(s.writeTar(ctx, l, z), z.Close()); err != nil {
		return ocispec.Descriptor{}, err
	}
	return w.Commit(ctx, mediaType)
}

// writeTar writes the plain tar of l: from another blob of it if there is one, since a layer that was
// pulled cannot always be turned back into its tar.
func (s *Store) writeTar(ctx context.Context, l layer.Layer, w io.Writer) error {
	blobs, err := s.blobsOf(l.DiffID)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		ok, err := s.Content.Exists(ctx, d)
		if err != nil {
			return err
		}
		if ok {
			return s.recompress(ctx, l, d, w)
		}
	}
	return s.Layers.Diff(ctx, l.ID, w, layer.DiffOptions{})
}

// recompress writes the plain bytes of the blob d, and verifies that they are the layer's.
func (s *Store) recompress(ctx context.Context, l layer.Layer, d ocispec.Descriptor, w io.Writer) error {
	r, err := s.Content.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return err
	}
	defer plain.Close()
	v := l.DiffID.Verifier()
	if _, err := io.Copy(io.MultiWriter(w, v), content.ContextReader(ctx, plain)); err != nil {
		return err
	}
	if !v.Verified() {
		return fmt.Errorf("blob %s is not the layer with the diffID %s: %w", d.Digest, l.DiffID, errdefs.ErrDataLoss)
	}
	return nil
}

// compressor returns a writer whose output depends on its input alone, not on workers.
func compressor(w io.Writer, kind string, workers int) (io.WriteCloser, error) {
	switch kind {
	case "gzip":
		const level, block = 5, 1 << 20 // each block of the input is compressed by itself, after 32 KiB of context
		z, err := pgzip.NewWriterLevel(w, level)
		if err != nil {
			return nil, err
		}
		// The header has no name and no time.
		return z, z.SetConcurrency(block, max(workers, 1))
	case "zstd":
		return newFrameWriter(w, max(workers, 1))
	}
	return nopWriteCloser{w}, nil
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
