package registry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// documents are a few small files beside the images: accounts, and what the registry has to
// remember of itself. All servers of one storage see the same.
type documents interface {
	// Document returns a document and its version. errdefs.ErrNotFound: version is "".
	Document(ctx context.Context, name string) (body []byte, version string, err error)
	// PutDocument replaces the document that has the version, "" for none, durably.
	// errdefs.ErrAborted: it has another one.
	PutDocument(ctx context.Context, name, version string, body []byte) error
}

// maxDocument is the largest document, in bytes: a larger one could not be read again.
const maxDocument = maxRecord

// editDocument changes a document by edit, again and again until nobody else did meanwhile.
func editDocument(ctx context.Context, s documents, name string, edit func([]byte) ([]byte, error)) error {
	for range 20 {
		body, version, err := s.Document(ctx, name)
		if err != nil && !errdefs.IsNotFound(err) {
			return err
		}
		if body, err = edit(body); err != nil {
			return err
		}
		if len(body) > maxDocument {
			return fmt.Errorf("%s would be larger than %d bytes: %w", name, maxDocument, errdefs.ErrInvalidArgument)
		}
		if err = s.PutDocument(ctx, name, version, body); !errdefs.IsAborted(err) {
			return err
		}
	}
	return fmt.Errorf("%s changes all the time: %w", name, errdefs.ErrUnavailable)
}

var errChanged = fmt.Errorf("changed meanwhile: %w", errdefs.ErrAborted)

// Document implements documents. The version in a directory is the digest.
func (s *directory) Document(_ context.Context, name string) ([]byte, string, error) {
	f, err := openRead(filepath.Join(s.root, "documents", name))
	if err != nil {
		return nil, "", notFound(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, "", err
	}
	if st.Size > maxDocument {
		return nil, "", fmt.Errorf("document %s is too large: %w", name, errdefs.ErrDataLoss)
	}
	body := make([]byte, st.Size)
	if _, err := f.ReadAt(body, 0); err != nil {
		return nil, "", err
	}
	return body, digest.FromBytes(body).String(), nil
}

// PutDocument implements documents.
func (s *directory) PutDocument(ctx context.Context, name, version string, body []byte) error {
	dir := filepath.Join(s.root, "documents")
	if err := s.sync.mkdir(dir); err != nil {
		return err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(ctx, int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	_, now, err := s.Document(ctx, name)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	if now != version {
		return errChanged
	}
	tmp, err := s.writeTemp(body)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return s.sync.dir(dir)
}

// Document implements documents.
func (b *bucket) Document(ctx context.Context, name string) ([]byte, string, error) {
	o, err := b.get(ctx, "documents/"+name)
	return o.body, o.etag, err
}

// PutDocument implements documents.
func (b *bucket) PutDocument(ctx context.Context, name, version string, body []byte) (err error) {
	var ok bool
	if version == "" {
		_, ok, err = b.create(ctx, "documents/"+name, body)
	} else {
		_, ok, err = b.replace(ctx, "documents/"+name, version, body)
	}
	if err == nil && !ok {
		return errChanged
	}
	return err
}

// documentCache is a document as a server sees it, read again from time to time.
type documentCache[T any] struct {
	store  documents
	name   string
	decode func([]byte) (T, error)

	mu      sync.Mutex
	known   bool
	now     T
	version string
	read    time.Time // when it was that
	looked  time.Time // when that was asked, with whatever answer
	err     error     // the answer, if it was none
}

const (
	// documentFor is how long a server may not know of a change.
	documentFor = 2 * time.Second
	// documentStale is how long a document is good that cannot be read.
	documentStale = time.Minute
	// documentWait is how long everybody waits for a document to be read.
	documentWait = 10 * time.Second
)

// get returns the document, an empty one if there is none. While it cannot be read, or makes no
// sense as somebody is writing to it, the old one is good for not longer than a minute.
func (c *documentCache[T]) get(ctx context.Context) (T, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) >= documentFor {
		c.err = c.load(ctx)
		c.looked = time.Now()
	}
	if c.known && time.Since(c.read) < documentStale {
		return c.now, nil
	}
	return c.now, c.err
}

// load reads the document. The caller holds c.mu.
func (c *documentCache[T]) load(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), documentWait)
	defer cancel()
	b, version, err := c.store.Document(ctx, c.name)
	if ignoreNotFound(err) != nil {
		return fmt.Errorf("reading %s: %w", c.name, err)
	}
	if !c.known || version != c.version {
		now, err := c.decode(b)
		if err != nil {
			return err
		}
		c.now, c.version, c.known = now, version, true
	}
	c.read = time.Now()
	return nil
}
