package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// DistributionSource is the data directory of distribution, that is of Docker's registry
// images, versions 2 and 3. Its tree:
//
//	docker/registry/v2/blobs/sha256/ab/ab12../data
//	docker/registry/v2/repositories/NAME/_manifests/tags/TAG/current/link     "sha256:ab12.."
//	docker/registry/v2/repositories/NAME/_manifests/revisions/sha256/ab12../link
//
// Nothing in it is trusted: links are digests or errors, and bytes are verified as they come.
func DistributionSource(root string) (ImportSource, error) {
	dir := filepath.Join(root, "docker/registry/v2")
	if _, err := os.Stat(filepath.Join(dir, "repositories")); err != nil {
		return nil, fmt.Errorf("%s is not the data of distribution: %w", root, notFound(err))
	}
	return &distribution{dir}, nil
}

type distribution struct{ dir string }

// Repositories implements ImportSource.
func (s *distribution) Repositories(context.Context) (names []string, err error) {
	base := filepath.Join(s.dir, "repositories")
	err = filepath.WalkDir(base, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.IsDir() {
			return err
		}
		if e.Name() == "_manifests" {
			name, err := filepath.Rel(base, filepath.Dir(path))
			if err != nil {
				return err
			}
			names = append(names, name)
		}
		if strings.HasPrefix(e.Name(), "_") {
			return fs.SkipDir
		}
		return nil
	})
	return names, err
}

// Open implements ImportSource.
func (s *distribution) Open(repo string) (Upstream, error) {
	return &distributionRepository{s.dir, filepath.Join(s.dir, "repositories", repo, "_manifests")}, nil
}

type distributionRepository struct{ dir, manifests string }

// maxLink is the longest link, in bytes.
const maxLink = 256

func readLink(path string) (digest.Digest, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", notFound(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxLink))
	if err != nil {
		return "", err
	}
	d, err := parseDigest(strings.TrimSpace(string(b)))
	if err != nil {
		return "", fmt.Errorf("%s is not a digest: %w", path, errdefs.ErrDataLoss)
	}
	return d, nil
}

// Tags implements Upstream.
func (r *distributionRepository) Tags(context.Context) ([]string, error) {
	names, err := readNames(filepath.Join(r.manifests, "tags"))
	return names, ignoreNotFound(err)
}

// Manifests implements untagged.
func (r *distributionRepository) Manifests(ctx context.Context) (list []digest.Digest, err error) {
	for _, a := range algorithms {
		dir := filepath.Join(r.manifests, "revisions", a.String())
		err := eachDigest(ctx, dir, a, func(d digest.Digest, path string) error {
			_, err := readLink(filepath.Join(path, "link")) // a deleted one has none
			if err == nil {
				list = append(list, d)
			}
			return ignoreNotFound(err)
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Resolve implements Upstream.
func (r *distributionRepository) Resolve(_ context.Context, tagOrDigest string) (desc ocispec.Descriptor, err error) {
	d, err := parseDigest(tagOrDigest)
	if err != nil {
		if !validTag(tagOrDigest) {
			return desc, fmt.Errorf("%q is no tag: %w", tagOrDigest, errdefs.ErrInvalidArgument)
		}
		if d, err = readLink(filepath.Join(r.manifests, "tags", tagOrDigest, "current/link")); err != nil {
			return desc, err
		}
	}
	f, err := os.Open(r.data(d))
	if err != nil {
		return desc, notFound(err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return desc, err
	}
	doc, err := readDocument(b)
	if err != nil || len(b) > maxManifest {
		return desc, fmt.Errorf("%s is not a manifest: %w", d, errors.Join(errdefs.ErrDataLoss, err))
	}
	mediaType := doc.MediaType
	switch { // OCI's may leave it out; distribution tells the two by their fields
	case mediaType == "" && doc.Manifests != nil:
		mediaType = ocispec.MediaTypeImageIndex
	case mediaType == "":
		mediaType = ocispec.MediaTypeImageManifest
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}, nil
}

func (r *distributionRepository) data(d digest.Digest) string {
	return filepath.Join(r.dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded(), "data")
}

// ResolveBlob implements Upstream.
func (r *distributionRepository) ResolveBlob(_ context.Context, d digest.Digest) (ocispec.Descriptor, error) {
	fi, err := os.Stat(r.data(d))
	if err != nil {
		return ocispec.Descriptor{}, notFound(err)
	}
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: fi.Size()}, nil
}

// Fetch implements Upstream.
func (r *distributionRepository) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := os.Open(r.data(desc.Digest))
	if err != nil {
		return nil, notFound(err)
	}
	return &verifiedFile{f, desc.Digest.Verifier(), desc.Digest}, nil
}

// verifiedFile fails at the end when the bytes were others.
type verifiedFile struct {
	f    *os.File
	v    digest.Verifier
	want digest.Digest
}

// Read implements io.Reader.
func (v *verifiedFile) Read(b []byte) (int, error) {
	n, err := v.f.Read(b)
	v.v.Write(b[:n])
	if err == io.EOF && !v.v.Verified() {
		err = fmt.Errorf("other bytes than %s: %w", v.want, errdefs.ErrDataLoss)
	}
	return n, err
}

// Close implements io.Closer.
func (v *verifiedFile) Close() error { return v.f.Close() }
