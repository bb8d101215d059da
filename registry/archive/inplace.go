package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// A Source has the layers that Open left where they were.
type Source interface {
	content.Fetcher
	content.RangeFetcher
}

// Open is Load that leaves layers where they are, if r is a plain tar in which one can seek: it reads the
// headers, stores manifests and configs in dst, and lists the other blobs in the images. They are fetched,
// several at the same time if need be, from the Source, which reads r and verifies each only then. Of every
// other r it is Load: the Source is nil and nothing is listed.
func Open(ctx context.Context, dst Sink, r io.Reader, o LoadOptions) (Source, []Image, error) {
	f, err := seekable(r)
	if err != nil {
		return nil, nil, fmt.Errorf("reading archive: %w", err)
	}
	if f == nil {
		images, err := Load(ctx, dst, r, o)
		return nil, images, err
	}
	p := &inPlace{Sink: dst, file: f, blobs: map[digest.Digest]span{}}
	images, err := load(ctx, p, &loader{known: o.Known, place: p}, f, o.Platforms)
	for i := range images {
		if err == nil {
			err = p.settle(ctx, &images[i], o.Platforms)
		}
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading archive: %w", err)
	}
	return p, images, nil
}

// seekable returns what is left of r as a file, or nil if one cannot seek in it or it is compressed.
func seekable(r io.Reader) (*io.SectionReader, error) {
	f, ok := r.(interface {
		io.ReaderAt
		io.Seeker
	})
	if !ok {
		return nil, nil
	}
	start, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil, nil // a pipe
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(start, io.SeekStart)
	}
	if err != nil || end == 0 { // /proc has files without a size
		return nil, err
	}
	s := io.NewSectionReader(f, start, end-start)
	var head [10]byte
	n, err := s.ReadAt(head[:], 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if content.Compressed(head[:n]) {
		return nil, nil
	}
	return s, nil
}

// A span is where a file of the archive lies.
type span struct{ at, size int64 }

// inPlace is a Sink that has the blobs of an archive without storing them.
type inPlace struct {
	Sink
	file  *io.SectionReader
	blobs map[digest.Digest]span
}

// here returns where the entry is whose header was just read.
func (p *inPlace) here(h *tar.Header) (span, error) {
	at, err := p.file.Seek(0, io.SeekCurrent)
	return span{at, h.Size}, err
}

func (p *inPlace) section(s span) *io.SectionReader { return io.NewSectionReader(p.file, s.at, s.size) }

// has says where the blob d is. One of another size is another.
func (p *inPlace) has(d ocispec.Descriptor) (span, bool) {
	s, ok := p.blobs[d.Digest]
	return s, ok && s.size == d.Size
}

// Fetch implements content.Fetcher.
func (p *inPlace) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if s, ok := p.has(d); ok {
		return content.Verify(io.NopCloser(p.section(s)), d)
	}
	return p.Sink.Fetch(ctx, d)
}

// FetchFrom implements content.RangeFetcher.
func (p *inPlace) FetchFrom(_ context.Context, d ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	s, ok := p.has(d)
	if !ok || offset < 0 || offset > s.size {
		return nil, fmt.Errorf("blob %s is not in the archive: %w", d.Digest, errdefs.ErrNotFound)
	}
	return io.NopCloser(p.section(span{s.at + offset, s.size - offset})), nil
}

// Exists implements content.Pusher.
func (p *inPlace) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if _, ok := p.has(d); ok {
		return true, nil
	}
	return p.Sink.Exists(ctx, d)
}

// Stat implements Sink.
func (p *inPlace) Stat(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	if s, ok := p.blobs[dgst]; ok {
		return content.Info{Digest: dgst, Size: s.size}, nil
	}
	return p.Sink.Stat(ctx, dgst)
}

// identify finds out the digest of a file.
func (p *inPlace) identify(ctx context.Context, s span) (ocispec.Descriptor, error) {
	digester := digest.SHA256.Digester()
	n, err := io.Copy(digester.Hash(), content.ContextReader(ctx, p.section(s)))
	if err == nil && n < s.size {
		err = io.ErrUnexpectedEOF
	}
	d := ocispec.Descriptor{Digest: digester.Digest(), Size: s.size}
	if err == nil {
		p.blobs[d.Digest] = s
	}
	return d, err
}

// settle stores what of img is needed to know it, and lists the rest in it. What is missing of an index stays
// missing.
func (p *inPlace) settle(ctx context.Context, img *Image, platforms []ocispec.Platform) error {
	s := settler{inPlace: p, img: img, platforms: platforms, seen: map[digest.Digest]bool{}}
	return s.document(ctx, img.Target, 0)
}

type settler struct {
	*inPlace
	img       *Image
	platforms []ocispec.Platform     // the only ones wanted out of an index; none: all
	seen      map[digest.Digest]bool // what has been looked at
}

func (s *settler) document(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("indexes in indexes: %w", errdefs.ErrOutOfRange)
	}
	children, err := content.Children(ctx, s, d)
	if err != nil {
		return err
	}
	if content.IsIndex(d.MediaType) && len(s.platforms) > 0 {
		children = content.SelectPlatforms(ocispec.Index{Manifests: children}, s.platforms)
	}
	for _, child := range children {
		if s.seen[child.Digest] {
			continue
		}
		s.seen[child.Digest] = true
		_, lies := s.has(child)
		switch {
		case isDocument(child):
			err = s.document(ctx, child, depth+1)
		case lies && content.IsLayer(child.MediaType):
			s.img.Blobs = append(s.img.Blobs, child)
		case lies:
			err = s.store(ctx, child)
		}
		if err != nil && !(content.IsIndex(d.MediaType) && errdefs.IsNotFound(err)) {
			return err
		}
		err = nil
	}
	return s.store(ctx, d)
}

// store puts d, if the archive has it, where all other blobs are.
func (p *inPlace) store(ctx context.Context, d ocispec.Descriptor) (err error) {
	s, ok := p.has(d)
	if !ok {
		return nil // it is of the store, or of nobody
	}
	r, err := content.Verify(io.NopCloser(p.section(s)), d)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	return p.Push(ctx, d, r)
}
