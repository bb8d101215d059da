package registry

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ImportSource is a registry to import from.
type ImportSource interface {
	Repositories(ctx context.Context) ([]string, error)
	Open(repo string) (Upstream, error)
}

// untagged is an Upstream that knows of manifests without a tag.
type untagged interface {
	Manifests(ctx context.Context) ([]digest.Digest, error)
}

// ImportReport tells what came.
type ImportReport struct {
	Repositories int   `json:"repositories"`
	Tags         int   `json:"tags"`
	Manifests    int   `json:"manifests"` // that were not here
	Blobs        int   `json:"blobs"`     // that were not in the repository here
	Bytes        int64 `json:"bytes"`     // that were read for it
}

// Import copies repositories, all of them if none is named, from src into the registry in
// o.Root or o.Bucket, which servers may be using. What is here is not read again, so that an
// import that broke goes on where it was. Tags that are here move to what src says.
func Import(ctx context.Context, o Options, src ImportSource, repos []string, progress func(repo string)) (ImportReport, error) {
	s, err := openStorage(o)
	if err != nil {
		return ImportReport{}, err
	}
	if len(repos) == 0 {
		if repos, err = src.Repositories(ctx); err != nil {
			return ImportReport{}, fmt.Errorf("listing repositories: %w", err)
		}
	}
	im := newImporter(s)
	for _, repo := range repos {
		if !validName(repo) {
			return im.report, fmt.Errorf("%q is not the name of a repository: %w", repo, errdefs.ErrInvalidArgument)
		}
		up, err := src.Open(repo)
		if err != nil {
			return im.report, fmt.Errorf("opening %s: %w", repo, err)
		}
		progress(repo)
		if err := im.repository(ctx, repo, up); err != nil {
			return im.report, fmt.Errorf("importing %s: %w", repo, err)
		}
		im.report.Repositories++
	}
	return im.report, nil
}

type importer struct {
	s      storage
	report ImportReport
	done   map[string]bool // "repository digest" of manifests that are here with all they lead to
}

func newImporter(s storage) *importer { return &importer{s: s, done: map[string]bool{}} }

func (im *importer) repository(ctx context.Context, repo string, up Upstream) error {
	if u, ok := up.(untagged); ok {
		digests, err := u.Manifests(ctx)
		if err != nil {
			return err
		}
		for _, d := range digests {
			desc, err := up.Resolve(ctx, d.String())
			if errdefs.IsNotFound(err) {
				continue // a collection has taken its bytes, as distribution's does
			}
			if err == nil {
				err = im.manifest(ctx, repo, up, desc, nil, 0)
			}
			if err != nil {
				return fmt.Errorf("manifest %s: %w", d, err)
			}
		}
	}
	tags, err := up.Tags(ctx)
	if err != nil {
		return err
	}
	for _, tag := range tags {
		desc, err := up.Resolve(ctx, tag)
		if err == nil && !validTag(tag) {
			err = fmt.Errorf("not a tag: %w", errdefs.ErrInvalidArgument)
		}
		if err == nil {
			err = im.manifest(ctx, repo, up, desc, []string{tag}, 0)
		}
		if err != nil {
			return fmt.Errorf("tag %s: %w", tag, err)
		}
		im.report.Tags++
	}
	return nil
}

// maxNesting is how deep indexes may be in each other.
const maxNesting = 8

// manifest copies a manifest, what it leads to first.
func (im *importer) manifest(ctx context.Context, repo string, up Upstream, desc ocispec.Descriptor, tags []string, depth int) error {
	if depth > maxNesting {
		return fmt.Errorf("indexes are nested more than %d deep: %w", maxNesting, errdefs.ErrInvalidArgument)
	}
	key := repo + " " + desc.Digest.String()
	if im.done[key] && len(tags) == 0 {
		return nil // or indexes that share what they lead to would be gone through by all of their ways
	}
	have, err := im.s.GetManifest(ctx, repo, desc.Digest.String())
	if ignoreNotFound(err) != nil {
		return err
	}
	body, mediaType := have.body, have.mediaType
	if err != nil {
		if body, err = im.read(ctx, up, desc); err != nil {
			return err
		}
		mediaType = desc.MediaType
		im.report.Manifests++
	}
	m, err := parseManifest(body, mediaType)
	if err != nil {
		return err
	}
	m.digest = desc.Digest
	doc, err := readDocument(body)
	if err != nil {
		return err
	}
	for i, part := range doc.descriptors() {
		if nonDistributable(part.MediaType) && !slices.Contains(m.references, part.Digest) {
			continue
		}
		d := ocispec.Descriptor{MediaType: part.MediaType, Digest: part.Digest, Size: part.Size}
		// BuildKit's cache has an index of blobs.
		if i < len(doc.Manifests) && manifestType(d.MediaType) {
			err = im.manifest(ctx, repo, up, d, nil, depth+1)
		} else {
			err = im.blob(ctx, repo, up, d)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", d.Digest, err)
		}
	}
	if err := im.s.PutManifest(ctx, repo, m, tags); err != nil {
		return err
	}
	im.done[key] = true
	return nil
}

func (im *importer) read(ctx context.Context, up Upstream, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size > maxManifest {
		return nil, fmt.Errorf("a manifest of %d bytes: %w", desc.Size, errdefs.ErrInvalidArgument)
	}
	r, err := up.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxManifest+1)) // what it says of its size need not be true
	im.report.Bytes += int64(len(b))
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("a manifest of more than %d bytes: %w", maxManifest, errdefs.ErrInvalidArgument)
	}
	return b, err
}

// blob copies a blob that neither the repository nor the registry has.
func (im *importer) blob(ctx context.Context, repo string, up Upstream, desc ocispec.Descriptor) error {
	err := im.s.ConfirmBlob(ctx, repo, desc.Digest)
	if !errdefs.IsNotFound(err) {
		return err
	}
	im.report.Blobs++
	if err := im.s.MountBlob(ctx, repo, "", desc.Digest); !errdefs.IsNotFound(err) {
		return err
	}
	r, err := up.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	id, err := im.s.CreateUpload(ctx, repo, desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	u, err := im.s.OpenUpload(ctx, repo, id, desc.Digest)
	if err != nil {
		return err
	}
	defer u.Close()
	n, err := u.ReadFrom(r)
	im.report.Bytes += n
	if err != nil {
		_ = u.Cancel() // the sweep gets what is left
		return err
	}
	return u.Commit(ctx, desc.Digest)
}

// RemoteSource is a running registry whose repositories are opened by open. It cannot list
// them: not every registry has a catalog.
func RemoteSource(name string, open func(registry, repo string) (Upstream, error)) ImportSource {
	return &remoteSource{name, open}
}

type remoteSource struct {
	name string
	open func(registry, repo string) (Upstream, error)
}

// Repositories implements ImportSource.
func (s *remoteSource) Repositories(context.Context) ([]string, error) {
	return nil, fmt.Errorf("name the repositories of %s to import: %w", s.name, errdefs.ErrInvalidArgument)
}

// Open implements ImportSource.
func (s *remoteSource) Open(repo string) (Upstream, error) { return s.open(s.name, repo) }
