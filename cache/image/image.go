// Package image owns the names of local images.
//
//	DIR/names/HEX.json       HEX is the sha256 of the name, which may be longer than a file name
//	DIR/dangling/HEX.json    targets that lost their last name to a newer image
//	DIR/names.list           what was in names, in one file; likewise dangling.list. See list.go
//	DIR/lock                 one writer at a time; readers never lock
//
// It does not know what a target consists of, nor whether its blobs are there.
package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/statefile"
)

// An Image is a name and what it stands for. Several names may stand for one target.
type Image struct {
	Name    string             `json:"name"`    // canonical, docker.io/library/x:tag; "" when dangling
	Target  ocispec.Descriptor `json:"target"`  // manifest or index
	Created time.Time          `json:"created"` // when the record was made
}

// Store holds the images of one machine. Any number of processes may use one directory.
type Store struct {
	dir     string
	targets string // see Follow
}

// Open opens the names in dir and makes it if it is not there.
func Open(dir string) (*Store, error) {
	for _, sub := range []string{"names", "dangling"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return nil, fmt.Errorf("opening the image names: %w", err)
		}
	}
	return &Store{dir: dir}, nil
}

// Follow makes Put sync the directory of the blobs that names stand for first, so that no name survives a
// power loss that they do not. It is called before the store is used.
func (s *Store) Follow(dir string) { s.targets = dir }

func (s *Store) namePath(name string) string {
	return filepath.Join(s.dir, "names", digest.FromString(name).Encoded()+".json")
}

func (s *Store) danglingPath(target digest.Digest) string {
	return filepath.Join(s.dir, "dangling", digest.FromString(string(target)).Encoded()+".json")
}

// Put records img, durably. If its name stood for another target that no other name
// stands for, that target stays as a dangling image. An empty name records a dangling image,
// unless a name stands for it. A zero Created means now.
func (s *Store) Put(ctx context.Context, img Image) error { return s.put(ctx, img, false) }

// Keep is Put that leaves the record of a name as it is that stands for the very target already: to sync what has
// been synced costs little, to write it again does not.
func (s *Store) Keep(ctx context.Context, img Image) error { return s.put(ctx, img, true) }

