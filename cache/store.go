// Package cache owns everything teu keeps on a machine and can make or fetch again:
// blobs, unpacked layers, snapshots, image names and build results, in one directory.
//
//	ROOT/content/        blobs, an OCI image layout
//	ROOT/layers/         unpacked layers
//	ROOT/compressed/     the blobs a layer was made from or compressed to
//	ROOT/snapshots/      upper directories of containers and build steps
//	ROOT/images/         names
//	ROOT/results/        build cache
//	ROOT/pins/           what running commands protect from collection
//	ROOT/leases/         what containers protect from collection
//	ROOT/gc.lock         see GC
//	ROOT/boot            the boot that used the store last, see recover
//
// Any number of processes may use one root at the same time, and each may be killed at
// any instant. A power loss may lose objects that can be made again, never damage one unseen.
package cache

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/result"
	"github.com/teu-dev/teu/cache/snapshot"
)

// A Store is the state of one root directory. It may be used by many goroutines.
type Store struct {
	Content   *content.Store
	Layers    *layer.Store
	Snapshots *snapshot.Store
	Images    *image.Store
	Results   *result.Store

	root, runRoot string
	lost          []string // names that went with the power
}

// Open opens the store in root, with volatile state in runRoot, and makes both if needed.
func Open(root, runRoot string) (*Store, error) {
	s := &Store{}
	var err error
	if s.root, err = filepath.Abs(root); err != nil {
		return nil, err
	}
	if s.runRoot, err = filepath.Abs(runRoot); err != nil {
		return nil, err
	}
	for _, dir := range []string{s.root, s.runRoot} {
		// Others may pass, as containers with another root user do, but not look around: layers hold
		// setuid files, CVE-2021-41091.
		if err := makeDir(dir, 0o711); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{s.path("content"), s.path("pins"), s.path("leases"), s.path("compressed")} {
		if err := makeDir(dir, 0o700); err != nil {
			return nil, err
		}
	}
	return s, s.open()
}

// open opens the parts.
func (s *Store) open() (err error) {
	if s.Content, err = content.OpenWith(s.path("content"), content.Options{GCLock: s.gcLock()}); err != nil {
		return err
	}
	if s.Layers, err = layer.Open(s.path("layers")); err != nil {
		return err
	}
	s.Layers.Guard(s.gcLock())
	if s.Snapshots, err = snapshot.Open(s.path("snapshots")); err != nil {
		return err
	}
	s.Snapshots.Guard(s.gcLock())
	if s.Images, err = image.Open(s.path("images")); err != nil {
		return err
	}
	s.Images.Follow(s.path("content/blobs/sha256"))
	if s.Results, err = result.Open(s.path("results")); err != nil {
		return err
	}
	return s.recover()
}

// makeDir makes a directory that is not there yet. An administrator may have changed one that is.
func makeDir(dir string, perm os.FileMode) error {
	if fi, err := os.Stat(dir); err == nil && fi.IsDir() {
		return nil
	}
	if err := os.MkdirAll(dir, perm); err != nil {
		return fmt.Errorf("opening the store: %w", err)
	}
	return os.Chmod(dir, perm) // whatever the umask
}

// Root returns the directory given to Open.
func (s *Store) Root() string { return s.root }

// RunRoot returns the directory of volatile state given to Open.
func (s *Store) RunRoot() string { return s.runRoot }

func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.root}, elem...)...)
}

func (s *Store) gcLock() string { return s.path("gc.lock") }
