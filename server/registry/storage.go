package registry

import (
	"context"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/opencontainers/go-digest"
)

// storage is what the API needs from the place that holds the bytes. Names, tags, digests
// and upload IDs have been checked before they come here. Errors are of the errdefs
// classes; errdefs.ErrNotFound is the one the API looks for.
//
// A nil error of a method that changes something means: durable, and visible to whoever
// asks next, on any server of the same storage.
type storage interface {
	blobs
	uploads
	manifests
	tags
	documents
	// Repositories returns up to n names of repositories with manifests after last, sorted by
	// byte; more tells whether there are others behind them.
	Repositories(ctx context.Context, last string, n int) (names []string, more bool, err error)
	// Collect removes what nothing leads to. errdefs.ErrUnavailable: a collection runs.
	Collect(ctx context.Context, o GCOptions) (GCReport, error)
	// Ready returns an error when nothing can be read or written.
	Ready(ctx context.Context) error
	// LastCollection returns when the last collection ended, of whatever server.
	LastCollection() time.Time
}

// blobs are bytes by digest, visible per repository.
type blobs interface {
	// OpenBlob opens a blob for reading from the start. An *os.File is sent by sendfile(2).
	OpenBlob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, error)
	// ConfirmBlob protects a blob of repo from collections for a while, since a client who
	// knows that it is there will not push it. errdefs.ErrNotFound when it is not.
	ConfirmBlob(ctx context.Context, repo string, d digest.Digest) error
	// MountBlob makes a blob of repository from visible in repo. An empty from means any.
	MountBlob(ctx context.Context, repo, from string, d digest.Digest) error
	// RemoveBlob ends the visibility of a blob in repo.
	RemoveBlob(ctx context.Context, repo string, d digest.Digest) error
}

// redirector is a storage that clients can get blobs from.
type redirector interface {
	// BlobURL returns where to get a blob of repo, "" for from here.
	BlobURL(ctx context.Context, repo string, d digest.Digest) (string, error)
}

// uploads are blobs in the making. They outlive the server.
type uploads interface {
	// CreateUpload begins an upload to repo. The algorithm is a guess at the one that will
	// be asked for in the end.
	CreateUpload(ctx context.Context, repo string, a digest.Algorithm) (id string, err error)
	// UploadSize returns how many bytes the upload has.
	UploadSize(ctx context.Context, repo, id string) (int64, error)
	// OpenUpload opens an upload of repo, alone: it waits until nobody else has it open. final
	// is the digest that is to be committed after the next bytes, "" when more will come. Several
	// may open one without a byte with the same final; each makes the same blob, or fails.
	OpenUpload(ctx context.Context, repo, id string, final digest.Digest) (upload, error)
	// SweepUploads removes uploads that nobody has open nor wrote to since before.
	SweepUploads(ctx context.Context, before time.Time) (removed int, err error)
}

// upload is an upload held by one request. Close lets go of it and keeps what it has.
type upload interface {
	// Size is the number of bytes it has, which is the offset of the next.
	Size() int64
	// ReadFrom appends r; it is called at most once. After an error what was read before stays.
	io.ReaderFrom
	// Commit makes the upload the blob d of its repository. errDigest when it is not d;
	// the upload is gone then too.
	Commit(ctx context.Context, d digest.Digest) error
	// Cancel removes the upload.
	Cancel() error
	io.Closer
}

// manifests are small documents by digest, or by a tag, per repository.
type manifests interface {
	// GetManifest looks up a tag or, if it has a colon, a digest.
	GetManifest(ctx context.Context, repo, ref string) (record, error)
	// ConfirmManifest is ConfirmBlob for a manifest.
	ConfirmManifest(ctx context.Context, repo string, d digest.Digest) error
	// PutManifest stores m and points tags to it. A *missingError when repo does not
	// have everything in m.references, and errImmutable when one of m.fixed points elsewhere.
	PutManifest(ctx context.Context, repo string, m manifest, tags []string) error
	// RemoveManifest removes a manifest with its tags.
	RemoveManifest(ctx context.Context, repo string, d digest.Digest) error
	// Referrers yields, sorted by digest, the manifests of repo whose subject is d and
	// whose digest is behind last. An error ends it.
	Referrers(ctx context.Context, repo string, d digest.Digest, last string) iter.Seq2[record, error]
}

// tags are names of manifests, per repository. PutManifest sets them.
type tags interface {
	// Tags returns up to n tags after last, sorted by byte; more tells whether there are others
	// behind them.
	Tags(ctx context.Context, repo, last string, n int) (names []string, more bool, err error)
	// TagInfos returns all tags, in no order.
	TagInfos(ctx context.Context, repo string) ([]tagInfo, error)
	// RemoveTag removes a tag, whatever it is if version is "". errdefs.ErrNotFound when there
	// is none that has the version.
	RemoveTag(ctx context.Context, repo, tag, version string) error
}

// record is a stored manifest.
type record struct {
	digest    digest.Digest
	mediaType string
	body      []byte
	warning   string // what a client should know about it
}

// is reports whether the bytes are those of d.
func (r record) is(d digest.Digest) bool {
	return r.digest == d && digestOf(d.Algorithm(), r.body) == d
}

// missingError says which references of a manifest the repository does not have.
type missingError struct{ digests []digest.Digest }

func (e *missingError) Error() string {
	return fmt.Sprintf("references %s are unknown", e.digests)
}
