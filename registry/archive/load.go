package archive

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

const (
	maxDocument = 8 << 20  // bytes of manifest.json and index.json
	maxNames    = 16 << 20 // bytes of all file names that have to be remembered
	maxEntries  = 1 << 20
	maxLinks    = 16 // of one to the next
	maxDepth    = 4  // of indexes in indexes
)

// LoadOptions change how Load works.
type LoadOptions struct {
	Platforms []ocispec.Platform // only the images for these; each image of the archive must have them

	// Known returns the layers that an image which is here has in common with one of diffIDs, from the lowest
	// on. Docker's clients leave out of an archive what their daemon has, or put an empty file in its place.
	// nil: none may be left out.
	Known func(ctx context.Context, diffIDs []digest.Digest) ([]ocispec.Descriptor, error)
}

// Load reads an archive, plain or however compressed, from r, stores its blobs
// in dst and returns its images in the order of the archive. Layers are not unpacked
// and so the diffIDs of compressed ones not verified yet; everything else is. Blobs of an
// archive that turns out to be bad stay in dst, unused, and so do layers of platforms nobody asked for.
func Load(ctx context.Context, dst Sink, r io.Reader, o LoadOptions) ([]Image, error) {
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("reading archive: %w", err)
	}
	defer plain.Close()
	images, err := load(ctx, dst, &loader{known: o.Known}, plain, o.Platforms)
	if err != nil {
		return nil, fmt.Errorf("reading archive: %w", err)
	}
	return images, nil
}

// load has l read r, a plain tar, into dst.
func load(ctx context.Context, dst Sink, l *loader, r io.Reader, platforms []ocispec.Platform) ([]Image, error) {
	var kept *held
	if len(platforms) > 0 {
		kept = &held{Sink: dst, documents: map[digest.Digest][]byte{}}
		dst = kept
	}
	l.dst, l.documents, l.files = dst, map[string][]byte{}, map[string]ocispec.Descriptor{}
	l.links, l.spans, l.checked = map[string]string{}, map[string]span{}, map[digest.Digest]error{}
	if err := l.read(ctx, tar.NewReader(r)); err != nil {
		return nil, err
	}
	if l.place == nil {
		if _, err := io.Copy(io.Discard, r); err != nil { // what compressors check is at their end
			return nil, err
		}
	}
	images, err := l.images(ctx)
	if kept != nil && err == nil {
		images, err = kept.choose(ctx, images, platforms)
	}
	return images, err
}

type loader struct {
	dst   Sink
	place *inPlace                                                                         // for an archive whose blobs stay where they are, else nil
	known func(ctx context.Context, diffIDs []digest.Digest) ([]ocispec.Descriptor, error) // LoadOptions.Known

	documents map[string][]byte             // the files that say what the others are
	files     map[string]ocispec.Descriptor // others by name, without media type
	spans     map[string]span               // others whose digest nobody has asked for, by name
	links     map[string]string             // name -> name
	names     int                           // bytes of these names
	checked   map[digest.Digest]error       // what came of looking whether all of a manifest or index is there
}

// read stores every file of the archive that may be a blob.
func (l *loader) read(ctx context.Context, t *tar.Reader) error {
	for n := 0; ; n++ {
		h, err := t.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if n == maxEntries {
			return fmt.Errorf("more than %d entries: %w", maxEntries, errdefs.ErrOutOfRange)
		}
		if err := l.entry(ctx, h, t); err != nil {
			return fmt.Errorf("entry %.300q: %w", h.Name, err)
		}
	}
}

func (l *loader) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	name := inside(h.Name)
	switch h.Typeflag {
	case tar.TypeSymlink:
		return l.link(name, inside(path.Join("/", path.Dir(name), h.Linkname)), h.Linkname)
	case tar.TypeLink:
		return l.link(name, inside(h.Linkname), h.Linkname)
	case tar.TypeReg:
	default:
		return nil // directories; others cannot be part of an image
	}
	for record := range h.PAXRecords {
		// A hole of exabytes costs its writer nothing.
		if strings.HasPrefix(record, "GNU.sparse.") {
			return fmt.Errorf("sparse files are not read: %w", errdefs.ErrInvalidArgument)
		}
	}
	switch name {
	case dockerManifestFile, ocispec.ImageIndexFile, ocispec.ImageLayoutFile, "repositories":
		return l.document(name, r)
	}
	if d, ok := blobOf(name); ok {
		d.Size = h.Size
		if left, err := l.leave(d.Digest, name, h); left || err != nil {
			return err
		}
		return l.dst.Push(ctx, d, r)
	}
	if l.place != nil {
		s, err := l.place.here(h)
		if err != nil {
			return err
		}
		l.spans[name] = s
		delete(l.links, name)
		delete(l.files, name)
		return l.remember(name)
	}
	return l.file(ctx, name, r)
}

