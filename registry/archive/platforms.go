package archive

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	maxHeld    = 1 << 20  // bytes of a document that is kept back
	maxHeldAll = 64 << 20 // bytes of all
)

// held is a Sink that keeps manifests and configs to itself until it is known which of them somebody wants: an
// archive may name its images at its end, and a manifest in the store is an image that is here. What is too
// large to be kept goes through; without those that lead to it, it is of no use to anybody.
type held struct {
	Sink
	documents map[digest.Digest][]byte
	size      int
}

// Push implements content.Pusher.
func (h *held) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if d.Size > maxHeld || h.size+int(d.Size) > maxHeldAll {
		return h.Sink.Push(ctx, d, r)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{")) || d.Digest.Algorithm().FromBytes(data) != d.Digest {
		return h.Sink.Push(ctx, d, bytes.NewReader(data)) // which refuses what has another digest
	}
	if _, twice := h.documents[d.Digest]; !twice {
		h.documents[d.Digest] = data
		h.size += len(data)
	}
	return nil
}

// Fetch implements content.Fetcher.
func (h *held) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if data, ok := h.documents[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return h.Sink.Fetch(ctx, d)
}

// Exists implements content.Pusher.
func (h *held) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if _, ok := h.documents[d.Digest]; ok {
		return true, nil
	}
	return h.Sink.Exists(ctx, d)
}

// Stat implements Sink.
func (h *held) Stat(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	if data, ok := h.documents[dgst]; ok {
		return content.Info{Digest: dgst, Size: int64(len(data))}, nil
	}
	return h.Sink.Stat(ctx, dgst)
}

// choose lets pass what belongs to the images for platforms, and returns images with those. What is no image is
// left out, unless there is nothing else.
func (h *held) choose(ctx context.Context, images []Image, platforms []ocispec.Platform) ([]Image, error) {
	var out []Image
	var artifact error
	for _, img := range images {
		for _, p := range platforms {
			found, err := content.Resolve(ctx, h, img.Target, p)
			if errdefs.IsFailedPrecondition(err) {
				artifact = fmt.Errorf("image %s: %w", img.Target.Digest, err)
				break
			}
			if err == nil && content.MatchPlatform(p, found.Platform()) == 0 || errdefs.IsNotFound(err) {
				err = fmt.Errorf("image %s does not provide the requested platform (%s): %w", img.called(), content.PlatformString(p), errdefs.ErrNotFound)
			}
			if err != nil {
				return nil, err
			}
			img.Chosen = append(img.Chosen, found.Descriptor)
		}
		if len(img.Chosen) == 0 {
			continue
		}
		if err := content.Copy(ctx, h.Sink, h, img.Target, content.CopyOptions{Platforms: platforms}); err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	if len(out) == 0 {
		return nil, artifact
	}
	return out, nil
}

// called is what a user calls the image.
func (i Image) called() string {
	if len(i.Names) == 0 {
		return i.Target.Digest.String()
	}
	ref, err := reference.ParseNormalizedNamed(i.Names[0])
	if err != nil {
		return i.Names[0]
	}
	return reference.FamiliarString(ref)
}
