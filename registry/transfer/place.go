// Package transfer copies images from one place to another without a store in between: registries,
// directories in the OCI image layout, and archives of docker and OCI.
//
// What moves is the graph behind one descriptor, by content.Copy: what is there already is not sent,
// large blobs resume, layers of the same registry are mounted, manifests come last, digests stay.
package transfer

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// A Kind of place.
type Kind string

// The kinds, as users write them, with skopeo's meanings.
const (
	Registry      Kind = "docker"         // docker://REFERENCE, or only REFERENCE
	Layout        Kind = "oci"            // oci:DIR[:TAG] or oci:DIR@DIGEST
	LayoutArchive Kind = "oci-archive"    // oci-archive:FILE[:TAG]
	DockerArchive Kind = "docker-archive" // docker-archive:FILE[:REFERENCE]
)

// A Place is where an image is, or where it is to be.
type Place struct {
	Kind Kind
	Ref  reference.Named // of a registry: with a tag or a digest
	Path string          // of the others
	Name string          // in them: a tag, a reference or a digest; may be empty
}

// Parse reads a place. Without a known prefix it is a reference.
func Parse(s string) (Place, error) {
	prefix, rest, ok := strings.Cut(s, ":")
	switch kind := Kind(prefix); {
	case ok && kind == Registry && strings.HasPrefix(rest, "//"):
		return parseReference(strings.TrimPrefix(rest, "//"))
	case ok && (kind == Layout || kind == LayoutArchive || kind == DockerArchive):
		return parsePath(kind, rest)
	}
	return parseReference(s)
}

func parseReference(s string) (Place, error) {
	ref, err := reference.ParseDockerRef(s)
	if err != nil {
		return Place{}, fmt.Errorf("%q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return Place{Kind: Registry, Ref: ref}, nil
}

func parsePath(kind Kind, s string) (Place, error) {
	p := Place{Kind: kind, Path: s}
	if path, dgst, ok := strings.Cut(s, "@"); ok && digest.Digest(dgst).Validate() == nil {
		p.Path, p.Name = path, dgst
	} else if path, name, ok := strings.Cut(s, ":"); ok {
		p.Path, p.Name = path, name
	}
	if p.Path == "" {
		return Place{}, fmt.Errorf("%s: a path is missing: %w", kind, errdefs.ErrInvalidArgument)
	}
	if kind == DockerArchive && p.Name != "" {
		ref, err := reference.ParseNormalizedNamed(p.Name)
		if err != nil {
			return Place{}, fmt.Errorf("%q: %w: %w", p.Name, err, errdefs.ErrInvalidArgument)
		}
		p.Name = reference.TagNameOnly(ref).String()
	}
	return p, nil
}

// String is what Parse reads.
func (p Place) String() string {
	switch {
	case p.Kind == Registry:
		return reference.FamiliarString(p.Ref)
	case p.Name == "":
		return string(p.Kind) + ":" + p.Path
	case digest.Digest(p.Name).Validate() == nil:
		return string(p.Kind) + ":" + p.Path + "@" + p.Name
	}
	return string(p.Kind) + ":" + p.Path + ":" + p.Name
}
