package keeper

import (
	"sync"

	"github.com/teu-dev/teu/cache/statefile"
)

// maxQueued is how much output waits for a slow client before the container waits too.
const maxQueued = 256 << 10

// subscriber is a client that gets output. It has a queue, so that several clients
// proceed at their own pace; who is slow slows the container down, as a terminal would,
// but only while the container lives. Of what a keeper has not sent when it dies nothing is
// known to the next; so the pumps go on only when all clients have been sent a chunk.
type subscriber struct {
	conn   *conn
	peer   statefile.Process // the client
	stream [2]bool
	from   [2]int64 // positions before which it wants nothing

	mu     sync.Mutex
	moved  sync.Cond // the queue or a flag has changed
	queue  []outFrame
	size   int  // bytes that have not been sent
	ended  bool // no more frames will come
	broken bool // nobody reads them
	free   bool // the queue is not limited any more
}

type outFrame struct {
	kind    byte
	payload []byte
}

func newSubscriber(c *conn, o AttachOptions) *subscriber {
	s := &subscriber{conn: c, peer: c.peer(), stream: [2]bool{o.Stdout, o.Stderr}}
	s.moved.L = &s.mu
	return s
}

// put queues a frame, after waiting for room.
func (s *subscriber) put(kind byte, payload []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.size > maxQueued && !s.free && !s.broken {
		s.moved.Wait()
	}
	if s.broken || s.ended {
		return
	}
	s.queue = append(s.queue, outFrame{kind, payload})
	s.size += len(payload)
	s.moved.Broadcast()
}

// unlimit lets everything into the queue: the container has ended and its keeper must
// get on.
func (s *subscriber) unlimit() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = true
	s.moved.Broadcast()
}

// end lets run return once the queue is empty.
func (s *subscriber) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.moved.Broadcast()
}

// abandon lets run and put return at once.
func (s *subscriber) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = true
	s.queue, s.size = nil, 0
	s.moved.Broadcast()
}

// run sends the queue.
func (s *subscriber) run() {
	for {
		f, ok := s.next()
		if !ok {
			return
		}
		if err := s.conn.write(f.kind, f.payload); err != nil {
			s.abandon()
			return
		}
		s.sent(f)
	}
}

func (s *subscriber) next() (outFrame, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.queue) == 0 {
		if s.ended || s.broken {
			return outFrame{}, false
		}
		s.moved.Wait()
	}
	f := s.queue[0]
	s.queue = s.queue[1:]
	return f, true
}

// sent notes that a frame is with the client, or in the buffer of its socket.
func (s *subscriber) sent(f outFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size -= len(f.payload)
	s.moved.Broadcast()
}

// awaitSent returns when everything has been sent, or need not be waited for.
func (s *subscriber) awaitSent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.size > 0 && !s.free && !s.broken {
		s.moved.Wait()
	}
}
