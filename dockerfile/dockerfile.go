// Package dockerfile turns a Dockerfile into a build definition and an image config.
//
// The language is BuildKit's own: its Dockerfile frontend runs in this process and talks
// to us as it would to buildkitd. What the frontend needs to know of the world (files of
// a context, configs of base images) it asks the [Backend] for. Of BuildKit's types only
// those of solver/pb leave this package.
package dockerfile

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Names of the local sources a definition refers to.
const (
	LocalContext    = "context"    // the build context
	LocalDockerfile = "dockerfile" // the directory of the Dockerfile
)

// Version is the version of the language: "1.28.0". The frontend adds "-dev" where it is not linked by its own makers.
func Version() string { return strings.TrimSuffix(version.Version(), "-dev") }

// Options of a compilation.
type Options struct {
	// Attrs are BuildKit's options of the Dockerfile frontend: filename, target, platform,
	// "build-arg:K", "label:K", no-cache, "context:NAME", ... (frontend/dockerui/config.go).
	Attrs map[string]string
	// Host is the platform of this machine.
	Host ocispec.Platform
	// Name is what the answer to a check calls the Dockerfile; "": the last element of its path.
	Name string
	// Session is what local sources are marked with, for a caller with several; "": "teu".
	Session string
	// Inputs are definitions that Attrs refer to: a context "input:NAME".
	Inputs map[string]*pb.Definition
}

// A Result is what a Dockerfile says.
type Result struct {
	Images []Image
	Index  bool // the images are those of an index, even if it is one image
	// Frontend is what made them of Attrs, by BuildKit's name; "" if nothing did.
	Frontend string
	Attrs    map[string]string
	// Answer holds the answer to a question (Attrs["requestid"]) instead of images:
	// "result.json" and "result.txt".
	Answer map[string][]byte
	Wrong  error // why the Dockerfile cannot be built, if a check says so; an *Error if it says where
}

// An Image is the result for one platform.
type Image struct {
	Platform   ocispec.Platform
	Definition *pb.Definition // without operations: the empty filesystem
	Config     []byte         // JSON; rootfs and times are the exporter's duty
	BaseConfig []byte         // JSON of the base image; nil for scratch
	Epoch      *time.Time     // SOURCE_DATE_EPOCH
	// Attestations are what is to be stated of the image: what a scanner finds in it.
	Attestations []Attestation
}

// An Attestation is a directory with statements in in-toto's form, or the predicate of one.
type Attestation struct {
	Definition *pb.Definition
	Dir        string // in what the definition makes
	Kind       string // the predicate's type that each must have; "": any
	Core       string // what the one that others belong to is called, up to a dot; "": none is
	// Stated says that whoever made the result states this, whether a scan is asked for or not.
	Stated bool
	// InlineOnly keeps it out of outputs that are files.
	InlineOnly bool

	File     string    // in place of Dir: a predicate, of the type Kind
	Subjects []Subject // of File; none: the outcome
}

// A Subject is what a statement is about.
type Subject struct {
	Self    bool   // the outcome itself, also by Name
	Name    string // "": it has none
	Digests []digest.Digest
}

// A Backend answers what the frontend asks while it compiles. It is used by several
// goroutines at once. name is what to call the question when telling people.
type Backend interface {
	// Files returns the filesystem that def makes.
	Files(ctx context.Context, def *pb.Definition) (Files, error)
	// ResolveImage finds out what an image reference stands for.
	ResolveImage(ctx context.Context, name, ref string, o ImageOptions) (ImageConfig, error)
	// DescribeSource finds out about a source that is no image. s becomes another one where a policy says so.
	DescribeSource(ctx context.Context, name string, s *pb.SourceOp) (SourceInfo, error)
	// Warn passes on what the linter says.
	Warn(w Warning)
}

// Files gives out files of a filesystem. Paths are relative to its root; links are
// followed inside it. A missing file is an fs.ErrNotExist.
type Files interface {
	// ReadFile returns what a file has from an offset on, at most so many bytes.
	ReadFile(ctx context.Context, path string, from, most int64) ([]byte, error)
	Stat(ctx context.Context, path string) (FileInfo, error)
	ReadDir(ctx context.Context, path string) ([]FileInfo, error)
}

// FileInfo describes a file.
type FileInfo struct {
	Name     string // last element
	Mode     uint32 // as Go's fs.FileMode
	UID, GID uint32
	Size     int64
	ModTime  time.Time
	Linkname string
}

// ImageOptions say which image is meant.
type ImageOptions struct {
	Platform *ocispec.Platform // nil: the host's
	Mode     string            // "default", "pull" or "local"
	Layout   string            // the name of an OCI layout which has the image, instead of a registry
	// Chain asks for what is stated of the image, not of one in a layout, with the statements whose predicates are of the types
	// Statements.
	Chain      bool
	Statements []string
}

// An ImageConfig is what an image reference stands for.
type ImageConfig struct {
	Ref    string // the name to use from now on
	Digest string // of the manifest or index
	Config []byte // JSON
	Chain  *Chain // nil: it was not asked for, or there is none
}

// A Chain is what leads from an image to what is stated of it: digests, "" for what is not there, and blobs by theirs.
type Chain struct {
	Root, Image, Statements, Signature string
	Blobs                              map[string]Blob
}

// A Blob is what was read, and how it was referred to.
type Blob struct {
	Descriptor ocispec.Descriptor
	Data       []byte
}

// A SourceInfo is what is known of a source in git or on the web; zero for others.
type SourceInfo struct {
	Ref      string     // of git: refs/heads/main, say
	Commit   string     // of git: what the ref names, a commit or a tag that is an object
	Tagged   string     // of git: the commit that such a tag is of
	Object   []byte     // of git: the commit as git stores it
	Tag      []byte     // of git: the tag as git stores it
	Digest   string     // of a download
	Filename string     // of a download
	Modified *time.Time // of a download, if the server said it
}

// A Warning is a remark of the linter.
type Warning struct {
	Text   string
	Detail []string // what the rule is about
	URL    string
	Level  int      // as BuildKit counts: 1 is the least
	Vertex string   // the digest of what it is about, if it says so
	Where  Location // zero if it is not about a place
}

// A Location is a range of lines in a Dockerfile.
type Location struct {
	File       string
	Text       []byte // the whole file
	Start, End int    // lines, from 1, both included
}

// An Error is a Dockerfile that cannot be compiled, and where.
type Error struct {
	Where Location
	Err   error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d: %v", e.Where.File, e.Where.Start, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Compile compiles the Dockerfile that the local source LocalDockerfile of b holds. If the
// Dockerfile is to blame the error is an *Error.
func Compile(ctx context.Context, b Backend, o Options) (*Result, error) {
	reply, err := Ask(ctx, b, o)
	if err != nil {
		return nil, err
	}
	return reply.Result()
}

// build runs the frontend. It was written to run in a process of its own, so a panic in it
// must not take the builder down.
func (g *gateway) build(ctx context.Context) (res *client.Result, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("the Dockerfile frontend panicked: %v: %w", p, errdefs.ErrInternal)
		}
	}()
	res, err = builder.Build(ctx, g)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.ignores != nil {
		return nil, g.ignores
	}
	return res, err
}
