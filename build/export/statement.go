package export

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/rootfs"
)

// A Statement says something of the outcome of a build: how it was made, what is in it. In an image it is a
// layer of a manifest beside that of the image (BuildKit docs, attestations/attestation-storage.md), elsewhere
// a file. Its form is that of in-toto: https://github.com/in-toto/attestation, spec/v1.
type Statement struct {
	Kind      string          // what the predicate is called, a URI
	Predicate json.RawMessage // a JSON object
	Name      string          // of the file
	// Subjects are what it is about, beside the outcome; nil: nothing else.
	Subjects []Subject
	// About says that Subjects are all that it is about.
	About bool
	// Aliases are further names of the outcome.
	Aliases []string
}

// A Subject is what a statement is about.
type Subject struct {
	Name   string            `json:"name"`
	Digest map[string]string `json:"digest"` // hex by algorithm
}

// NewSubject returns the subject of that name and digest.
func NewSubject(name string, d digest.Digest) Subject {
	return Subject{Name: name, Digest: map[string]string{d.Algorithm().String(): d.Encoded()}}
}

const (
	mediaTypeStatement         = "application/vnd.in-toto+json"
	artifactTypeStatements     = "application/vnd.docker.attestation.manifest.v1+json"
	annotationPredicateType    = "in-toto.io/predicate-type"
	annotationReferenceType    = "vnd.docker.reference.type"
	annotationReferenceDigest  = "vnd.docker.reference.digest"
	referenceTypeOfAttestation = "attestation-manifest"
)

// document returns the statement of an outcome that is self.
func (s Statement) document(self []Subject) any {
	about := append([]Subject{}, s.Subjects...) // [] in JSON, not null
	if !s.About {
		for _, subject := range self {
			about = append(about, subject)
			for _, name := range s.Aliases {
				about = append(about, Subject{Name: name, Digest: subject.Digest})
			}
		}
	}
	return struct {
		Type      string          `json:"_type"`
		Kind      string          `json:"predicateType"`
		Subjects  []Subject       `json:"subject"`
		Predicate json.RawMessage `json:"predicate"`
	}{"https://in-toto.io/Statement/v1", s.Kind, about, s.Predicate}
}

// commitStatements puts the manifest with statements about an image into the store.
func commitStatements(ctx context.Context, s *cache.Store, about ocispec.Descriptor, src Source, list []Statement, o Options) (ocispec.Descriptor, error) {
	var self []Subject
	for _, name := range src.Subjects {
		self = append(self, NewSubject(name, about.Digest))
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := ocispec.Image{Platform: unknownPlatform, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, st := range list {
		b, err := json.Marshal(st.document(self))
		if err != nil {
			return ocispec.Descriptor{}, fmt.Errorf("statement %s: %w", st.Kind, err)
		}
		d, err := content.PushBytes(ctx, s.Content, mediaTypeStatement, b)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
		d.Annotations = map[string]string{annotationPredicateType: st.Kind}
		m.Layers = append(m.Layers, d)
	}
	raw, mediaType := []byte("{}"), ocispec.MediaTypeEmptyJSON
	if o.StatementsAsImage {
		var err error
		if raw, err = json.Marshal(config); err != nil {
			return ocispec.Descriptor{}, err
		}
		mediaType = ocispec.MediaTypeImageConfig
	} else {
		m.ArtifactType = artifactTypeStatements
		m.Subject = &ocispec.Descriptor{MediaType: about.MediaType, Digest: about.Digest, Size: about.Size}
	}
	var err error
	if m.Config, err = content.PushBytes(ctx, s.Content, mediaType, raw); err != nil {
		return ocispec.Descriptor{}, err
	}
	if !o.StatementsAsImage {
		m.Config.Data = raw
	}
	d, err := put(ctx, s, m.MediaType, m)
	if err != nil {
		return d, err
	}
	platform := unknownPlatform
	d.Platform = &platform
	d.Annotations = map[string]string{annotationReferenceType: referenceTypeOfAttestation, annotationReferenceDigest: about.Digest.String()}
	o.Status("exporting attestation manifest " + d.Digest.String())
	return d, nil
}

// unknownPlatform is that of statements, so that nobody takes them for an image.
var unknownPlatform = ocispec.Platform{Architecture: "unknown", OS: "unknown"}

// Files returns the regular files of root, by their paths: what statements about files are about.
func Files(ctx context.Context, root *rootfs.Dir) ([]Subject, error) {
	var list []Subject
	err := walk(ctx, root, func(e entry) error {
		if e.kind() != unix.S_IFREG {
			return nil
		}
		f, err := e.open()
		if err != nil {
			return err
		}
		d, err := digest.Canonical.FromReader(f)
		list = append(list, NewSubject(e.path, d))
		return errors.Join(err, f.Close())
	})
	return list, err
}

// A StatementFile is a statement as a file of an output.
type StatementFile struct {
	path string // in the output
	data []byte
	time time.Time
}

// NewStatementFile makes the file of a statement about files.
func NewStatementFile(st Statement, files []Subject, o TreeOptions) (StatementFile, error) {
	f := StatementFile{path: path.Join(o.Prefix, st.Name), time: time.Now()}
	if o.Epoch != nil {
		f.time = *o.Epoch
	}
	if o.Taken[f.path] {
		return f, fmt.Errorf("%s of the statements is also a file of the result; the output's attestation-prefix=NAME calls it otherwise: %w", f.path, errdefs.ErrAlreadyExists)
	}
	if o.Taken != nil {
		o.Taken[f.path] = true
	}
	var err error
	f.data, err = json.MarshalIndent(st.document(files), "", "  ")
	return f, err
}

// WriteTar adds the file to an archive.
func (f StatementFile) WriteTar(tw *tar.Writer) error {
	h := &tar.Header{Name: f.path, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(f.data)), ModTime: f.time.Truncate(time.Second), Format: tar.FormatPAX}
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err := tw.Write(f.data)
	return err
}

// WriteDir puts the file into the directory dir. What has its name there is replaced, and links are not
// followed out of it.
func (f StatementFile) WriteDir(dir string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	parent, base, err := root.Parent(f.path)
	if err != nil {
		return err
	}
	defer parent.Close()
	file, err := create(int(parent.Fd()), base, f.path, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(f.data)
	t, timeErr := unix.TimeToTimespec(f.time)
	err = errors.Join(err, timeErr, unix.UtimesNanoAt(int(parent.Fd()), base, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW), file.Close())
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.path, err)
	}
	return nil
}
