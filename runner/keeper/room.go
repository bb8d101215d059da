package keeper

import (
	"sync"

	"golang.org/x/sys/unix"
)

// room is how many descriptors are left for the clients of published ports. What clients cannot have is the
// keeper's: for its log, for exec, for the record of the exit. Listeners take of it too, names do not: they are
// answered with a few hundred at the most.
type room struct {
	mu   sync.Mutex
	more sync.Cond
	left int
}

const (
	ownDescriptors  = 1024      // for the keeper itself, or half of what it may have
	mostDescriptors = 6 * 16384 // for clients: what they wait for costs memory as well
	leastRoom       = 6 * 16
)

// newRoom is the room of this process.
func newRoom() *room {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		limit.Cur = 1024 // the usual one
	}
	all := int(min(limit.Cur, ownDescriptors+mostDescriptors))
	return roomOf(max(all-min(ownDescriptors, all/2), leastRoom))
}

func roomOf(n int) *room {
	r := &room{left: n}
	r.more.L = &r.mu
	return r
}

// take waits until there are n descriptors.
func (r *room) take(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.left < n {
		r.more.Wait()
	}
	r.left -= n
}

// try takes n descriptors if there are so many.
func (r *room) try(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left < n {
		return false
	}
	r.left -= n
	return true
}

func (r *room) give(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left += n
	r.more.Broadcast()
}

// shrink takes n descriptors that are in use already, as far as clients keep the least that they need.
func (r *room) shrink(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = max(r.left-n, min(r.left, leastRoom))
}