// leave notes where a blob is, if it can stay there. Of more than can be noted the rest is stored.
func (l *loader) leave(dgst digest.Digest, name string, h *tar.Header) (bool, error) {
	if l.place == nil || l.names > maxNames/2 {
		return false, nil
	}
	s, err := l.place.here(h)
	if _, twice := l.place.blobs[dgst]; !twice && err == nil {
		l.place.blobs[dgst] = s
		err = l.remember(name)
	}
	return true, err
}

// inside makes a name relative to the archive, which it cannot leave.
func inside(name string) string { return strings.TrimPrefix(path.Clean("/"+name), "/") }

// blobOf returns the descriptor that the name of a blob in an image layout gives.
func blobOf(name string) (ocispec.Descriptor, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != ocispec.ImageBlobsDir {
		return ocispec.Descriptor{}, false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2])
	return ocispec.Descriptor{Digest: d}, d.Validate() == nil
}

func (l *loader) remember(names ...string) error {
	for _, n := range names {
		l.names += len(n)
	}
	if l.names > maxNames {
		return fmt.Errorf("file names of more than %d bytes: %w", maxNames, errdefs.ErrOutOfRange)
	}
	return nil
}

func (l *loader) link(name, target, raw string) error {
	if raw == "" {
		return fmt.Errorf("a link to nothing: %w", errdefs.ErrInvalidArgument)
	}
	l.links[name] = target
	delete(l.files, name)
	delete(l.spans, name)
	return l.remember(name, target)
}

func (l *loader) document(name string, r io.Reader) error {
	if _, twice := l.documents[name]; twice {
		return fmt.Errorf("it is there twice: %w", errdefs.ErrInvalidArgument)
	}
	b, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return err
	}
	if len(b) > maxDocument {
		return fmt.Errorf("more than %d bytes: %w", maxDocument, errdefs.ErrOutOfRange)
	}
	l.documents[name] = b
	return nil
}

// file stores a file whose digest the archive does not tell. Which of them are layers is
// known only at the end.
func (l *loader) file(ctx context.Context, name string, r io.Reader) error {
	if err := l.remember(name); err != nil {
		return err
	}
	w, err := l.dst.Writer(ctx)
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.Copy(w, content.ContextReader(ctx, r)); err != nil {
		return err
	}
	d, err := w.Commit(ctx, "")
	if err != nil {
		return err
	}
	l.files[name] = d
	delete(l.links, name)
	return nil
}

