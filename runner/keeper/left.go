package keeper

import (
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// A command that is executed in the container outlives its client: without a reader it would be ended by SIGPIPE or
// SIGHUP. From then on we read what it writes, and so does the next keeper.

// soonOver is how long after its client a command may go on without a holder: most have ended before.
const soonOver = 20 * time.Millisecond

// outlive reads from the ends of a command's output until nobody writes there any more, and closes them.
func (s *supervisor) outlive(ends []*os.File) {
	if hungUp(ends) { // as nearly always
		closeAll(ends)
		return
	}
	over := make(chan struct{})
	held := polled(ends)
	go func() {
		discard(held)
		close(over)
	}()
	select {
	case <-over:
		return
	case <-time.After(soonOver):
	}
	h, err := s.holdCommand(held)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	<-over
	s.endCommand(h)
}

// hungUp says whether nobody writes to any of the files: poll(2).
func hungUp(files []*os.File) bool {
	fds := make([]unix.PollFd, 0, 3)
	for _, f := range files {
		fds = append(fds, unix.PollFd{Fd: int32(descriptor(f))})
	}
	if _, err := unix.Poll(fds, 0); err != nil {
		return false
	}
	return !slices.ContainsFunc(fds, func(fd unix.PollFd) bool { return fd.Revents&unix.POLLHUP == 0 })
}

// polled takes files and returns them with the poller.
func polled(files []*os.File) (all []*os.File) {
	for _, f := range files {
		p, err := usePoller(f)
		f.Close()
		if err != nil {
			fmt.Fprintln(os.Stderr, "reading the output of a command:", err)
			continue
		}
		all = append(all, p)
	}
	return all
}

func discard(files []*os.File) {
	var read sync.WaitGroup
	for _, f := range files {
		read.Go(func() {
			defer f.Close()
			io.Copy(io.Discard, launch.ConsoleReader{Master: f})
		})
	}
	read.Wait()
}

// holdCommand starts a holder of the ends of a command's output, of which there are two at most.
func (s *supervisor) holdCommand(ends []*os.File) (*holder, error) {
	streams := &stdio{cfg: s.cfg}
	copy(streams.out[:], ends)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return nil, nil
	}
	h, err := forkHolder(nil, streams)
	if err == nil {
		err = h.keep(s.cfg.RunDir, commandPrefix)
	}
	if err != nil {
		h.end()
		return nil, err
	}
	s.keepCommand(h)
	return h, nil
}

// keepCommand notes a holder. mu is held.
func (s *supervisor) keepCommand(h *holder) {
	if s.left == nil {
		s.left = map[*holder]bool{}
	}
	s.left[h] = true
}

// endCommand ends a holder, unless endLeft has.
func (s *supervisor) endCommand(h *holder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left[h] {
		delete(s.left, h)
		h.end()
	}
}

// endLeft ends the holders of commands, of which none is alive when the container has ended.
func (s *supervisor) endLeft() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h := range s.left {
		h.end()
	}
	clear(s.left)
}

// adoptCommands goes on with the commands that another keeper has left.
func (s *supervisor) adoptCommands() {
	all, err := recorded(s.cfg.RunDir, commandPrefix)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, h := range all {
		var ends []*os.File
		for which := range streamNames {
			f, err := h.take(heldOutput + which)
			if err != nil {
				continue // it was killed, or the stream was over
			}
			ends = append(ends, f)
		}
		s.keepCommand(h)
		go func() {
			discard(polled(ends))
			s.endCommand(h)
		}()
	}
}
