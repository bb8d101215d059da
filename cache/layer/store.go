// Package layer owns the unpacked layers of images: overlay directories that do not
// know their parents.
//
// Because a layer knows nothing of what lies below it, all layers of an image can be
// unpacked at the same time, and the same diffID under two parents is stored once.
// What a layer needs from below (the mode and owner of a directory it only passes
// through, the target of a hard link) is remembered when it is unpacked and added by
// Stack for each chain.
//
//	DIR/ID/diff/           the overlay directory
//	DIR/ID/layer.json      the record; its mtime is when the layer was used last
//	DIR/ID/needs           what the layer needs from those below, if anything
//	DIR/ID/synced          made after a syncfs(2) that came after the record
//	DIR/ID/chains/HASH*    what Stack made for one list of layers below
//	DIR/by-diffid/HEX      symbolic link with the text ID
//	DIR/unsynced/ID        for each layer without "synced", so that Sync need not look at all
//	DIR/tmp/               scratch directories and the locks of diffIDs being unpacked
//	DIR/empty/             the lower directory of an image without layers
package layer

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/statefile"
)

// A Layer describes an unpacked layer of the store.
type Layer struct {
	ID     string        // hex of the diffID when it came from a tar, "b-" and random hex when it was built
	DiffID digest.Digest // digest of the plain tar; "" until Seal has computed it
	Size   int64         // bytes on disk, about; 0 until known (a built layer before Seal)
	// TarSize is how many bytes the plain tar has, of which DiffID is the digest, if Diff can
	// write it and they are known; else 0.
	TarSize int64

	// Implicit are the directories of the layer for which its tar had no entry, "." for
	// the root, sorted. Their mode and owner are those of the layers below.
	Implicit []string
}

// A Store keeps layers in a directory of its own. Any number of processes may use one
// directory at the same time. A Store may be used by many goroutines.
type Store struct {
	dir       string
	bootID    string
	userXattr bool
	noChown   bool
	guard     string // see Guard
}

const builtPrefix = "b-"

// Open opens the store in dir, creating it if needed.
func Open(dir string) (*Store, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{dir, filepath.Join(dir, "tmp"), filepath.Join(dir, "by-diffid"), filepath.Join(dir, "unsynced")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("opening the layers: %w", err)
		}
	}
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("opening the layers: %w", err)
	}
	boot, err := statefile.BootID()
	if err != nil {
		return nil, err
	}
	return &Store{dir: dir, bootID: boot, userXattr: mount.NeedsUserXattr(), noChown: oneOwner()}, nil
}

// oneOwner says whether this process can make files of one owner only: it is not root, or root of
// a user namespace that has no other IDs.
func oneOwner() bool {
	if os.Geteuid() != 0 {
		return true
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	fields := strings.Fields(string(ids))
	return err == nil && len(fields) == 3 && fields[2] == "1"
}

// Get returns the layer id. An errdefs.ErrNotFound means that it is absent, or that it
// may have been damaged by a power loss and has to be made again.
func (s *Store) Get(id string) (Layer, error) {
	r, err := s.read(id)
	if err != nil {
		return Layer{}, err
	}
	if r.stale {
		return Layer{}, fmt.Errorf("layer %s is from before the last start of the machine: %w", id, errdefs.ErrNotFound)
	}
	return r.layer(), nil
}

// ByDiffID returns a layer whose plain tar has the digest d, or errdefs.ErrNotFound as Get.
func (s *Store) ByDiffID(d digest.Digest) (Layer, error) {
	if err := checkDiffID(d); err != nil {
		return Layer{}, err
	}
	ids := []string{d.Encoded()}
	switch id, err := os.Readlink(s.byDiffID(d)); {
	case err == nil:
		ids = append([]string{id}, ids...)
	case !errors.Is(err, fs.ErrNotExist): // it may be missing: publish makes it after the layer
		return Layer{}, err
	}
	for _, id := range ids {
		l, err := s.Get(id)
		if err == nil && l.DiffID == d {
			return l, nil
		}
		if err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return Layer{}, err
		}
	}
	return Layer{}, fmt.Errorf("layer with the diffID %s: %w", d, errdefs.ErrNotFound)
}

// Path returns the overlay directory of the layer id, whether or not it exists.
func (s *Store) Path(id string) string { return filepath.Join(s.dir, id, "diff") }

