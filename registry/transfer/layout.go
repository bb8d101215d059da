package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/statefile"
)

// layout is a directory in the OCI image layout that is only read.
type layout struct {
	dir   string
	name  string // tag, reference or digest; empty: the only image there is
	index ocispec.Index
}

func openLayout(dir, name string) (*layout, error) {
	l := &layout{dir: dir, name: name}
	var err error
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return nil, fmt.Errorf("%s is no OCI image layout: %w", dir, err)
	}
	l.index, err = content.ReadIndex(dir)
	return l, err
}

// Fetch implements content.Fetcher.
func (l *layout) Fetch(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := d.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("digest %q: %w: %w", d.Digest, err, errdefs.ErrInvalidArgument)
	}
	f, err := content.OpenRegular(filepath.Join(l.dir, ocispec.ImageBlobsDir, string(d.Digest.Algorithm()), d.Digest.Encoded()))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s is not in the layout: %w", d.Digest, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return content.Verify(f, d)
}

func (l *layout) resolve(ctx context.Context) (ocispec.Descriptor, error) {
	var found []ocispec.Descriptor
	for _, d := range l.index.Manifests {
		if l.name == "" || named(d, l.name) {
			found = append(found, d)
		}
	}
	if l.name == "" {
		found = images(ctx, l, found)
	}
	switch {
	case len(found) == 0 && l.name == "":
		return ocispec.Descriptor{}, fmt.Errorf("it holds no image: %w", errdefs.ErrNotFound)
	case len(found) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("it has no image %q, only %s: %w", l.name, l.names(), errdefs.ErrNotFound)
	case len(found) > 1 && slices.ContainsFunc(found, func(d ocispec.Descriptor) bool { return d.Digest != found[0].Digest }):
		return ocispec.Descriptor{}, fmt.Errorf("it has several images, say which: %s: %w", l.names(), errdefs.ErrInvalidArgument)
	}
	d := found[0]
	d.Annotations = nil
	return d, nil
}

// images returns those of list that refer to no other: what was copied with all has its signatures beside it.
func images(ctx context.Context, f content.Fetcher, list []ocispec.Descriptor) (own []ocispec.Descriptor) {
	if len(list) == 1 {
		return list
	}
	for _, d := range list {
		if subject, err := subjectOf(ctx, f, d); err != nil || subject == "" {
			own = append(own, d)
		}
	}
	if len(own) == 0 {
		return list
	}
	return own
}

// named says whether name means d: by tag, by reference or by digest.
func named(d ocispec.Descriptor, name string) bool {
	return name == d.Digest.String() || name == d.Annotations[ocispec.AnnotationRefName] || name == d.Annotations["io.containerd.image.name"]
}

func (l *layout) names() string {
	var list []string
	for _, d := range l.index.Manifests {
		name := d.Annotations[ocispec.AnnotationRefName]
		if name == "" {
			name = d.Digest.String()
		}
		list = append(list, name)
	}
	return strings.Join(list, ", ")
}

// referrers finds what index.json lists with the subject d.
func (l *layout) referrers(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	var list []ocispec.Descriptor
	for _, other := range l.index.Manifests {
		subject, err := subjectOf(ctx, l, other)
		if err != nil && !errdefs.IsNotFound(err) {
			return nil, err
		}
		if subject == d.Digest {
			list = append(list, other)
		}
	}
	return list, nil
}

func subjectOf(ctx context.Context, f content.Fetcher, d ocispec.Descriptor) (digest.Digest, error) {
	data, err := content.ReadAll(ctx, f, d)
	if err != nil {
		return "", err
	}
	var m struct {
		Subject ocispec.Descriptor `json:"subject"`
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return "", fmt.Errorf("manifest %s: %w: %w", d.Digest, err, errdefs.ErrInvalidArgument)
	}
	return m.Subject.Digest, nil
}

func (l *layout) close() error { return nil }

// layoutTarget is a directory that takes images, made where it is not there.
type layoutTarget struct {
	dir, name string
	store     *content.Store
	held      *os.File // dir, locked by all who write to it: the last takes away what only they need
}

func openLayoutTarget(dir, name string) (_ *layoutTarget, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	held, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			held.Close()
		}
	}()
	for {
		if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err == nil {
			break
		}
		if lockDir(held, unix.LOCK_EX|unix.LOCK_NB) { // else another is making it
			if err := makeLayout(dir); err != nil {
				return nil, err
			}
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	lockDir(held, unix.LOCK_SH)
	store, err := content.Open(dir)
	return &layoutTarget{dir, name, store, held}, err
}

func makeLayout(dir string) error {
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
			return fmt.Errorf("%s is neither empty nor an OCI image layout: %w", dir, errdefs.ErrFailedPrecondition)
		}
	}
	_, err := content.Open(dir)
	return err
}

// lockDir says whether nobody else has the directory locked. Where directories cannot be locked, as on NFS, nobody has.
func lockDir(dir *os.File, how int) bool {
	for {
		if err := unix.Flock(int(dir.Fd()), how); err != unix.EINTR {
			return err != unix.EWOULDBLOCK
		}
	}
}

func (l *layoutTarget) put(ctx context.Context, src source, root ocispec.Descriptor, o content.CopyOptions) error {
	if digest.Digest(l.name).Validate() == nil && l.name != root.Digest.String() {
		return fmt.Errorf("the image is %s: %w", root.Digest, errdefs.ErrInvalidArgument)
	}
	if err := content.Copy(ctx, l.store, src, root, o); err != nil {
		return err
	}
	d := ocispec.Descriptor{MediaType: root.MediaType, Digest: root.Digest, Size: root.Size}
	if l.name != "" && l.name != root.Digest.String() {
		d.Annotations = map[string]string{ocispec.AnnotationRefName: l.name}
	}
	return l.add(ctx, d)
}

func (l *layoutTarget) attach(ctx context.Context, src source, d ocispec.Descriptor, o content.CopyOptions) error {
	if err := content.Copy(ctx, l.store, src, d, o); err != nil {
		return err
	}
	d.Annotations = nil
	return l.add(ctx, d)
}

// add lists d in index.json. A name moves from another image; an image may have several.
func (l *layoutTarget) add(ctx context.Context, d ocispec.Descriptor) (err error) {
	lock := filepath.Join(l.dir, ".index.lock")
	unlock, err := statefile.Lock(ctx, lock, statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(lock), unlock()) }()
	index, err := content.ReadIndex(l.dir)
	if err != nil {
		return err
	}
	name := d.Annotations[ocispec.AnnotationRefName]
	index.Manifests = slices.DeleteFunc(index.Manifests, func(other ocispec.Descriptor) bool {
		otherName := other.Annotations[ocispec.AnnotationRefName]
		return otherName == name && (name != "" || other.Digest == d.Digest)
	})
	index.Manifests = append(index.Manifests, d)
	index.Versioned, index.MediaType = specs.Versioned{SchemaVersion: 2}, ocispec.MediaTypeImageIndex
	return statefile.Write(filepath.Join(l.dir, ocispec.ImageIndexFile), index, statefile.WriteOptions{Durable: true})
}

// finish removes the directories that only writing needs.
func (l *layoutTarget) finish(context.Context) error {
	defer l.held.Close()
	if !lockDir(l.held, unix.LOCK_EX|unix.LOCK_NB) {
		return nil // others write
	}
	for _, sub := range []string{"ingest", "blobs/sha512"} {
		_ = os.Remove(filepath.Join(l.dir, sub)) // unless something is in it
	}
	return nil
}
