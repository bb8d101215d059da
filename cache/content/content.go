// Package content owns blobs named by their digest: the contract by which they move
// between holders, the walk over images made of them, and the local store.
//
// Every holder of blobs (the local store, a remote repository, an archive) is a
// Fetcher, a Pusher or both, and Copy moves a graph of blobs from one to another.
package content

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var errTODO = errors.New("not written yet")

// A Fetcher gives out blobs. The reader verifies size and digest as it is read: wrong
// bytes give an error where the end of the file would be, never io.EOF. A blob that is
// not there is an errdefs.ErrNotFound. The caller closes the reader.
type Fetcher interface {
	Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// A Pusher takes blobs in. A nil error of Push means that the blob is stored, whoever
// stored it; r may then be partly unread. Exists says whether a Push can be left out.
type Pusher interface {
	Exists(ctx context.Context, d ocispec.Descriptor) (bool, error)
	Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error
}

// An EventKind says what happened to a blob.
type EventKind string

const (
	EventExists   EventKind = "exists"   // it was there already
	EventTransfer EventKind = "transfer" // Current of Total bytes have moved
	EventDone     EventKind = "done"     // all bytes have moved and were verified
	EventUnpack   EventKind = "unpack"   // Current of Total compressed bytes were unpacked
	EventUnpacked EventKind = "unpacked" // the layer is on disk
	EventCompress EventKind = "compress" // Current plain bytes of a layer were compressed
	EventRetry    EventKind = "retry"    // a transfer starts again; Text says why
	EventMessage  EventKind = "message"  // Text is for the user
)

// An Event tells of the progress of one blob. Current and Total are bytes; Total is 0 if unknown.
type Event struct {
	Kind           EventKind
	Desc           ocispec.Descriptor
	Current, Total int64
	Text           string
}

// A Progress receives events. It may be called by several goroutines at once and must
// be quick. A nil Progress is not called.
type Progress func(Event)

// Info describes a blob of the local store.
type Info struct {
	Digest  digest.Digest
	Size    int64     // bytes
	ModTime time.Time // when it was stored or last touched
}

// Options change how OpenWith works.
type Options struct {
	// GCLock is a file locked shared while a blob is made visible or touched, and
	// exclusively by whoever deletes. Empty: nobody deletes while others write.
	GCLock string
	// Durable fsyncs directories too, so a blob survives a power loss once it is stored.
	Durable bool
}

// Store is an OCI image layout on the local disk.
type Store struct {
	dir string
}

var (
	_ Fetcher = (*Store)(nil)
	_ Pusher  = (*Store)(nil)
)

// Open opens the layout in dir and makes it if it is not there.
func Open(dir string) (*Store, error) { return OpenWith(dir, Options{}) }

// OpenWith is Open with options.
func OpenWith(dir string, o Options) (*Store, error) { return nil, errTODO }

// Path returns where the blob is or would be, for sendfile and the like. The digest must be valid.
func (s *Store) Path(dgst digest.Digest) string { return "" }

// Stat describes a blob.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (Info, error) {
	return Info{}, errTODO
}

// Fetch implements Fetcher.
func (s *Store) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, errTODO
}

// Exists implements Pusher. It touches the blob, so that a collection that goes on spares it.
func (s *Store) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	return false, errTODO
}

// Push implements Pusher.
func (s *Store) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error { return errTODO }

// Touch sets the blob's time to now and says whether it is there.
func (s *Store) Touch(dgst digest.Digest) (bool, error) { return false, errTODO }

// Delete removes a blob; a missing one is an errdefs.ErrNotFound. The caller holds Options.GCLock exclusively.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error { return errTODO }

// Walk calls fn for every blob, in no order, until fn fails.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error { return errTODO }

// Sweep removes what dead processes left half written.
func (s *Store) Sweep(ctx context.Context) error { return errTODO }

// A Writer takes the bytes of one blob.
type Writer struct{}

// Writer begins a blob of unknown digest; it will be a sha256.
func (s *Store) Writer(ctx context.Context) (*Writer, error) { return nil, errTODO }

// WriterFor begins the blob d. Commit fails if the bytes are not d's.
func (s *Store) WriterFor(ctx context.Context, d ocispec.Descriptor) (*Writer, error) {
	return nil, errTODO
}

// Write adds bytes.
func (w *Writer) Write(p []byte) (int, error) { return 0, errTODO }

// Commit makes the blob visible under its digest. mediaType is that of the descriptor returned.
func (w *Writer) Commit(ctx context.Context, mediaType string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, errTODO
}

// Close drops the bytes if they were not committed.
func (w *Writer) Close() error { return nil }

// CopyOptions change how Copy works.
type CopyOptions struct {
	Platforms   []ocispec.Platform // only these out of an index; nil means all
	Concurrency int                // blobs at once; 0 means 4
	Foreign     bool               // also layers that must not be distributed
	Progress    Progress
}

// Copy copies root and everything it refers to from src to dst, children before parents,
// several blobs at once, each once.
func Copy(ctx context.Context, dst Pusher, src Fetcher, root ocispec.Descriptor, o CopyOptions) error {
	return errTODO
}

// Children returns what the index or manifest d refers to: manifests, or config and
// layers in this order. Other blobs have no children.
func Children(ctx context.Context, f Fetcher, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return nil, errTODO
}

// ReadAll returns the bytes of a manifest or another small blob, at most 4 MiB.
func ReadAll(ctx context.Context, f Fetcher, d ocispec.Descriptor) ([]byte, error) {
	return nil, errTODO
}

// An Image is one platform's manifest and config.
type Image struct {
	Descriptor ocispec.Descriptor // of the manifest
	Manifest   ocispec.Manifest
	Config     ocispec.Image
	RawConfig  []byte // Config as it was read, with the fields OCI does not know
}

// Resolve finds the image for p behind root, which is an index, possibly of indexes, or
// a manifest. No image for p is an errdefs.ErrNotFound that lists the platforms there are.
func Resolve(ctx context.Context, f Fetcher, root ocispec.Descriptor, p ocispec.Platform) (Image, error) {
	return Image{}, errTODO
}

// Host returns the platform of this machine.
func Host() ocispec.Platform { return ocispec.Platform{} }

// MatchPlatform says how well an image for have suits want: 0 not at all, more is better.
func MatchPlatform(want, have ocispec.Platform) int { return 0 }

// IsIndex, IsManifest and IsLayer know OCI's and Docker's media types.
func IsIndex(mediaType string) bool    { return false }
func IsManifest(mediaType string) bool { return false }
func IsLayer(mediaType string) bool    { return false }

// Decompress returns the plain bytes of a layer. Magic numbers win over the media type,
// which many tools get wrong. The caller closes the result, then r.
func Decompress(r io.Reader, mediaType string) (io.ReadCloser, error) { return nil, errTODO }
