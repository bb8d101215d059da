package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// annotationImageName is where containerd and docker keep the whole name of an image.
const annotationImageName = "io.containerd.image.name"

// SaveOptions change how Save works.
type SaveOptions struct {
	Platforms []ocispec.Platform // only these of an index; nil: all that src has
	Progress  content.Progress
}

// Save writes images and all they refer to into w. Images of an index that src does not
// have are left out, as an index may be pulled for one platform only; an index with none
// of its images is an errdefs.ErrNotFound.
func Save(ctx context.Context, w io.Writer, src content.Fetcher, images []Image, o SaveOptions) error {
	s := &saver{src: src, tar: tar.NewWriter(w), platforms: o.Platforms, progress: o.Progress, seen: map[digest.Digest]bool{}}
	for _, img := range images {
		if err := s.add(ctx, img); err != nil {
			return fmt.Errorf("saving %s: %w", img.Target.Digest, err)
		}
	}
	if err := s.write(ctx); err != nil {
		return err
	}
	return s.tar.Close()
}

// dockerManifest is an entry of manifest.json.
type dockerManifest struct {
	Config   string
	RepoTags []string
	Layers   []string
}

type saver struct {
	src       content.Fetcher
	tar       *tar.Writer
	platforms []ocispec.Platform
	progress  content.Progress

	seen   map[digest.Digest]bool
	blobs  []ocispec.Descriptor // in the order of the archive
	index  []ocispec.Descriptor
	docker []dockerManifest
	dirs   map[string]bool
}

// add plans the entries of img, so that nothing is written of an image that is not whole.
func (s *saver) add(ctx context.Context, img Image) error {
	blobs, err := s.closure(ctx, img.Target, map[digest.Digest]error{})
	if err != nil {
		return err
	}
	have := make(map[digest.Digest]bool)
	for _, d := range blobs {
		have[d.Digest] = true
		if !s.seen[d.Digest] {
			s.seen[d.Digest] = true
			s.blobs = append(s.blobs, d)
		}
	}
	target := img.Target
	target.Annotations = nil
	annotated := func(more map[string]string) ocispec.Descriptor {
		d := target
		d.Annotations = map[string]string{}
		maps.Copy(d.Annotations, img.Annotations)
		maps.Copy(d.Annotations, more)
		return d
	}
	if len(img.Names) == 0 {
		var tag map[string]string
		if img.Tag != "" {
			tag = map[string]string{ocispec.AnnotationRefName: img.Tag}
		}
		s.index = append(s.index, annotated(tag))
	}
	entry := dockerManifest{RepoTags: []string{}, Layers: []string{}}
	for _, name := range img.Names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("image name %q: %w: %w", name, err, errdefs.ErrInvalidArgument)
		}
		ref = reference.TagNameOnly(ref)
		names := map[string]string{annotationImageName: ref.String()}
		if tagged, ok := ref.(reference.Tagged); ok {
			names[ocispec.AnnotationRefName] = tagged.Tag()
			entry.RepoTags = append(entry.RepoTags, reference.FamiliarString(ref))
		}
		s.index = append(s.index, annotated(names))
	}
	chosen, err := s.choose(ctx, img.Target, blobs, have)
	if err != nil || chosen == nil {
		return err
	}
	entry.Config = blobPath(chosen.Manifest.Config)
	for _, layer := range chosen.Manifest.Layers {
		entry.Layers = append(entry.Layers, blobPath(layer))
	}
	s.docker = append(s.docker, entry)
	return nil
}

// closure returns root and everything below it, children first, without the documents in done. What an index lacks
// is left out.
func (s *saver) closure(ctx context.Context, root ocispec.Descriptor, done map[digest.Digest]error) ([]ocispec.Descriptor, error) {
	if !isDocument(root) {
		return []ocispec.Descriptor{root}, s.require(ctx, root)
	}
	if err, again := done[root.Digest]; again {
		return nil, err
	}
	list, err := s.below(ctx, root, done)
	if done[root.Digest] = err; err != nil {
		return nil, err
	}
	return append(list, root), nil
}

