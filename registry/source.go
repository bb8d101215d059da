package registry

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
)

// source is the reader of an upload, which may have to be read again.
type source struct {
	reader   io.Reader
	reopen   func() (io.ReadCloser, error) // nil: there is no other way to the bytes
	reopened io.Closer                     // what reopen gave, ours to close

	mu  sync.Mutex // held while the transport reads
	pos int64      // bytes read
	err error      // why reading failed, which no other attempt would cure
}

// restarts reports whether seek can go to the beginning.
func (s *source) restarts() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.reader.(io.Seeker)
	return ok || s.reopen != nil || s.pos == 0
}

// seek makes the next byte read the one at offset.
func (s *source) seek(offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset == s.pos {
		return nil
	}
	if seeker, ok := s.reader.(io.Seeker); ok {
		_, err := seeker.Seek(offset, io.SeekStart)
		s.pos = offset
		return err
	}
	if s.reopen == nil {
		return fmt.Errorf("its bytes are gone: %w", errdefs.ErrUnavailable)
	}
	r, err := s.reopen()
	if err != nil {
		return err
	}
	s.close()
	s.reader, s.reopened = r, r
	s.pos, err = io.CopyN(io.Discard, r, offset)
	return err
}

func (s *source) close() {
	if s.reopened != nil {
		s.reopened.Close()
	}
}

// part is the body of one request: the next rest bytes of a source. The transport may
// read it in a goroutine that outlives the request; after Close it reads nothing more.
type part struct {
	source *source
	rest   int64
	closed bool // guarded by source.mu
}

// Read implements io.Reader.
func (p *part) Read(b []byte) (int, error) {
	s := p.source
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case p.closed:
		return 0, errors.New("read after close")
	case p.rest == 0:
		return 0, io.EOF
	}
	n, err := s.reader.Read(b[:min(int64(len(b)), p.rest)])
	s.pos += int64(n)
	p.rest -= int64(n)
	switch {
	case err == io.EOF && p.rest > 0:
		s.err = io.ErrUnexpectedEOF
		return n, s.err
	case err != nil && err != io.EOF:
		s.err = err
		return n, err
	}
	return n, nil
}

// Close implements io.Closer. It waits for a Read that is going on.
func (p *part) Close() error {
	p.source.mu.Lock()
	defer p.source.mu.Unlock()
	p.closed = true
	return nil
}
