// Package manifestlist makes lists of manifests, which give one name to images of several platforms,
// out of images that registries have already.
//
// A list is a draft in a directory until it is pushed; `docker manifest` works the same way. Drafts
// are files of their own:
//
//	DIR/HEX.json    HEX is the sha256 of the list's name
package manifestlist

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/registry"
)

// Lists are the drafts in a directory and the way to registries. Any number of processes may use one
// directory.
type Lists struct {
	Dir      string
	Registry *registry.Client
}

// A Draft is a list that has not been pushed.
type Draft struct {
	Name    string  `json:"name"` // canonical
	Entries []Entry `json:"entries"`
}

// An Entry is an image of a list.
type Entry struct {
	Ref        string             `json:"ref"`        // canonical; where its blobs are
	Descriptor ocispec.Descriptor `json:"descriptor"` // with its platform
}

// parse reads a name as `docker manifest` does: without a tag it is latest.
func parse(name string) (reference.Named, error) {
	ref, err := reference.ParseDockerRef(name)
	if err != nil {
		return nil, fmt.Errorf("error parsing name for manifest list %s: %w: %w", name, err, errdefs.ErrInvalidArgument)
	}
	return ref, nil
}

func (l *Lists) path(name string) string {
	return filepath.Join(l.Dir, digest.FromString(name).Encoded()+".json")
}

