package buildkit

import (
	"context"
	"io"
	"sync"

	containerd "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/content"
)

// clientStore are blobs in a directory of a client.
type clientStore struct {
	containerd.Store

	mu      sync.Mutex
	sending map[digest.Digest]*sync.Mutex
}

var (
	_ content.Fetcher = (*clientStore)(nil)
	_ content.Pusher  = (*clientStore)(nil)
)

// newClientStore returns the store that the client offers under a name.
func newClientStore(s session.Caller, name string) *clientStore {
	return &clientStore{Store: sessioncontent.NewCallerStore(s, name), sending: map[digest.Digest]*sync.Mutex{}}
}

// Fetch implements content.Fetcher.
func (s *clientStore) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	at, err := s.ReaderAt(ctx, d)
	if err != nil {
		return nil, err
	}
	return content.Verify(struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(at, 0, d.Size), at}, d)
}

// describe finds out what the manifest d is.
func (s *clientStore) describe(ctx context.Context, d digest.Digest) (desc ocispec.Descriptor, err error) {
	info, err := s.Info(ctx, d)
	if err != nil {
		return desc, err
	}
	return op.DescribeManifest(ctx, s, ocispec.Descriptor{Digest: d, Size: info.Size})
}

// Exists implements content.Pusher.
func (s *clientStore) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	_, err := s.Info(ctx, d.Digest)
	if errdefs.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// Push implements content.Pusher. The client takes a blob once at a time, and complains of another.
func (s *clientStore) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	s.mu.Lock()
	one := s.sending[d.Digest]
	if one == nil {
		one = &sync.Mutex{}
		s.sending[d.Digest] = one
	}
	s.mu.Unlock()
	one.Lock()
	defer one.Unlock()
	return containerd.WriteBlob(ctx, s.Store, "teu-"+d.Digest.String(), r, d)
}
