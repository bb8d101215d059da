// Package image owns the names of local images.
package image

import (
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var errTODO = errors.New("not written yet")

// An Image is a name and what it stands for. Several names may stand for one target.
type Image struct {
	Name    string             `json:"name"`    // canonical, docker.io/library/x:tag; "" when dangling
	Target  ocispec.Descriptor `json:"target"`  // manifest or index
	Created time.Time          `json:"created"` // when the record was made
}

// Store holds the images of one machine.
type Store struct {
	dir string
}

// Open opens the names in dir and makes it if it is not there.
func Open(dir string) (*Store, error) { return nil, errTODO }

// Put records img, durably. If its name stood for another target that no other name
// stands for, that target stays as a dangling image. An empty name records a dangling image.
func (s *Store) Put(ctx context.Context, img Image) error { return errTODO }

// Get returns the image of a canonical name.
func (s *Store) Get(name string) (Image, error) { return Image{}, errTODO }

// Delete forgets a name. Its target does not become dangling.
func (s *Store) Delete(ctx context.Context, name string) error { return errTODO }

// DeleteDangling forgets the dangling image of a target.
func (s *Store) DeleteDangling(ctx context.Context, target digest.Digest) error { return errTODO }

// All returns every image, sorted by name, the dangling ones last.
func (s *Store) All(ctx context.Context) ([]Image, error) { return nil, errTODO }
