package build

import (
	"context"
	"sync"
	"time"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/layer"
)

// A sealer computes the diffIDs of new layers beside the steps that follow, and compresses and sends
// them if they are to travel, so that little is left to do at the end. Failures are found again there.
type sealer struct {
	ctx   context.Context // of the build: the end of the step that made a layer does not end its sealing
	stop  context.CancelFunc
	store *cache.Store
	// mediaType is what the layers are compressed to; "": they are not.
	mediaType string
	send      func(ctx context.Context, id string) error
	slots     chan struct{}
	wg        sync.WaitGroup

	mu   sync.Mutex
	seen map[string]bool
}

func (s *sealer) seal(r op.Result, epoch *time.Time) {
	for _, l := range r.Layers {
		if l.DiffID != "" || !s.first(l.ID) {
			continue
		}
		s.wg.Go(func() {
			select {
			case <-s.ctx.Done():
				return
			case s.slots <- struct{}{}:
			}
			defer func() { <-s.slots }()
			if sealed, err := s.sealOne(l.ID, epoch); err == nil {
				_ = s.send(s.ctx, sealed.ID)
			}
		})
	}
}

func (s *sealer) sealOne(id string, epoch *time.Time) (layer.Layer, error) {
	if s.mediaType == "" {
		return s.store.Layers.Seal(s.ctx, id, epoch)
	}
	return s.store.SealCompressed(s.ctx, id, epoch, s.mediaType)
}

func (s *sealer) first(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen == nil {
		s.seen = map[string]bool{}
	}
	seen := s.seen[id]
	s.seen[id] = true
	return !seen
}

// wait returns when nothing is being sealed any more.
func (s *sealer) wait() { s.wg.Wait() }
