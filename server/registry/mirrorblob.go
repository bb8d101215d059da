package registry

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// ConfirmBlob implements blobs. One that is not here will be asked for next.
func (s *mirrors) ConfirmBlob(ctx context.Context, repo string, d digest.Digest) error {
	err := s.storage.ConfirmBlob(ctx, repo, d)
	if _, _, ok := s.of(repo); ok {
		return ignoreNotFound(err)
	}
	return err
}

// OpenBlob implements blobs. What is not here is downloaded when it is read.
func (s *mirrors) OpenBlob(ctx context.Context, repo string, d digest.Digest) (io.ReadSeekCloser, error) {
	f, err := s.storage.OpenBlob(ctx, repo, d)
	m, name, ok := s.of(repo)
	if !ok || !errdefs.IsNotFound(err) {
		return f, err
	}
	up, err := s.open(m.Registry, name)
	if err != nil {
		return nil, err
	}
	desc, err := up.ResolveBlob(ctx, d)
	if err != nil {
		return nil, upstreamError(err)
	}
	return &downloadReader{ctx: ctx, size: desc.Size, begin: func() (*download, error) { return s.download(ctx, up, repo, desc) }}, nil
}

// downloads are those that run, by repository and digest.
type downloads struct {
	mu sync.Mutex
	m  map[string]*download
}

// download is a blob that is coming from an upstream. Who wants it reads along from a file
// without a name, as fast as it comes.
type download struct {
	file *os.File

	mu    sync.Mutex
	have  int64         // bytes in file
	done  bool          // nothing more will come
	err   error         // and why, unless all is there
	grown chan struct{} // closed when one of the above changes
	users int           // readers, and the download itself
}

// download joins the download of a blob, or begins it. It goes on without its readers.
func (s *mirrors) download(ctx context.Context, up Upstream, repo string, desc ocispec.Descriptor) (*download, error) {
	key := repo + " " + desc.Digest.String()
	s.downloads.mu.Lock()
	defer s.downloads.mu.Unlock()
	if d, ok := s.downloads.m[key]; ok {
		d.mu.Lock()
		d.users++
		d.mu.Unlock()
		return d, nil
	}
	f, err := os.OpenFile(s.temp, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening a file for a download: %w", err)
	}
	d := &download{file: f, grown: make(chan struct{}), users: 2}
	if s.downloads.m == nil {
		s.downloads.m = map[string]*download{}
	}
	s.downloads.m[key] = d
	go func() {
		err := s.keep(context.WithoutCancel(ctx), up, repo, desc, d)
		s.downloads.mu.Lock()
		delete(s.downloads.m, key)
		s.downloads.mu.Unlock()
		d.add(0, true, err)
		d.release()
	}()
	return d, nil
}

// keep reads the blob into d and the storage at once.
func (s *mirrors) keep(ctx context.Context, up Upstream, repo string, desc ocispec.Descriptor, d *download) error {
	// Another download may have ended since the blob was looked for.
	if f, err := s.storage.OpenBlob(ctx, repo, desc.Digest); err == nil {
		defer f.Close()
		_, err := io.Copy(d, f)
		return err
	}
	r, err := up.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	id, err := s.storage.CreateUpload(ctx, repo, desc.Digest.Algorithm())
	if err != nil {
		return err
	}
	u, err := s.storage.OpenUpload(ctx, repo, id, desc.Digest)
	if err != nil {
		return err
	}
	defer u.Close()
	if _, err := u.ReadFrom(io.TeeReader(r, d)); err != nil {
		_ = u.Cancel() // the sweep gets what is left
		return err
	}
	return u.Commit(ctx, desc.Digest)
}

// Write implements io.Writer for keep.
func (d *download) Write(b []byte) (int, error) {
	n, err := d.file.WriteAt(b, d.have) // have changes only here
	d.add(n, false, nil)
	return n, err
}

func (d *download) add(n int, done bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have += int64(n)
	d.done, d.err = done, err
	close(d.grown)
	d.grown = make(chan struct{})
}

func (d *download) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 {
		d.file.Close()
	}
}

// readAt waits until there is something at offset.
func (d *download) readAt(ctx context.Context, b []byte, offset int64) (int, error) {
	for {
		d.mu.Lock()
		have, done, err, grown := d.have, d.done, d.err, d.grown
		d.mu.Unlock()
		if offset < have {
			return d.file.ReadAt(b[:min(int64(len(b)), have-offset)], offset)
		}
		if done {
			if err == nil {
				err = io.ErrUnexpectedEOF
			}
			return 0, fmt.Errorf("download: %w", err)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-grown:
		}
	}
}

// downloadReader reads a download, which begins with the first byte that is wanted.
type downloadReader struct {
	ctx   context.Context // the request's, which it does not outlive
	size  int64
	begin func() (*download, error)
	d     *download
	at    int64
}

// Read implements io.Reader.
func (r *downloadReader) Read(b []byte) (int, error) {
	if r.at >= r.size || len(b) == 0 {
		return 0, io.EOF
	}
	if r.d == nil {
		d, err := r.begin()
		if err != nil {
			return 0, err
		}
		r.d = d
	}
	n, err := r.d.readAt(r.ctx, b, r.at)
	r.at += int64(n)
	return n, err
}

// Seek implements io.Seeker.
func (r *downloadReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.at
	case io.SeekEnd:
		offset += r.size
	}
	r.at = max(offset, 0)
	return r.at, nil
}

// Close implements io.Closer.
func (r *downloadReader) Close() error {
	if r.d != nil {
		r.d.release()
		r.d = nil
	}
	return nil
}