// change calls fn with the draft of name, locked, and writes what it makes of it. A list that is not there is nil.
func (l *Lists) change(ctx context.Context, name string, fn func(*Draft) (*Draft, error)) (err error) {
	if err := os.MkdirAll(l.Dir, 0o700); err != nil {
		return err
	}
	unlock, err := statefile.Lock(ctx, filepath.Join(l.Dir, "lock"), statefile.LockOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	draft, err := l.read(name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if draft, err = fn(draft); err != nil {
		return err
	}
	return statefile.Write(l.path(name), draft, statefile.WriteOptions{Durable: true})
}

// read returns the draft of a canonical name.
func (l *Lists) read(name string) (*Draft, error) {
	var d Draft
	if err := statefile.Read(l.path(name), &d); err != nil {
		if errors.Is(err, fs.ErrNotExist) || errdefs.IsNotFound(err) {
			return nil, missing(name)
		}
		return nil, err
	}
	return &d, nil
}

// wordedError has docker's words, and a class that they do not mention.
type wordedError struct {
	text  string
	class error
}

func (e *wordedError) Error() string { return e.text }
func (e *wordedError) Unwrap() error { return e.class }

func worded(class error, format string, args ...any) error {
	return &wordedError{fmt.Sprintf(format, args...), class}
}

func missing(name string) error { return worded(errdefs.ErrNotFound, "No such manifest: %s", name) }

func noAmend() error {
	return worded(errdefs.ErrAlreadyExists, "refusing to amend an existing manifest list with no --amend flag")
}

// Get returns the draft called name.
func (l *Lists) Get(name string) (Draft, error) {
	ref, err := parse(name)
	if err != nil {
		return Draft{}, err
	}
	d, err := l.read(ref.String())
	if err != nil {
		return Draft{}, err
	}
	return *d, nil
}

// CreateOptions change how Create works.
type CreateOptions struct {
	Amend bool // add to a draft that is there
}

// Create drafts the list name of images that registries have, and returns its canonical name. Their
// platforms are those of their configs.
func (l *Lists) Create(ctx context.Context, name string, images []string, o CreateOptions) (string, error) {
	ref, err := parse(name)
	if err != nil {
		return "", err
	}
	if _, err := l.read(ref.String()); err == nil && !o.Amend {
		return "", noAmend()
	} else if err != nil && !errdefs.IsNotFound(err) {
		return "", err
	}
	var entries []Entry
	for _, image := range images {
		e, err := l.lookup(ctx, image)
		if err != nil {
			return "", err
		}
		entries = append(entries, e)
	}
	return ref.String(), l.change(ctx, ref.String(), func(d *Draft) (*Draft, error) {
		if d == nil {
			d = &Draft{Name: ref.String()}
		} else if !o.Amend {
			return nil, noAmend()
		}
		for _, e := range entries {
			d.Entries = slices.DeleteFunc(d.Entries, func(old Entry) bool { return old.Ref == e.Ref })
			d.Entries = append(d.Entries, e)
		}
		return d, nil
	})
}

// lookup asks the registry for an image of one platform.
func (l *Lists) lookup(ctx context.Context, image string) (Entry, error) {
	v, err := l.Remote(ctx, image)
	if err != nil {
		return Entry{}, err
	}
	if len(v) != 1 || v[0].list {
		return Entry{}, worded(errdefs.ErrInvalidArgument, "%s is a manifest list", image)
	}
	return Entry{Ref: v[0].Ref, Descriptor: v[0].Descriptor}, nil
}

// Annotation says what a list tells of an image; empty fields stay what they are.
type Annotation struct {
	OS, Architecture, Variant, OSVersion string
	OSFeatures                           []string
}

// Annotate changes what the list name tells of image.
func (l *Lists) Annotate(ctx context.Context, name, image string, a Annotation) error {
	ref, err := parse(name)
	if err != nil {
		return err
	}
	of, err := parse(image)
	if err != nil {
		return err
	}
	return l.change(ctx, ref.String(), func(d *Draft) (*Draft, error) {
		at := -1
		if d != nil {
			at = slices.IndexFunc(d.Entries, func(e Entry) bool { return e.Ref == of.String() })
		}
		if at < 0 {
			return nil, worded(errdefs.ErrNotFound, "manifest for image %s does not exist in %s", image, name)
		}
		p := ocispec.Platform{}
		if had := d.Entries[at].Descriptor.Platform; had != nil {
			p = *had
		}
		for to, value := range map[*string]string{&p.OS: a.OS, &p.Architecture: a.Architecture, &p.Variant: a.Variant, &p.OSVersion: a.OSVersion} {
			if value != "" {
				*to = value
			}
		}
		if (a.OS != "" || a.Architecture != "") && !known(p.OS, p.Architecture) {
			return nil, worded(errdefs.ErrInvalidArgument, "manifest entry for image has unsupported os/arch combination: %s/%s", p.OS, p.Architecture)
		}
		for _, feature := range a.OSFeatures {
			if !slices.Contains(p.OSFeatures, feature) {
				p.OSFeatures = append(p.OSFeatures, feature)
			}
		}
		d.Entries[at].Descriptor.Platform = &p
		return d, nil
	})
}

// known says whether there are machines of the kind. As in docker a list has no others: who writes x86_64 makes one
// in which no client finds its image. The names are those of `go tool dist list`, and what it had before.
func known(os, architecture string) bool {
	architectures := map[string]string{
		"linux":   "386 amd64 arm arm64 loong64 mips mips64 mips64le mipsle ppc64 ppc64le riscv64 s390x",
		"windows": "386 amd64 arm arm64", "darwin": "386 amd64 arm arm64", "android": "386 amd64 arm arm64", "ios": "amd64 arm64",
		"freebsd": "386 amd64 arm arm64 riscv64", "netbsd": "386 amd64 arm arm64", "openbsd": "386 amd64 arm arm64 mips64 ppc64 riscv64",
		"dragonfly": "amd64", "plan9": "386 amd64 arm", "solaris": "amd64", "illumos": "amd64", "aix": "ppc64",
		"js": "wasm", "wasi": "wasm", "wasip1": "wasm",
	}
	return slices.Contains(strings.Fields(architectures[os]), architecture)
}

// Remove deletes drafts, and goes on after one that is not there.
func (l *Lists) Remove(names ...string) error {
	var errs []error
	for _, name := range names {
		ref, err := parse(name)
		if err == nil {
			if err = os.Remove(l.path(ref.String())); errors.Is(err, fs.ErrNotExist) {
				err = missing(ref.String())
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Index is the document of the draft: an OCI index if one of the images is OCI's, else docker's list.
func (d Draft) Index() ([]byte, ocispec.Descriptor, error) {
	index := ocispec.Index{MediaType: content.MediaTypeDockerIndex, Manifests: []ocispec.Descriptor{}}
	index.SchemaVersion = 2
	for _, e := range d.Entries {
		if e.Descriptor.MediaType == ocispec.MediaTypeImageManifest {
			index.MediaType = ocispec.MediaTypeImageIndex
		}
		index.Manifests = append(index.Manifests, e.Descriptor)
	}
	data, err := json.MarshalIndent(index, "", "   ")
	return data, ocispec.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}, err
}

// Entry returns the image of the draft that name means.
func (d Draft) Entry(name string) (Entry, error) {
	ref, err := parse(name)
	if err != nil {
		return Entry{}, err
	}
	for _, e := range d.Entries {
		if e.Ref == ref.String() {
			return e, nil
		}
	}
	return Entry{}, missing(ref.String())
}
