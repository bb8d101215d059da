package engine

import (
	"context"
	"sync"
	"time"

	"github.com/teu-dev/teu/runner/event"
)

// followers are the requests that follow the logs of containers, by the containers' IDs. A client that hears of a
// container's end stops to listen to its logs, as docker compose up does, so what it has said is told before.
type followers struct {
	mu  sync.Mutex
	all map[string][]*follower
}

// follower is one request for the log of one run.
type follower struct {
	since time.Time
	done  chan struct{} // closed when all is told
}

// saidBefore is how long the end of a container is kept from clients for those who follow its log. More than one look
// at the log, and little enough for a client that does not read what it has asked for.
const saidBefore = 250 * time.Millisecond

// enter notes a request; leave is to be called when all is told.
func (f *followers) enter(id string) (leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	who := &follower{since: time.Now(), done: make(chan struct{})}
	if f.all == nil {
		f.all = map[string][]*follower{}
	}
	f.all[id] = append(f.all[id], who)
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		close(who.done)
		var left []*follower
		for _, other := range f.all[id] {
			if other != who {
				left = append(left, other)
			}
		}
		if f.all[id] = left; left == nil {
			delete(f.all, id)
		}
	}
}

// await lets an event of a container's end wait for those who follow the log of the run that has ended.
func (f *followers) await(ctx context.Context, e event.Event) {
	if e.Type != event.Container || e.Action != "die" {
		return
	}
	f.mu.Lock()
	present := f.all[e.Actor.ID]
	f.mu.Unlock()
	limit := time.NewTimer(saidBefore)
	defer limit.Stop()
	for _, who := range present {
		if who.since.After(time.Unix(0, e.TimeNano)) {
			continue // it follows the next run
		}
		select {
		case <-who.done:
		case <-limit.C:
			return
		case <-ctx.Done():
			return
		}
	}
}