// lookup returns the blob that a file of the archive is.
func (l *loader) lookup(ctx context.Context, name string) (ocispec.Descriptor, error) {
	at, err := l.follow(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if s, ok := l.spans[at]; ok {
		d, err := l.place.identify(ctx, s)
		if err == nil {
			l.files[at] = d
			delete(l.spans, at)
		}
		return d, err
	}
	if d, ok := l.files[at]; ok {
		return d, nil
	}
	d, _ := blobOf(at)
	return l.stat(ctx, d)
}

// follow returns the name under which a file of the archive, or possibly a blob, is kept.
func (l *loader) follow(name string) (string, error) {
	at := inside(name)
	for range maxLinks {
		_, read := l.files[at]
		_, lies := l.spans[at]
		if _, blob := blobOf(at); read || lies || blob {
			return at, nil
		}
		next, ok := l.links[at]
		if !ok {
			return "", fmt.Errorf("file %.300q is missing: %w", name, errdefs.ErrInvalidArgument)
		}
		at = next
	}
	return "", fmt.Errorf("file %.300q: too many links: %w", name, errdefs.ErrInvalidArgument)
}

// stat finds the size of a blob known by digest only.
func (l *loader) stat(ctx context.Context, d ocispec.Descriptor) (ocispec.Descriptor, error) {
	info, err := l.dst.Stat(ctx, d.Digest)
	d.Size = info.Size
	return d, err
}

// images finds the images in what was read. An image layout is believed more than
// manifest.json, as it has the manifests; that one may still know names and images it has not.
func (l *loader) images(ctx context.Context) ([]Image, error) {
	var list []Image
	if index, ok := l.documents[ocispec.ImageIndexFile]; ok {
		var err error
		if list, err = l.layout(ctx, index); err != nil {
			return nil, fmt.Errorf("index.json: %w", err)
		}
	}
	if manifest, ok := l.documents[dockerManifestFile]; ok {
		var err error
		if list, err = l.docker(ctx, manifest, list); err != nil {
			return nil, fmt.Errorf("manifest.json: %w", err)
		}
	}
	switch {
	case len(list) > 0:
		return list, nil
	case l.documents["repositories"] != nil:
		return nil, fmt.Errorf("it is of a docker before 1.10 (2016), save it again with a current one: %w", errdefs.ErrNotImplemented)
	}
	return nil, fmt.Errorf("it holds no image: %w", errdefs.ErrInvalidArgument)
}

// layout reads the images of index.json. One with several names is there several times.
func (l *loader) layout(ctx context.Context, raw []byte) ([]Image, error) {
	var index ocispec.Index
	if err := content.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	var list []Image
	for _, d := range index.Manifests {
		name, tag := nameOf(d), d.Annotations[ocispec.AnnotationRefName]
		d.Annotations, d.URLs, d.Data = nil, nil, nil
		at := slices.IndexFunc(list, func(i Image) bool { return i.Target.Digest == d.Digest })
		if at < 0 {
			if err := l.whole(ctx, d, 0); err != nil {
				return nil, err
			}
			at, list = len(list), append(list, Image{Target: d})
		}
		if list[at].add(name); name == "" {
			list[at].Tag = tag
		}
	}
	return list, nil
}

// whole checks that everything below d is there. Of an index one image is enough.
func (l *loader) whole(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if err, done := l.checked[d.Digest]; done {
		return err
	}
	err := l.check(ctx, d, depth)
	l.checked[d.Digest] = err
	return err
}

func (l *loader) check(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %.100q: %w: %w", d.Digest, errdefs.ErrInvalidArgument, err)
	}
	if depth > maxDepth {
		return fmt.Errorf("indexes in indexes: %w", errdefs.ErrOutOfRange)
	}
	children, err := content.Children(ctx, l.dst, d)
	if err != nil {
		return err
	}
	complete := 0
	for _, child := range children {
		if isDocument(child) {
			err = l.whole(ctx, child, depth+1)
		} else if there, existsErr := l.dst.Exists(ctx, child); existsErr != nil {
			err = existsErr
		} else if !there && !content.IsForeign(child.MediaType) {
			err = fmt.Errorf("blob %s with %d bytes is missing: %w", child.Digest, child.Size, errdefs.ErrNotFound)
		}
		switch {
		case err == nil:
			complete++
		case !errdefs.IsNotFound(err) || !content.IsIndex(d.MediaType):
			return err
		}
	}
	if complete == 0 && content.IsIndex(d.MediaType) {
		return fmt.Errorf("none of the images of %s is there: %w", d.Digest, errdefs.ErrNotFound)
	}
	return nil
}

// nameOf returns the canonical name that annotations give an image, "" for none. A bare
// tag, as skopeo and podman write, names nothing.
func nameOf(d ocispec.Descriptor) string {
	for _, key := range []string{annotationImageName, ocispec.AnnotationRefName} {
		name := d.Annotations[key]
		if key == ocispec.AnnotationRefName && !strings.ContainsAny(name, "/:") {
			continue
		}
		if canonical := canonicalName(name); canonical != "" {
			return canonical
		}
	}
	return ""
}

func canonicalName(name string) string {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return ""
	}
	if _, digested := ref.(reference.Digested); digested {
		return ""
	}
	return reference.TagNameOnly(ref).String()
}

func (i *Image) add(name string) {
	if name != "" && !slices.Contains(i.Names, name) {
		i.Names = append(i.Names, name)
	}
}
