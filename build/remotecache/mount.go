package remotecache

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The files of a cache mount are one tar, cut into chunks which are the layers of a manifest, in
// order. A chunk that was there in the last manifest is neither compressed nor sent again.
const (
	mountType       = "application/vnd.teu.cachemount.v1"
	chunkType       = "application/vnd.teu.cachemount.chunk.v1+zstd"
	annotationPlain = "dev.teu.cachemount.plain" // digest of the chunk before compression

	maxChunks = 15000 // what fits into a manifest
)

// mountName is where the cache mount key, the hex digits of a digest, is kept.
func mountName(key string) string { return digest.FromString("cache mount " + key).Encoded() }

// SaveMount stores the tar that write writes as the content of the cache mount key.
func SaveMount(ctx context.Context, p Place, key string, write func(io.Writer) error) error {
	return saveMount(ctx, p, key, usualSizes(), write)
}

func saveMount(ctx context.Context, p Place, key string, sizes chunkSizes, write func(io.Writer) error) (err error) {
	old, err := mountChunks(ctx, p, key)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) {
		return err
	}
	known := map[string]ocispec.Descriptor{}
	for _, d := range old {
		known[d.Annotations[annotationPlain]] = d
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return err
	}
	var chunks []ocispec.Descriptor
	c := newChunker(sizes, func(chunk []byte) error {
		plain := digest.FromBytes(chunk).String()
		d, ok := known[plain]
		if !ok {
			data := z.EncodeAll(chunk, nil)
			d = ocispec.Descriptor{
				MediaType: chunkType, Digest: digest.FromBytes(data), Size: int64(len(data)),
				Annotations: map[string]string{annotationPlain: plain},
			}
			known[plain] = d
			err := Send(ctx, p, d, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil })
			if err != nil {
				return err
			}
		}
		if chunks = append(chunks, d); len(chunks) > maxChunks {
			return invalidf("it is too big")
		}
		return nil
	})
	if err := errors.Join(write(c), c.Close()); err != nil {
		return err
	}
	d, data, err := manifestOf(mountType, chunks, nil)
	if err != nil {
		return err
	}
	return errors.Join(Prepare(ctx, p), p.Put(ctx, mountName(key), d, data))
}

// mountChunks returns the chunks of a cache mount.
func mountChunks(ctx context.Context, p Place, key string) ([]ocispec.Descriptor, error) {
	data, err := p.Get(ctx, mountName(key))
	if err != nil {
		return nil, err
	}
	return decodeMount(data)
}

func decodeMount(data []byte) ([]ocispec.Descriptor, error) {
	m, err := decodeManifest(data, mountType)
	if err != nil {
		return nil, err
	}
	if len(m.Layers) == 1 && m.Layers[0].MediaType == ocispec.MediaTypeEmptyJSON {
		return nil, nil
	}
	if len(m.Layers) > maxChunks {
		return nil, invalidf("it has %d chunks", len(m.Layers))
	}
	for _, d := range m.Layers {
		const most = maxChunk + 1<<16 // what cannot be compressed grows a little
		if d.MediaType != chunkType || d.Size < 0 || d.Size > most {
			return nil, invalidf("it has a chunk of %d bytes and the type %.100q", d.Size, d.MediaType)
		}
		if err := errors.Join(checkDigest(d.Digest), checkDigest(digest.Digest(d.Annotations[annotationPlain]))); err != nil {
			return nil, err
		}
	}
	return m.Layers, nil
}

// LoadMount returns the tar of the cache mount key, or an errdefs.ErrNotFound. What is read from it has
// been verified, chunk by chunk.
func LoadMount(ctx context.Context, p Place, key string) (io.Reader, error) {
	if raw, err := hex.DecodeString(key); err != nil || len(raw) != 32 {
		return nil, invalidf("%q is no cache mount", key)
	}
	chunks, err := mountChunks(ctx, p, key)
	if err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxChunk), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, err
	}
	return &mountReader{ctx: ctx, p: p, chunks: chunks, z: z, plain: make([]byte, 0, maxChunk)}, nil
}

type mountReader struct {
	ctx    context.Context // of the one call of LoadMount
	p      Place
	chunks []ocispec.Descriptor
	z      *zstd.Decoder
	plain  []byte
	rest   []byte
}

func (r *mountReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		if len(r.chunks) == 0 {
			return 0, io.EOF
		}
		d := r.chunks[0]
		r.chunks = r.chunks[1:]
		if err := r.fetch(d); err != nil {
			return 0, fmt.Errorf("chunk %s: %w", d.Digest, err)
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *mountReader) fetch(d ocispec.Descriptor) (err error) {
	body, err := r.p.Fetch(r.ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, body.Close()) }()
	data, err := io.ReadAll(io.LimitReader(body, d.Size+1)) // Fetch verifies
	if err != nil {
		return err
	}
	plain, err := r.z.DecodeAll(data, r.plain[:0])
	if err != nil {
		return invalidf("%v", err)
	}
	if digest.FromBytes(plain).String() != d.Annotations[annotationPlain] {
		return fmt.Errorf("it is not what it was: %w", errdefs.ErrDataLoss)
	}
	r.rest = plain
	return nil
}
