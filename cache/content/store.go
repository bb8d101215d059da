package content

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

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
}

// Store is an OCI image layout on the local disk:
//
//	DIR/oci-layout                  the version
//	DIR/index.json                  empty: names are kept elsewhere
//	DIR/blobs/ALGORITHM/HEX         sha256 and sha512
//	DIR/ingest/w-*                  blobs being written, each locked by its writer
//	DIR/ingest/p-ALGORITHM-HEX      the same of a known digest, for Resume to go on with
//
// A blob is verified while it is written, fsynced, and only then renamed to its digest, so
// neither a killed process nor a power loss can leave wrong bytes under a digest. A power loss may
// lose the name of a blob, which can be fetched again.
// Any number of processes may use one directory, and many goroutines one Store.
type Store struct {
	dir   string
	opts  Options
	sweep sync.Once // leftovers are removed before the first write
}

var (
	_ Fetcher = (*Store)(nil)
	_ Pusher  = (*Store)(nil)
)

// Open opens the layout in dir and makes it if it is not there.
func Open(dir string) (*Store, error) { return OpenWith(dir, Options{}) }

// OpenWith is Open with options.
func OpenWith(dir string, o Options) (*Store, error) {
	for _, sub := range []string{"ingest", "blobs/" + string(digest.SHA256), "blobs/" + string(digest.SHA512)} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("opening the blob store: %w", err)
		}
	}
	documents := map[string]any{
		ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
		ocispec.ImageIndexFile: ocispec.Index{
			Versioned: specs.Versioned{SchemaVersion: 2},
			MediaType: ocispec.MediaTypeImageIndex,
			Manifests: []ocispec.Descriptor{},
		},
	}
	for name, v := range documents {
		path := filepath.Join(dir, name)
		if _, err := os.Stat(path); err == nil {
			continue // of an older run, or of another tool's layout
		}
		if err := statefile.Write(path, v, statefile.WriteOptions{}); err != nil {
			return nil, fmt.Errorf("opening the blob store: %w", err)
		}
	}
	return &Store{dir: dir, opts: o}, nil
}

// At is the layout in dir as it is, to read: it may be somebody else's, or on a filesystem that is read-only.
func At(dir string) *Store { return &Store{dir: dir} }

// Path returns where the blob is or would be, for sendfile and the like. The digest must be valid.
func (s *Store) Path(dgst digest.Digest) string {
	return filepath.Join(s.dir, "blobs", string(dgst.Algorithm()), dgst.Encoded())
}

// Stat describes a blob; a missing one is an errdefs.ErrNotFound.
func (s *Store) Stat(ctx context.Context, dgst digest.Digest) (Info, error) {
	if err := validate(dgst); err != nil {
		return Info{}, err
	}
	fi, err := os.Stat(s.Path(dgst))
	if err != nil {
		return Info{}, missing(dgst, err)
	}
	return Info{Digest: dgst, Size: fi.Size(), ModTime: fi.ModTime()}, nil
}

// missing gives the class ErrNotFound to a missing file.
func missing(dgst digest.Digest, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("blob %s is not here: %w", dgst, errdefs.ErrNotFound)
	}
	return err
}

// Fetch implements Fetcher.
func (s *Store) Fetch(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := validate(d.Digest); err != nil {
		return nil, err
	}
	f, err := OpenRegular(s.Path(d.Digest))
	if err != nil {
		return nil, missing(d.Digest, err)
	}
	return Verify(f, d)
}

// Exists implements Pusher. It touches the blob, so that a collection that goes on spares it.
func (s *Store) Exists(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	ok, err := s.Touch(d.Digest)
	if !ok || err != nil {
		return false, err
	}
	info, err := s.Stat(ctx, d.Digest)
	// Another size means a descriptor that lies, which a Push will find out, or a damaged
	// file, which it will replace.
	return err == nil && info.Size == d.Size, err
}

// Push implements Pusher.
func (s *Store) Push(ctx context.Context, d ocispec.Descriptor, r io.Reader) error {
	if ok, err := s.Exists(ctx, d); ok || err != nil {
		return err
	}
	w, err := s.WriterFor(ctx, d)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := copyBytes(ctx, w, r); err != nil {
		return fmt.Errorf("storing blob %s: %w", d.Digest, err)
	}
	_, err = w.Commit(ctx, d.MediaType)
	return err
}

// Touch sets the blob's time to now and says whether it is there.
func (s *Store) Touch(dgst digest.Digest) (found bool, err error) {
	if err := validate(dgst); err != nil {
		return false, err
	}
	unlock, err := s.lock(context.Background()) // held by others for moments only
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = now(s.Path(dgst))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// now sets the times of path by the clock of its filesystem, so that they compare with each other.
func now(path string) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "utimensat", Path: path, Err: err}
	}
	return nil
}

// lock keeps deletions away.
func (s *Store) lock(ctx context.Context) (unlock func() error, err error) {
	if s.opts.GCLock == "" {
		return func() error { return nil }, nil
	}
	return statefile.Lock(ctx, s.opts.GCLock, statefile.LockOptions{Shared: true})
}

// Delete removes a blob; a missing one is an errdefs.ErrNotFound. The caller holds Options.GCLock exclusively.
func (s *Store) Delete(ctx context.Context, dgst digest.Digest) error {
	if err := validate(dgst); err != nil {
		return err
	}
	return missing(dgst, os.Remove(s.Path(dgst)))
}

// Walk calls fn for every blob, in no order, until fn fails.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error {
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if err := s.walk(ctx, algorithm, fn); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) walk(ctx context.Context, algorithm digest.Algorithm, fn func(Info) error) error {
	err := statefile.Scan(filepath.Join(s.dir, "blobs", string(algorithm)), "", func(name string, st *unix.Stat_t) error {
		if ctx.Err() != nil || len(name) != 2*algorithm.Size() || strings.Trim(name, "0123456789abcdef") != "" {
			return ctx.Err() // else it is not ours
		}
		dgst := digest.NewDigestFromEncoded(algorithm, name)
		return fn(Info{Digest: dgst, Size: st.Size, ModTime: time.Unix(st.Mtim.Unix())})
	})
	if err != nil {
		return fmt.Errorf("listing blobs: %w", err)
	}
	return nil
}

// Sweep removes what dead processes left half written, and what Resume did not go on with for a week.
func (s *Store) Sweep(ctx context.Context) error {
	dir := filepath.Join(s.dir, "ingest")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweeping the blob store: %w", err)
	}
	for _, e := range entries {
		var age time.Duration
		switch {
		case strings.HasPrefix(e.Name(), partialPrefix):
			age = partialAge
		case !strings.HasPrefix(e.Name(), ingestPrefix):
			continue
		}
		if err := sweepIngest(filepath.Join(dir, e.Name()), age); err != nil {
			return fmt.Errorf("sweeping the blob store: %w", err)
		}
	}
	return nil
}