// below is closure without root itself.
func (s *saver) below(ctx context.Context, root ocispec.Descriptor, done map[digest.Digest]error) (list []ocispec.Descriptor, err error) {
	children, err := content.Children(ctx, s.src, root)
	if err != nil {
		return nil, err
	}
	if content.IsIndex(root.MediaType) && s.platforms != nil {
		children = content.SelectPlatforms(ocispec.Index{Manifests: children}, s.platforms)
	}
	there := false
	for _, child := range children {
		more, err := s.closure(ctx, child, done)
		switch {
		case errdefs.IsNotFound(err) && (content.IsIndex(root.MediaType) || content.IsForeign(child.MediaType)):
			continue
		case err != nil:
			return nil, err
		}
		there, list = true, append(list, more...)
	}
	if content.IsIndex(root.MediaType) && !there {
		return nil, fmt.Errorf("no image of index %s is here: %w", root.Digest, errdefs.ErrNotFound)
	}
	return list, nil
}

func isDocument(d ocispec.Descriptor) bool {
	return content.IsIndex(d.MediaType) || content.IsManifest(d.MediaType)
}

// require fails if src does not have d.
func (s *saver) require(ctx context.Context, d ocispec.Descriptor) error {
	if holder, ok := s.src.(interface {
		Exists(context.Context, ocispec.Descriptor) (bool, error)
	}); ok {
		there, err := holder.Exists(ctx, d)
		if err == nil && !there {
			err = fmt.Errorf("blob %s is not here: %w", d.Digest, errdefs.ErrNotFound)
		}
		return err
	}
	r, err := s.src.Fetch(ctx, d)
	if err != nil {
		return err
	}
	return r.Close()
}

// choose returns the image that manifest.json tells docker about: the host's, or the first there is.
// It is nil if there is none that docker could run.
func (s *saver) choose(ctx context.Context, target ocispec.Descriptor, blobs []ocispec.Descriptor, have map[digest.Digest]bool) (*content.Image, error) {
	img, err := content.Resolve(ctx, s.src, target, content.Host())
	if err == nil && have[img.Descriptor.Digest] {
		return &img, nil
	}
	if err != nil && !errdefs.IsNotFound(err) {
		if content.IsManifest(target.MediaType) {
			return nil, nil //nolint:nilerr // an artifact: its config is no image's
		}
		return nil, err
	}
	for _, d := range blobs {
		if content.IsManifest(d.MediaType) && !content.IsAttestation(d) {
			if img, err := content.Resolve(ctx, s.src, d, content.Host()); err == nil {
				return &img, nil
			}
		}
	}
	return nil, nil
}

func blobPath(d ocispec.Descriptor) string {
	return path.Join(ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded())
}

// write writes what was planned.
func (s *saver) write(ctx context.Context) error {
	s.dirs = map[string]bool{}
	for _, d := range s.blobs {
		if err := s.blob(ctx, d); err != nil {
			return fmt.Errorf("saving blob %s: %w", d.Digest, err)
		}
	}
	for _, doc := range []struct {
		name  string
		value any
	}{
		{ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}},
		{ocispec.ImageIndexFile, ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: s.index,
		}},
		{dockerManifestFile, s.docker},
	} {
		b, err := json.Marshal(doc.value)
		if err != nil {
			return err
		}
		if doc.name == dockerManifestFile && len(s.docker) == 0 {
			continue // nothing for docker
		}
		if err := s.header(doc.name, int64(len(b))); err != nil {
			return err
		}
		if _, err := s.tar.Write(b); err != nil {
			return err
		}
	}
	return nil
}

func (s *saver) blob(ctx context.Context, d ocispec.Descriptor) (err error) {
	name := blobPath(d)
	for _, dir := range []string{ocispec.ImageBlobsDir + "/", path.Dir(name) + "/"} {
		if s.dirs[dir] {
			continue
		}
		s.dirs[dir] = true
		if err := s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}); err != nil {
			return err
		}
	}
	r, err := s.src.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if err := s.header(name, d.Size); err != nil {
		return err
	}
	// The reader's verdict comes at its end, so it is read to the end: not io.CopyN.
	if _, err := io.Copy(s.tar, s.progress.Reader(r, d)); err != nil {
		return err
	}
	if s.progress != nil {
		s.progress(content.Event{Kind: content.EventDone, Desc: d, Current: d.Size, Total: d.Size})
	}
	return nil
}

// header begins a file. Times are zero: the same images give the same archive.
func (s *saver) header(name string, size int64) error {
	return s.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644})
}
