package buildkit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// blobs is containerd's service of content, as far as clients look into builds that have ended: they get the blobs
// that records name, and manifests and statements of the images that are still here. Nothing is written by it.
type blobs struct {
	contentapi.UnimplementedContentServer
	server *Server
}

// open returns a blob of a record, or of the store.
func (s blobs) open(text string) (*os.File, fs.FileInfo, error) {
	d, err := digest.Parse(text)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	f, err := s.server.history.records.open(d)
	if errdefs.IsNotFound(err) {
		b, berr := s.server.Builder(nil)
		if berr != nil {
			return nil, nil, berr
		}
		var oerr error
		if f, oerr = os.Open(b.Store.Content.Path(d)); oerr == nil {
			err = nil
		} else if !errors.Is(oerr, fs.ErrNotExist) {
			err = oerr
		}
	}
	if err != nil {
		return nil, nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, fi, nil
}

func info(d digest.Digest, fi fs.FileInfo) *contentapi.Info {
	at := timestamppb.New(fi.ModTime())
	return &contentapi.Info{Digest: d.String(), Size: fi.Size(), CreatedAt: at, UpdatedAt: at}
}

// Info implements contentapi.ContentServer.
func (s blobs) Info(_ context.Context, req *contentapi.InfoRequest) (*contentapi.InfoResponse, error) {
	f, fi, err := s.open(req.Digest)
	if err != nil {
		return nil, err
	}
	return &contentapi.InfoResponse{Info: info(digest.Digest(req.Digest), fi)}, f.Close()
}

// List implements contentapi.ContentServer: what only records name.
func (s blobs) List(_ *contentapi.ListContentRequest, stream contentapi.Content_ListServer) error {
	return s.server.history.records.blobs(func(d digest.Digest, fi fs.FileInfo) error {
		return stream.Send(&contentapi.ListContentResponse{Info: []*contentapi.Info{info(d, fi)}})
	})
}

// Read implements contentapi.ContentServer.
func (s blobs) Read(req *contentapi.ReadContentRequest, stream contentapi.Content_ReadServer) error {
	f, fi, err := s.open(req.Digest)
	if err != nil {
		return err
	}
	defer f.Close()
	from, size := max(req.Offset, 0), req.Size
	if from > fi.Size() {
		return fmt.Errorf("offset %d of %d bytes: %w", from, fi.Size(), errdefs.ErrOutOfRange)
	}
	if size <= 0 || size > fi.Size()-from {
		size = fi.Size() - from
	}
	part := make([]byte, min(size, 256<<10))
	for at := from; at < from+size; {
		n, err := f.ReadAt(part[:min(int64(len(part)), from+size-at)], at)
		if n == 0 && err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if err := stream.Send(&contentapi.ReadContentResponse{Offset: at - from, Data: part[:n]}); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}