func (s *Store) put(ctx context.Context, img Image, keep bool) (err error) {
	if err := check(img); err != nil {
		return err
	}
	if img.Created.IsZero() {
		img.Created = time.Now().UTC()
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if img.Name == "" {
		return s.dangle(ctx, img)
	}
	old, err := s.Get(img.Name)
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	// The old target is kept before its name goes: whoever reads in between sees both.
	if err == nil && old.Target.Digest != img.Target.Digest {
		if err := s.dangle(ctx, Image{Target: old.Target, Created: old.Created}, img.Name); err != nil {
			return err
		}
	}
	if keep && err == nil && reflect.DeepEqual(old.Target, img.Target) {
		return s.settle(img, func(path string) error { return statefile.SyncDir(filepath.Dir(path)) }) // whoever wrote it may have died before
	}
	return s.write(img)
}

// write writes the record of a name.
func (s *Store) write(img Image) error {
	return s.settle(img, func(path string) error { return statefile.Write(path, img, statefile.WriteOptions{Durable: true}) })
}

// settle makes sure of the record of a name, and of what it stands for.
func (s *Store) settle(img Image, record func(path string) error) error {
	var err error
	if s.targets != "" {
		err = statefile.SyncDir(s.targets)
	}
	if err == nil {
		err = record(s.namePath(img.Name))
	}
	if err != nil {
		return fmt.Errorf("naming image %s: %w", img.Name, err)
	}
	return s.remove(s.danglingPath(img.Target.Digest)) // it has a name now
}

// Replace has the image that was read as old stand for another target, which is the same image in other clothes: old does not
// become a dangling image. A name that meanwhile stands for another one, or none, is an errdefs.ErrNotFound and stays.
func (s *Store) Replace(ctx context.Context, old Image, target ocispec.Descriptor) (err error) {
	made := Image{Name: old.Name, Target: target, Created: old.Created}
	if err := check(made); err != nil {
		return err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if old.Name == "" {
		if _, err := os.Stat(s.danglingPath(old.Target.Digest)); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("image %s: %w", old.Target.Digest, errdefs.ErrNotFound)
		}
		if err := s.dangle(ctx, made); err != nil {
			return err
		}
		return s.remove(s.danglingPath(old.Target.Digest))
	}
	if err := s.still(old); err != nil {
		return err
	}
	return s.write(made)
}

// check refuses what could not be read back as it was written.
func check(img Image) error {
	if err := img.Target.Digest.Validate(); err != nil {
		return fmt.Errorf("naming image %q: target: %w: %w", img.Name, errdefs.ErrInvalidArgument, err)
	}
	const longest = 4096 // references are 255 bytes of name and 128 of tag, and a host
	if len(img.Name) > longest || strings.ContainsFunc(img.Name, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '\ufffd' }) {
		return fmt.Errorf("naming image %.300q: not a name: %w", img.Name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// dangle records a target without a name, if no name but the given ones stands for it.
func (s *Store) dangle(ctx context.Context, img Image, except ...string) error {
	named, err := s.read(ctx, "names")
	if err != nil {
		return err
	}
	for _, other := range named {
		if other.Target.Digest == img.Target.Digest && !slices.Contains(except, other.Name) {
			return nil
		}
	}
	return statefile.Write(s.danglingPath(img.Target.Digest), img, statefile.WriteOptions{Durable: true})
}

// Get returns the image of a canonical name, or an errdefs.ErrNotFound.
func (s *Store) Get(name string) (Image, error) {
	var img Image
	err := statefile.Read(s.namePath(name), &img)
	if errdefs.IsNotFound(err) {
		return Image{}, fmt.Errorf("image %s: %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	return img, nil
}

// Delete forgets a name. Its target does not become dangling. A missing name is an errdefs.ErrNotFound.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.delete(ctx, s.namePath(name), name)
}

// DeleteRecord forgets img if it is still as it was read: a name that meanwhile stands for another
// target, or none, is an errdefs.ErrNotFound and stays.
func (s *Store) DeleteRecord(ctx context.Context, img Image) (err error) {
	if img.Name == "" {
		return s.DeleteDangling(ctx, img.Target.Digest)
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := s.still(img); err != nil {
		return err
	}
	return s.remove(s.namePath(img.Name))
}

// still says whether a name stands for what it did. The lock is held.
func (s *Store) still(img Image) error {
	now, err := s.Get(img.Name)
	if err == nil && now.Target.Digest != img.Target.Digest {
		err = fmt.Errorf("image %s is another one now: %w", img.Name, errdefs.ErrNotFound)
	}
	return err
}

// DeleteDangling forgets the dangling image of a target. A missing one is an errdefs.ErrNotFound.
func (s *Store) DeleteDangling(ctx context.Context, target digest.Digest) error {
	return s.delete(ctx, s.danglingPath(target), string(target))
}

func (s *Store) delete(ctx context.Context, path, what string) (err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("image %s: %w", what, errdefs.ErrNotFound)
	}
	return s.remove(path)
}

// remove removes a record durably; a missing one is no error.
func (s *Store) remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return statefile.SyncDir(filepath.Dir(path))
}

// All returns every image, sorted by name, the dangling ones last, oldest first.
func (s *Store) All(ctx context.Context) ([]Image, error) {
	// Dangling ones before and after, so that an image which meanwhile gets a name, or loses it to
	// another, may be seen twice, but is not missed.
	dangling, err := s.read(ctx, "dangling")
	if err != nil {
		return nil, err
	}
	named, err := s.read(ctx, "names")
	if err != nil {
		return nil, err
	}
	after, err := s.read(ctx, "dangling")
	if err != nil {
		return nil, err
	}
	for _, img := range after {
		same := func(other Image) bool { return other.Target.Digest == img.Target.Digest }
		if !slices.ContainsFunc(dangling, same) {
			dangling = append(dangling, img)
		}
	}
	slices.SortFunc(named, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(dangling, func(a, b Image) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(string(a.Target.Digest), string(b.Target.Digest)))
	})
	return append(named, dangling...), nil
}

// Snapshot is All while nobody writes. Where one name is made for an image and another of it
// goes, All might come too early for the one and too late for the other; a collection must not.
func (s *Store) Snapshot(ctx context.Context) (_ []Image, err error) {
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return s.All(ctx)
}

// readFiles returns the records of one directory. One that was damaged by a power loss names nothing.
func (s *Store) readFiles(ctx context.Context, dir string) ([]Image, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	var all []Image
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		var img Image
		err := statefile.Read(filepath.Join(dir, e.Name()), &img)
		if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("listing images: %w", err)
		}
		all = append(all, img)
	}
	return all, nil
}

// lock excludes other writers. They hold it for a few fsyncs.
func (s *Store) lock(ctx context.Context) (unlock func() error, err error) {
	return statefile.Lock(ctx, filepath.Join(s.dir, "lock"), statefile.LockOptions{})
}
