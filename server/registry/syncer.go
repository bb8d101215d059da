package registry

import (
	"errors"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// syncer makes names durable: a file that was linked into a directory is found there after
// a power cut once the directory is synced, and the directories it is in have been.
//
// Requests that change one directory at the same time share its fsync.
type syncer struct {
	root  string // exists, and is durable
	fsync func(dir string) error

	mu     sync.Mutex
	known  map[string]bool // directories whose own name is durable
	queues map[string]*syncQueue
}

// syncQueue is the fsyncs of one directory: at most one runs and one waits.
type syncQueue struct {
	users int        // guarded by syncer.mu
	next  *syncBatch // guarded by syncer.mu

	running sync.Mutex
}

// syncBatch is one fsync to come, for everybody who changed the directory before it begins.
type syncBatch struct {
	done bool // guarded by syncQueue.running
	err  error
}

// maxKnown bounds the memory of directories; it is only there to save system calls.
const maxKnown = 1 << 17

func newSyncer(root string) *syncer {
	return &syncer{root: root, fsync: syncDir, known: map[string]bool{root: true}, queues: map[string]*syncQueue{}}
}

// dir syncs what was linked into or removed from a directory before the call.
func (s *syncer) dir(path string) error {
	s.mu.Lock()
	q := s.queues[path]
	if q == nil {
		q = &syncQueue{}
		s.queues[path] = q
	}
	q.users++
	if q.next == nil {
		q.next = &syncBatch{}
	}
	batch := q.next
	s.mu.Unlock()

	q.running.Lock()
	if !batch.done {
		s.mu.Lock()
		q.next = nil // whoever comes from now on may be too late for us
		s.mu.Unlock()
		batch.err, batch.done = s.fsync(path), true
	}
	err := batch.err
	q.running.Unlock()

	s.mu.Lock()
	if q.users--; q.users == 0 {
		delete(s.queues, path)
	}
	s.mu.Unlock()
	return err
}

// dirs is dir for several at once, which share what the file system writes.
func (s *syncer) dirs(paths []string) error {
	var others errgroup.Group
	for _, path := range paths[1:] {
		others.Go(func() error { return s.dir(path) })
	}
	return errors.Join(s.dir(paths[0]), others.Wait())
}

func syncDir(path string) error {
	fd, err := openFD(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	err = retry("fsync", path, func() error { return unix.Fsync(fd) })
	return errors.Join(err, unix.Close(fd))
}

// mkdir makes a directory below the root, with its parents, and their names durable. That
// they exist is not enough: another server may have made them a moment ago.
func (s *syncer) mkdir(path string) error {
	s.mu.Lock()
	known := s.known[path]
	s.mu.Unlock()
	if known {
		if _, err := os.Lstat(path); err == nil { // nobody removed it by hand
			return nil
		}
	}
	parent := filepath.Dir(path)
	if err := s.mkdir(parent); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := s.dir(parent); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.known) >= maxKnown {
		clear(s.known)
		s.known[s.root] = true
	}
	s.known[path] = true
	return nil
}
