package archive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// docker reads manifest.json (docker's image specification v1.2, "Combined Image JSON +
// Filesystem Changeset Format"). known are the images of the layout in the same archive;
// they only get the names they lack.
func (l *loader) docker(ctx context.Context, raw []byte, known []Image) ([]Image, error) {
	var entries []dockerManifest
	if err := content.Unmarshal(raw, &entries); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	configs := l.configs(ctx, known)
	for _, e := range entries {
		config, err := l.lookup(ctx, e.Config)
		if err != nil {
			return nil, err
		}
		at, ok := configs[config.Digest]
		if !ok {
			target, err := l.manifest(ctx, config, e.Layers)
			if err != nil {
				return nil, fmt.Errorf("image %s: %w", config.Digest, err)
			}
			if at = slices.IndexFunc(known, func(i Image) bool { return i.Target.Digest == target.Digest }); at < 0 {
				at, known = len(known), append(known, Image{Target: target})
			}
		}
		for _, tag := range e.RepoTags {
			name := canonicalName(tag)
			// Several images may have this config; the layout knows better whose name it is.
			if !slices.ContainsFunc(known, func(i Image) bool { return slices.Contains(i.Names, name) }) {
				known[at].add(name)
			}
		}
	}
	return known, nil
}

// configs returns which of images each config belongs to.
func (l *loader) configs(ctx context.Context, images []Image) map[digest.Digest]int {
	found := map[digest.Digest]int{} // documents, too: each is looked at once
	var visit func(d ocispec.Descriptor, at int)
	visit = func(d ocispec.Descriptor, at int) {
		children, err := content.Children(ctx, l.dst, d)
		if err != nil {
			return // of a platform that is not here
		}
		for _, child := range children {
			if _, seen := found[child.Digest]; seen {
				continue
			}
			if found[child.Digest] = at; isDocument(child) {
				visit(child, at)
			}
		}
	}
	for at, img := range images {
		visit(img.Target, at)
	}
	return found
}

// manifest makes and stores the manifest that an image of manifest.json does not have.
// The config stays byte for byte, so the image keeps its ID.
func (l *loader) manifest(ctx context.Context, config ocispec.Descriptor, files []string) (ocispec.Descriptor, error) {
	raw, err := l.small(ctx, config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	var img ocispec.Image
	if err := content.Unmarshal(raw, &img); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("its config: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	diffIDs := img.RootFS.DiffIDs
	if len(diffIDs) != len(files) {
		return ocispec.Descriptor{}, fmt.Errorf("%d layers for %d diffIDs: %w", len(files), len(diffIDs), errdefs.ErrInvalidArgument)
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{},
	}
	var known []ocispec.Descriptor
	if l.known != nil && slices.ContainsFunc(files, l.omitted) {
		if known, err = l.known(ctx, diffIDs); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	for i, file := range files {
		if i < len(known) && l.omitted(file) {
			m.Layers = append(m.Layers, known[i])
			continue
		}
		layer, err := l.layer(ctx, file, diffIDs[i])
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		m.Layers = append(m.Layers, layer)
	}
	return content.PushJSON(ctx, l.dst, m.MediaType, m)
}

// omitted reports whether the archive has nothing under the name of a layer.
func (l *loader) omitted(file string) bool {
	at, err := l.follow(file)
	if err != nil {
		return true
	}
	if s, ok := l.spans[at]; ok {
		return s.size == 0
	}
	d, ok := l.files[at]
	return ok && d.Size == 0
}

// layer finds out how a layer is compressed. A plain one must be what the config says.
func (l *loader) layer(ctx context.Context, file string, diffID digest.Digest) (_ ocispec.Descriptor, err error) {
	if d, ok, err := l.plainInPlace(file, diffID); ok || err != nil {
		return d, err
	}
	d, err := l.lookup(ctx, file)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	r, err := l.dst.Fetch(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var magic [4]byte
	if _, err := io.ReadFull(r, magic[:]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return ocispec.Descriptor{}, err
	}
	switch {
	case bytes.HasPrefix(magic[:], []byte{0x1f, 0x8b}):
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	case bytes.Equal(magic[:], []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	case bytes.HasPrefix(magic[:], []byte("BZh")), bytes.HasPrefix(magic[:], []byte("\xfd7zX")):
		plain, err := l.plain(ctx, d, diffID)
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("layer %.300q: %w", file, err)
		}
		return plain, nil
	default:
		d.MediaType = ocispec.MediaTypeImageLayer
		if d.Digest != diffID {
			return ocispec.Descriptor{}, fmt.Errorf("layer %.300q is %s, the config says %s: %w", file, d.Digest, diffID, errdefs.ErrDataLoss)
		}
	}
	return d, nil
}

// plainInPlace takes a plain layer that stays where it is for what the config says; whoever fetches it finds out.
func (l *loader) plainInPlace(file string, diffID digest.Digest) (_ ocispec.Descriptor, ok bool, err error) {
	at, err := l.follow(file)
	if err != nil {
		return ocispec.Descriptor{}, false, err
	}
	s, ok := l.spans[at]
	if !ok || diffID.Validate() != nil {
		return ocispec.Descriptor{}, false, nil
	}
	var head [10]byte
	n, err := l.place.section(s).ReadAt(head[:], 0)
	if err != nil && err != io.EOF || content.Compressed(head[:n]) {
		return ocispec.Descriptor{}, false, nil // as a look at all of it will tell
	}
	l.place.blobs[diffID] = s
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID, Size: s.size}, true, nil
}

func (l *loader) small(ctx context.Context, d ocispec.Descriptor) (_ []byte, err error) {
	if d.Size > maxDocument {
		return nil, fmt.Errorf("config of %d bytes: %w", d.Size, errdefs.ErrOutOfRange)
	}
	r, err := l.dst.Fetch(ctx, d)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return io.ReadAll(r)
}

// plain stores the tar of a layer that is compressed in a way no media type stands for, as docker does.
func (l *loader) plain(ctx context.Context, d ocispec.Descriptor, diffID digest.Digest) (_ ocispec.Descriptor, err error) {
	r, err := l.dst.Fetch(ctx, d)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return d, err
	}
	defer plain.Close()
	w, err := l.dst.Writer(ctx)
	if err != nil {
		return d, err
	}
	defer w.Close()
	const limit = 1 << 40 // bytes, as of a layer that is unpacked
	if _, err := io.Copy(w, io.LimitReader(content.ContextReader(ctx, plain), limit)); err != nil {
		return d, err
	}
	made, err := w.Commit(ctx, ocispec.MediaTypeImageLayer)
	if err == nil && made.Digest != diffID {
		err = fmt.Errorf("it is %s, the config says %s: %w", made.Digest, diffID, errdefs.ErrDataLoss)
	}
	return made, err
}
