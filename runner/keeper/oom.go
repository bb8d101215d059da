package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// noteOOM tells of processes that the kernel killed for memory since it was last asked. mu
// is held.
func (s *supervisor) noteOOM() (news bool) {
	n := oomKills(s.cfg.Cgroup)
	if n <= s.state.OOMKills {
		return false
	}
	s.state.OOMKills, s.state.OOMKilled = n, true
	s.event("oom", nil)
	return true
}

// watchOOM tells of such processes while the container goes on, and returns when that is
// not possible. Until the kernel says something it costs a descriptor.
func (s *supervisor) watchOOM() {
	if s.cfg.Cgroup.OOM == "" {
		return
	}
	note := func() (news bool) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.proc != nil && s.noteOOM() {
			s.save()
			return true
		}
		return false
	}
	if err := watchMemory(s.cfg.Cgroup.OOM, note); err != nil && !errors.Is(err, os.ErrNotExist) { // it has ended
		fmt.Fprintln(os.Stderr, "watching for the end of memory:", err)
	}
}

// watchMemory calls note now, and whenever the kernel has or may have killed a process of
// the cgroup whose memory.events or memory.oom_control is at path. It returns only errors.
func watchMemory(path string, note func() (news bool)) error {
	v1 := filepath.Base(path) == "memory.oom_control"
	f, err := openNotifier(path, v1)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	// The runtime polls edge-triggered, so nothing has to be read from the descriptor.
	return raw.Read(func(uintptr) (done bool) {
		news := note()
		// v1 says it before it kills.
		for wait := time.Millisecond; v1 && !news && wait < time.Second; wait *= 2 {
			time.Sleep(wait)
			news = note()
		}
		return false
	})
}

// openNotifier returns what polls as ready at news: memory.events itself
// (Documentation/admin-guide/cgroup-v2.rst, "[Un]populated Notification"), or an eventfd for
// memory.oom_control (cgroup-v1/memory.rst, "OOM Control").
func openNotifier(path string, v1 bool) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil || !v1 {
		return file, err
	}
	defer file.Close()
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	event := os.NewFile(uintptr(fd), "oom event")
	line := fmt.Sprintf("%d %d", fd, file.Fd())
	err = os.WriteFile(filepath.Join(filepath.Dir(path), "cgroup.event_control"), []byte(line), 0)
	if err != nil {
		event.Close()
		return nil, err
	}
	return event, nil
}

// oomKills counts the processes the kernel killed for memory in the container's cgroup,
// or returns 0 where it cannot be known.
func oomKills(c Cgroup) uint64 {
	if c.OOM == "" {
		return 0
	}
	b, err := os.ReadFile(c.OOM)
	if err != nil {
		return 0
	}
	// Both memory.events and memory.oom_control have a line "oom_kill N".
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "oom_kill "); ok {
			n, _ := strconv.ParseUint(strings.TrimSpace(rest), 10, 64)
			return n
		}
	}
	return 0
}