// Touch says that the layer id is used now, and whether it exists. Its diffID leads to it from now on: of
// several layers with one diffID the one that is used stays, and whoever sealed it may have been killed
// before it could be found.
func (s *Store) Touch(id string) (found bool, err error) {
	unlock, err := s.lockTouch()
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	l, err := s.Get(id)
	if err != nil {
		if errors.Is(err, errdefs.ErrNotFound) {
			return false, nil
		}
		return false, err
	}
	now := time.Now()
	err = os.Chtimes(s.record(id), now, now)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && l.DiffID != "" && l.DiffID.Encoded() != id {
		if to, _ := os.Readlink(s.byDiffID(l.DiffID)); to != id {
			err = s.index(l.DiffID, id)
		}
	}
	return err == nil, err
}

// Info is what Walk tells about a layer.
type Info struct {
	Layer
	Used  time.Time // when it was made or touched last
	Stale bool      // it may have been damaged by a power loss: Get does not find it any more
}

// Walk calls fn for each layer of the store, in no order, until fn returns an error. Implicit is not filled in.
func (s *Store) Walk(ctx context.Context, fn func(Info) error) error {
	return s.walk(ctx, func(id string, used time.Time) error { return s.inform(id, used, fn) })
}

// inform calls fn with what the record of a layer says.
func (s *Store) inform(id string, used time.Time, fn func(Info) error) error {
	info := Info{Layer: Layer{ID: id}, Used: used}
	r, err := s.readRecord(id)
	switch {
	case errors.Is(err, errdefs.ErrNotFound):
		return nil
	case errors.Is(err, errdefs.ErrDataLoss):
		info.Stale = true
	case err != nil:
		return err
	default:
		info.Layer, info.Stale = r.layer(), r.stale
	}
	return fn(info)
}

// walk calls fn for each layer with the time of its record.
func (s *Store) walk(ctx context.Context, fn func(id string, used time.Time) error) error {
	return statefile.Scan(s.dir, "/layer.json", func(id string, st *unix.Stat_t) error {
		if ctx.Err() != nil || checkID(id) != nil {
			return context.Cause(ctx)
		}
		return fn(id, time.Unix(st.Mtim.Unix()))
	})
}

// List is Walk for those who want no sizes; those of layers that were unpacked from a tar are left out. It
// costs one system call for each of these, as their names say all and "unsynced" the rest.
func (s *Store) List(ctx context.Context, fn func(Info) error) error {
	unsynced, err := os.ReadDir(s.unsynced(""))
	if err != nil {
		return err
	}
	doubtful := map[string]bool{}
	for _, e := range unsynced {
		doubtful[e.Name()] = true
	}
	return s.walk(ctx, func(id string, used time.Time) error {
		if !strings.HasPrefix(id, builtPrefix) && !doubtful[id] {
			l := Layer{ID: id, DiffID: digest.NewDigestFromEncoded(digest.SHA256, id)}
			return fn(Info{Layer: l, Used: used})
		}
		return s.inform(id, used, fn)
	})
}

// Size returns about how many bytes the layer id has on the disk, or 0 if nobody knows.
func (s *Store) Size(id string) int64 {
	r, err := s.readRecord(id)
	if err != nil {
		return 0
	}
	return r.Size
}

func (s *Store) record(id string) string { return filepath.Join(s.dir, id, "layer.json") }

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) byDiffID(d digest.Digest) string {
	return filepath.Join(s.dir, "by-diffid", d.Encoded())
}

// newID names a layer that was built.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return builtPrefix + hex.EncodeToString(b[:])
}

// checkID keeps what is no ID out of paths.
func checkID(id string) error {
	want, digits := 64, id
	if rest, ok := strings.CutPrefix(id, builtPrefix); ok {
		want, digits = 32, rest
	}
	if len(digits) != want || strings.Trim(digits, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is not the ID of a layer: %w", shorten(id), errdefs.ErrNotFound)
	}
	return nil
}

func checkDiffID(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("diffID %q: %w: %w", shorten(d.String()), err, errdefs.ErrInvalidArgument)
	}
	if d.Algorithm() != digest.SHA256 {
		return fmt.Errorf("diffID %s: only sha256 is supported: %w", d, errdefs.ErrInvalidArgument)
	}
	return nil
}
