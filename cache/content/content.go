// Package content owns blobs named by their digest: the contract by which they move
// between holders, the walk over images made of them, and the local store.
//
// Every holder of blobs (the local store, a remote repository, an archive) is a
// Fetcher, a Pusher or both, and Copy moves a graph of blobs from one to another.
package content

import (
	"bytes"
	"context"
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

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

// PushBytes pushes what is in memory, and returns its descriptor.
func PushBytes(ctx context.Context, dst Pusher, mediaType string, data []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	return d, dst.Push(ctx, d, bytes.NewReader(data))
}

// PushJSON pushes a document.
func PushJSON(ctx context.Context, dst Pusher, mediaType string, v any) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return PushBytes(ctx, dst, mediaType, data)
}

// An EventKind says what happened to a blob.
type EventKind string

const (
	EventExists   EventKind = "exists"   // it was there already
	EventTransfer EventKind = "transfer" // Current of Total bytes have moved
	EventDone     EventKind = "done"     // all bytes have moved and were verified
	EventUnpack   EventKind = "unpack"   // Current of Total compressed bytes were unpacked
	EventUnpacked EventKind = "unpacked" // the layer is on disk
	EventRetry    EventKind = "retry"    // a transfer starts again; Text says why
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

// emit calls p if there is one.
func (p Progress) emit(e Event) {
	if p != nil {
		p(e)
	}
}
