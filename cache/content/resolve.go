package content

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An Image is one platform's manifest and config.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     ocispec.Image
	RawConfig  []byte // Config as it was read, with the fields OCI does not know
}

// Platform returns the platform the config names.
func (i Image) Platform() ocispec.Platform { return normalizePlatform(i.Config.Platform) }

// Resolve finds the image for p behind root, which is an index, possibly of indexes, or
// a manifest. No image for p is an errdefs.ErrNotFound that lists the platforms there are.
//
// A root that is a manifest is taken whatever its platform is, as there is no choice; the
// caller who minds compares Image.Platform.
func Resolve(ctx context.Context, f Fetcher, root ocispec.Descriptor, p ocispec.Platform) (Image, error) {
	doc, _, err := readDocument(ctx, f, root)
	if err != nil {
		return Image{}, err
	}
	if doc.manifest != nil {
		return readImage(ctx, f, root, doc.manifest)
	}
	s := search{f: f, want: p}
	if err := s.index(ctx, doc.index, 0); err != nil {
		return Image{}, err
	}
	if s.score == 0 {
		// Few images leave the platform out of the index; only now is it worth asking their configs.
		if img, ok, err := s.unlabelled(ctx); ok || err != nil {
			return img, err
		}
		return Image{}, fmt.Errorf("index %s has no image for %s, only for %s: %w",
			root.Digest, PlatformString(p), s.platforms(), errdefs.ErrNotFound)
	}
	doc, _, err = readDocument(ctx, f, s.best)
	if err != nil {
		return Image{}, err
	}
	if doc.manifest == nil {
		return Image{}, fmt.Errorf("%s is called a manifest, but is an index: %w", s.best.Digest, errdefs.ErrInvalidArgument)
	}
	return readImage(ctx, f, s.best, doc.manifest)
}

// A search goes through an index and those in it for the best image for one platform.
type search struct {
	f     Fetcher
	want  ocispec.Platform
	best  ocispec.Descriptor // the first of those with the highest score
	score int
	read  int                  // indexes read
	plain []ocispec.Descriptor // manifests without a platform
	have  []string             // platforms seen
}

func (s *search) index(ctx context.Context, index *ocispec.Index, depth int) error {
	const (
		deepest = 4   // real images have one index in another at most
		most    = 100 // so that small documents cannot ask for endless requests
	)
	for _, d := range index.Manifests {
		if IsAttestation(d) {
			continue
		}
		score := 0
		if d.Platform != nil {
			if score = MatchPlatform(s.want, *d.Platform); score == 0 {
				s.have = append(s.have, PlatformString(*d.Platform))
				continue
			}
		}
		switch {
		case IsIndex(d.MediaType):
			if s.read++; depth >= deepest || s.read > most {
				return fmt.Errorf("index %s: too many indexes in indexes: %w", d.Digest, errdefs.ErrResourceExhausted)
			}
			doc, _, err := readDocument(ctx, s.f, d)
			if err != nil {
				return err
			}
			if err := s.index(ctx, doc.index, depth+1); err != nil {
				return err
			}
		case !IsManifest(d.MediaType):
			// An index may list anything; what is no manifest is no image.
		case d.Platform == nil:
			s.plain = append(s.plain, d)
		case score > s.score:
			s.best, s.score = d, score
		}
	}
	return nil
}

// unlabelled looks for the image among the manifests without a platform.
func (s *search) unlabelled(ctx context.Context) (Image, bool, error) {
	const most = 32
	var best Image
	var score int
	for _, d := range s.plain[:min(most, len(s.plain))] {
		doc, _, err := readDocument(ctx, s.f, d)
		if err != nil {
			return Image{}, false, err
		}
		img, err := readImage(ctx, s.f, d, doc.manifest)
		if errdefs.IsFailedPrecondition(err) {
			continue // an artifact
		}
		if err != nil {
			return Image{}, false, err
		}
		s.have = append(s.have, PlatformString(img.Platform()))
		if n := MatchPlatform(s.want, img.Config.Platform); n > score {
			best, score = img, n
		}
	}
	return best, score > 0, nil
}

// platforms lists what there is, for an error.
func (s *search) platforms() string {
	if len(s.have) == 0 {
		return "none"
	}
	slices.Sort(s.have)
	s.have = slices.Compact(s.have)
	const most = 20
	if len(s.have) > most {
		s.have = append(s.have[:most], "...")
	}
	return strings.Join(s.have, ", ")
}

// readImage adds the config to a manifest. A manifest that is no image's is an errdefs.ErrFailedPrecondition.
func readImage(ctx context.Context, f Fetcher, d ocispec.Descriptor, m *ocispec.Manifest) (Image, error) {
	// An image with an artifactType is one all the same: docker and containerd look at the config alone.
	if m.ArtifactType != "" && !IsConfig(m.Config.MediaType) || m.Config.MediaType == ocispec.MediaTypeEmptyJSON {
		return Image{}, fmt.Errorf("%s is not an image but an artifact of type %q: %w", d.Digest, m.ArtifactType, errdefs.ErrFailedPrecondition)
	}
	raw, err := readAll(ctx, f, m.Config, MaxConfig)
	if err != nil {
		return Image{}, fmt.Errorf("config of %s: %w", d.Digest, err)
	}
	img := Image{Descriptor: d, Manifest: *m, RawConfig: raw}
	if err := img.parseConfig(); err != nil {
		return Image{}, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	return img, nil
}

// parseConfig fills Config from RawConfig and holds it against the manifest.
func (i *Image) parseConfig() error {
	if err := Unmarshal(i.RawConfig, &i.Config); err != nil {
		if !IsConfig(i.Manifest.Config.MediaType) {
			return fmt.Errorf("media type %q is not that of an image: %w", i.Manifest.Config.MediaType, errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	diffIDs := i.Config.RootFS.DiffIDs
	if len(diffIDs) != len(i.Manifest.Layers) {
		if !IsConfig(i.Manifest.Config.MediaType) {
			return fmt.Errorf("media type %q is not that of an image: %w", i.Manifest.Config.MediaType, errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("it has %d diffIDs for %d layers: %w", len(diffIDs), len(i.Manifest.Layers), errdefs.ErrInvalidArgument)
	}
	for _, id := range diffIDs {
		if err := validate(id); err != nil {
			return fmt.Errorf("diffID: %w", err)
		}
	}
	return nil
}
