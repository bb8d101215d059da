package registry

import (
	"encoding/json"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

// Docker's media types, image manifest version 2 schema 2.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerForeign  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	dockerSchema1  = "application/vnd.docker.distribution.manifest.v1+"
)

// manifest is a manifest to be stored.
type manifest struct {
	digest     digest.Digest
	mediaType  string
	version    string // schemaVersion as it is written, "" without
	body       []byte
	subject    digest.Digest   // "" without
	references []digest.Digest // what the repository must have
	fixed      []string        // tags that are only set if they are not there
}

// document is the part of any manifest the registry looks at.
type document struct {
	Version      json.RawMessage   `json:"schemaVersion"`
	MediaType    string            `json:"mediaType"`
	ArtifactType string            `json:"artifactType"`
	Config       *descriptor       `json:"config"`
	Layers       []descriptor      `json:"layers"`
	Manifests    []descriptor      `json:"manifests"`
	Blobs        []descriptor      `json:"blobs"` // of the artifact manifest that image-spec 1.1 dropped
	FSLayers     json.RawMessage   `json:"fsLayers"`
	Subject      *descriptor       `json:"subject"`
	Annotations  map[string]string `json:"annotations"`
}

// descriptor is the part of a descriptor the registry looks at. Its digest is valid.
type descriptor struct {
	MediaType string        `json:"mediaType"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"size"`
}

// readDocument reads the bytes of a manifest, whoever wrote it.
func readDocument(b []byte) (doc document, err error) {
	if err := content.Unmarshal(b, &doc); err != nil {
		return doc, invalidManifest("not a JSON object: " + err.Error())
	}
	for _, d := range doc.descriptors() {
		if _, err := parseDigest(d.Digest.String()); err != nil {
			return doc, errNoDigest
		}
	}
	if doc.Subject != nil {
		if _, err := parseDigest(doc.Subject.Digest.String()); err != nil {
			return doc, errNoDigest
		}
	}
	return doc, nil
}

var errNoDigest = invalidManifest("a descriptor has no valid sha256 or sha512 digest")

// parseManifest checks the bytes of a manifest that came with a Content-Type, which may be
// empty. The digest is left open.
func parseManifest(b []byte, contentType string) (manifest, error) {
	doc, err := readDocument(b)
	if err != nil {
		return manifest{}, err
	}
	mediaType, err := doc.mediaType(contentType)
	if err != nil {
		return manifest{}, err
	}
	if err := doc.check(mediaType); err != nil {
		return manifest{}, err
	}
	m := manifest{mediaType: mediaType, version: string(doc.Version), body: b}
	if doc.Subject != nil {
		m.subject = doc.Subject.Digest
	}
	m.references, err = doc.references()
	return m, err
}

// mediaType returns the type to keep: what the client said, which must not contradict the
// document.
func (doc *document) mediaType(contentType string) (string, error) {
	t := doc.MediaType
	if contentType != "" {
		parsed, _, err := mime.ParseMediaType(contentType)
		if err != nil {
			return "", invalidManifest("invalid Content-Type")
		}
		if t != "" && t != parsed {
			return "", invalidManifest("Content-Type and mediaType differ")
		}
		t = parsed
	}
	switch {
	case t == "":
		return "", invalidManifest("no Content-Type")
	case strings.HasPrefix(t, dockerSchema1):
		return "", invalidManifest("manifests of Docker's schema 1 are not supported")
	case !manifestType(t):
		return "", invalidManifest("not the media type of a manifest")
	}
	return t, nil
}

// manifestType reports whether t, which comes back to others as a header, can be the type of
// a manifest. RFC 6838, 4.2, has the characters.
func manifestType(t string) bool {
	name, ok := strings.CutPrefix(t, "application/vnd.")
	return ok && len(t) <= 127 && strings.HasSuffix(name, "+json") &&
		!strings.ContainsFunc(name, func(r rune) bool {
			return !(r < 0x80 && (isLowerAlnum(byte(r)) || 'A' <= r && r <= 'Z' || strings.ContainsRune("!#$&-^_.+", r)))
		})
}

// check refuses documents that different readers could take for different things
// (CVE-2021-41190).
func (doc *document) check(mediaType string) error {
	switch mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
		if doc.Config == nil {
			return invalidManifest("an image manifest has a config")
		}
		if doc.Manifests != nil || doc.FSLayers != nil {
			return invalidManifest("an image manifest has no manifests or fsLayers")
		}
	case ocispec.MediaTypeImageIndex, dockerList:
		if doc.Config != nil || doc.Layers != nil || doc.FSLayers != nil {
			return invalidManifest("an index has no config, layers or fsLayers")
		}
	}
	return nil
}

// checkVersion is for manifests that are pushed, as some that were stored before may be without.
// image-spec 1.1, manifest.md and image-index.md: the schemaVersion must be 2.
func (m *manifest) checkVersion() error {
	switch m.mediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest, ocispec.MediaTypeImageIndex, dockerList:
		if m.version != "2" {
			return invalidManifest("the schemaVersion is not 2")
		}
	}
	return nil
}

// descriptors are all but the subject, those of manifests first.
func (doc *document) descriptors() []descriptor {
	all := slices.Concat(doc.Manifests, doc.Layers, doc.Blobs)
	if doc.Config != nil {
		all = append(all, *doc.Config)
	}
	return all
}

// references lists what has to be in the repository, each once: everything but the subject
// and layers that may not be distributed.
func (doc *document) references() ([]digest.Digest, error) {
	all := doc.descriptors()
	refs, listed := make([]digest.Digest, 0, len(all)), make(map[digest.Digest]bool, len(all))
	for _, desc := range all {
		if desc.Size < 0 {
			return nil, invalidManifest("a descriptor has a negative size")
		}
		if d := desc.Digest; !nonDistributable(desc.MediaType) && !listed[d] {
			refs, listed[d] = append(refs, d), true
		}
	}
	return refs, nil
}

func nonDistributable(mediaType string) bool {
	return mediaType == dockerForeign || strings.HasPrefix(mediaType, "application/vnd.oci.image.layer.nondistributable.")
}

func invalidManifest(why string) error {
	return &apiError{http.StatusBadRequest, codeManifestInvalid, "manifest invalid: " + why, nil}
}

// referrer returns the descriptor by which a stored manifest appears in the list of
// referrers of its subject. distribution-spec 1.1, "Listing Referrers": the artifact type
// of an image manifest without one is the type of its config.
func referrer(r record) (ocispec.Descriptor, error) {
	doc, err := readDocument(r.body)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{
		MediaType:    r.mediaType,
		Digest:       r.digest,
		Size:         int64(len(r.body)),
		ArtifactType: doc.ArtifactType,
		Annotations:  doc.Annotations,
	}
	if d.ArtifactType == "" && doc.Config != nil {
		d.ArtifactType = doc.Config.MediaType
	}
	return d, nil
}
