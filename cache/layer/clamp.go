package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// Clamp returns the layer that Seal with epoch would have made of id, which was sealed with
// another epoch or none: a second layer, unless no file is later than epoch. A layer that came
// from a tar is returned as it is.
func (s *Store) Clamp(ctx context.Context, id string, epoch time.Time) (Layer, error) {
	r, err := s.sealable(id)
	if err != nil {
		return Layer{}, err
	}
	epoch = epoch.UTC().Truncate(time.Second)
	if !r.Sealed || r.Epoch != nil && r.Epoch.Equal(epoch) {
		return r.layer(), nil
	}
	h := sha256.New()
	if _, err := writeTar(ctx, s.Path(id), h, r.UserXattr, &epoch); err != nil {
		return Layer{}, fmt.Errorf("computing the diffID of the layer %s: %w", id, err)
	}
	want := digest.NewDigest(digest.SHA256, h)
	if l, err := s.ByDiffID(want); !errors.Is(err, errdefs.ErrNotFound) {
		return l, err
	}
	pr, pw := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := writeTar(ctx, s.Path(id), pw, r.UserXattr, &epoch)
		pw.CloseWithError(err)
	}()
	l, err := s.Apply(ctx, want, pr)
	pr.Close()
	<-done
	return l, err
}
