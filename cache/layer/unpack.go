package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/statefile"
)

// Apply unpacks the plain tar r, whose digest must be want, and returns its layer. A
// layer that is there already is touched and returned without reading r; so is one that another
// process finishes while this one waits for it. A wrong digest is an errdefs.ErrDataLoss,
// a tar that is not acceptable an errdefs.ErrInvalidArgument, and neither leaves a trace.
func (s *Store) Apply(ctx context.Context, want digest.Digest, r io.Reader) (_ Layer, err error) {
	if l, err := s.use(want); err == nil || !errors.Is(err, errdefs.ErrNotFound) {
		return l, err
	}
	lock := filepath.Join(s.tmp(), want.Encoded()+".lock")
	unlock, err := statefile.Lock(ctx, lock, statefile.LockOptions{})
	if err != nil {
		return Layer{}, err
	}
	defer func() { err = errors.Join(err, os.Remove(lock), unlock()) }()
	if l, err := s.use(want); err == nil || !errors.Is(err, errdefs.ErrNotFound) {
		return l, err
	}
	l, err := s.unpack(ctx, want, r)
	if err != nil {
		return Layer{}, fmt.Errorf("unpacking the layer %s: %w", want, err)
	}
	return l, nil
}

// use is ByDiffID and Touch: nobody removes the layer between the two.
func (s *Store) use(d digest.Digest) (Layer, error) {
	l, err := s.ByDiffID(d)
	if err != nil {
		return Layer{}, err
	}
	switch ok, err := s.Touch(l.ID); {
	case err != nil:
		return Layer{}, err
	case !ok:
		return Layer{}, fmt.Errorf("layer %s: %w", l.ID, errdefs.ErrNotFound)
	}
	return l, nil
}

func (s *Store) unpack(ctx context.Context, want digest.Digest, r io.Reader) (_ Layer, err error) {
	scratch, err := statefile.NewScratch(s.tmp())
	if err != nil {
		return Layer{}, err
	}
	defer func() { err = errors.Join(err, scratch.Close()) }()
	diff := filepath.Join(scratch.Path(), "diff")
	if err := makeRoot(diff); err != nil {
		return Layer{}, err
	}
	hashed := newHashedReader(ctx, r)
	res, err := Apply(ctx, diff, hashed, ApplyOptions{UserXattr: s.userXattr, NoChown: s.noChown})
	got, readErr := hashed.finish(err == nil)
	if err == nil {
		err = readErr // else it is in err already
	}
	if err != nil {
		return Layer{}, err
	}
	if got != want {
		return Layer{}, fmt.Errorf("the tar has the digest %s: %w", got, errdefs.ErrDataLoss)
	}
	return s.publish(scratch, &record{
		id: want.Encoded(), DiffID: want, Size: res.Size, OpaqueRoot: res.OpaqueRoot,
		needs: needs{res.Implicit, res.Links},
	})
}

// makeRoot makes the root of a layer as it is when the tar says nothing about it.
func makeRoot(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // the umask
}

// publish writes the record of the layer in the scratch directory, which becomes the layer.
func (s *Store) publish(scratch *statefile.Scratch, r *record) (Layer, error) {
	dir := scratch.Path()
	r.BootID, r.UserXattr = s.bootID, s.userXattr
	r.Needs = len(r.needs.implicit)+len(r.needs.links) > 0
	if r.Needs {
		if err := os.WriteFile(filepath.Join(dir, "needs"), r.needs.encode(), 0o600); err != nil {
			return Layer{}, err
		}
	}
	if err := statefile.Write(filepath.Join(dir, "layer.json"), r, statefile.WriteOptions{}); err != nil {
		return Layer{}, err
	}
	// Before the layer has its name: whoever is killed leaves none that Sync does not find.
	if err := os.WriteFile(s.unsynced(r.id), nil, 0o600); err != nil {
		return Layer{}, err
	}
	final := filepath.Join(s.dir, r.id)
	err := os.Rename(dir, final)
	if errors.Is(err, os.ErrExist) { // damaged by a power loss, or it would have been found
		if err := s.discard(r.id); err != nil {
			return Layer{}, err
		}
		err = os.Rename(dir, final)
	}
	if err != nil {
		return Layer{}, err
	}
	if r.DiffID != "" {
		if err := s.index(r.DiffID, r.id); err != nil {
			return Layer{}, err
		}
	}
	return r.layer(), nil
}

// index makes d lead to the layer id.
func (s *Store) index(d digest.Digest, id string) error {
	scratch, err := statefile.NewScratch(s.tmp())
	if err != nil {
		return err
	}
	link := filepath.Join(scratch.Path(), "link")
	if err = os.Symlink(id, link); err == nil {
		err = os.Rename(link, s.byDiffID(d))
	}
	return errors.Join(err, scratch.Close())
}

// A hashedReader reads ahead in a goroutine, where decompression and the digest cost their time,
// while the reader of it makes files.
type hashedReader struct {
	full, empty chan []byte
	stop        context.CancelFunc
	rest        []byte // not read yet, of whole
	whole       []byte
	hash        hash.Hash
	err         error // why the goroutine ended; may be read when full is closed
}

func newHashedReader(ctx context.Context, r io.Reader) *hashedReader {
	const buffers = 3 // one being filled, one waiting, one being read
	ctx, stop := context.WithCancel(ctx)
	h := &hashedReader{full: make(chan []byte, buffers), empty: make(chan []byte, buffers), stop: stop, hash: sha256.New()}
	for range buffers {
		h.empty <- make([]byte, bufferSize)
	}
	go h.readAhead(ctx, r)
	return h
}

func (h *hashedReader) readAhead(ctx context.Context, r io.Reader) {
	defer close(h.full)
	for {
		var buf []byte
		select {
		case buf = <-h.empty:
		case <-ctx.Done():
			h.err = context.Cause(ctx)
			return
		}
		n, err := fill(r, buf)
		h.hash.Write(buf[:n])
		if n > 0 {
			h.full <- buf[:n] // never blocks: it holds all buffers
		}
		if err == io.EOF {
			return
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			h.err = err
			return
		}
	}
}

// fill is io.ReadFull, but passes on what r says at the end: an io.ErrUnexpectedEOF comes from
// compressed bytes that were cut off.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var m int
		m, err = r.Read(buf[n:])
		n += m
	}
	return n, err
}

func (h *hashedReader) Read(p []byte) (int, error) {
	if len(h.rest) == 0 && !h.next() {
		if h.err != nil {
			return 0, h.err
		}
		return 0, io.EOF
	}
	n := copy(p, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

// next gets the next buffer.
func (h *hashedReader) next() bool {
	if h.whole != nil {
		h.empty <- h.whole[:cap(h.whole)]
	}
	h.whole = <-h.full
	h.rest = h.whole
	return h.whole != nil
}

// finish ends the goroutine and returns the digest of everything that was read, which with
// all is the whole source: after the end of a tar there may be more bytes.
func (h *hashedReader) finish(all bool) (digest.Digest, error) {
	if !all {
		h.stop()
	}
	for h.next() {
	}
	h.stop()
	return digest.NewDigest(digest.SHA256, h.hash), h.err
}
