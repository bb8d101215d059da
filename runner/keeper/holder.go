package keeper

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/tinyelf"
)

// holder is a sleeping process that shares descriptors with the keeper, so that their
// files outlive it:
//
//   - a pidfd of the container, through which the kernel tells its exit status for as
//     long as it is open;
//   - our ends of the FIFOs, which would be emptied if nobody had them open;
//   - the master of the terminal, whose loss would hang up the container.
//
// The next keeper takes them from there. The program is a few instructions long, as
// there is one holder for every container.
//
// A holder ends with its keeper until that has put it on record in the container's run
// directory and told it to stay. So there is never one that nobody finds.
type holder struct {
	id     statefile.Process
	own    bool     // our child
	stay   *os.File // tells it to stay; nil once that was said
	record string   // path of its record, should it be ours; or ""
}

// Commands that were executed in the container, and whose clients have gone, have holders too: of the ends of their
// output, as heldOutput.

// The descriptors of a holder. Only one of heldInput and heldConsole is there.
const (
	heldPidfd = 3 + iota
	heldInput
	heldConsole
	heldOutput // and one more
)

// startHolder starts the holder of a run.
func startHolder(pidfd *os.File, s *stdio) (*holder, error) {
	h, err := forkHolder(pidfd, s)
	if err != nil {
		return nil, err
	}
	if err := h.keep(s.cfg.RunDir, recordPrefix); err != nil {
		h.end()
		return nil, err
	}
	return h, nil
}

// forkHolder starts a holder that ends with its keeper, unless keep was called before.
func forkHolder(pidfd *os.File, s *stdio) (*holder, error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("pipe: %w", err)
	}
	in, stay := os.NewFile(uintptr(pipe[0]), "pipe"), os.NewFile(uintptr(pipe[1]), "pipe")
	defer in.Close()
	h, err := executeHolder(in, pidfd, s)
	if err != nil {
		stay.Close()
		return nil, err
	}
	h.stay = stay
	return h, nil
}

// keep puts the holder on record and tells it to stay.
func (h *holder) keep(runDir, prefix string) error {
	if err := h.putOnRecord(runDir, prefix); err != nil {
		return err
	}
	h.stay.Write([]byte{1}) // it fails if the holder was killed, which is noticed elsewhere
	h.stay.Close()
	h.stay = nil
	return nil
}

func executeHolder(in, pidfd *os.File, s *stdio) (*holder, error) {
	exe, err := tinyelf.Memfd("teu-holder", tinyelf.Sleep())
	if err != nil {
		return nil, err
	}
	defer unix.Close(exe)
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(null)
	files := []uintptr{in.Fd(), uintptr(null), uintptr(null)}
	input := s.in
	if s.console != nil {
		input = nil
	}
	for _, f := range []*os.File{pidfd, input, s.console, s.out[0], s.out[1]} {
		fd := null
		if f != nil {
			fd = descriptor(f)
		}
		files = append(files, uintptr(fd))
	}
	// Not os.StartProcess: it would take the files away from the poller.
	pid, err := syscall.ForkExec(executable(uintptr(exe)), []string{"teu-keeper", "hold"},
		&syscall.ProcAttr{Dir: "/", Files: files})
	runtime.KeepAlive(in)
	runtime.KeepAlive(s)
	runtime.KeepAlive(pidfd)
	if err != nil {
		return nil, fmt.Errorf("starting a holder: %w", err)
	}
	h := &holder{own: true}
	if h.id, err = identifyChild(pid); err != nil {
		h.id.PID = pid
		h.end()
		return nil, err
	}
	return h, nil
}

// recordPrefix and commandPrefix begin the names of the records of holders, of the container and of commands: symbolic
// links, whose target says which process it is.
const (
	recordPrefix  = "holder."
	commandPrefix = "command."
)

func (h *holder) putOnRecord(runDir, prefix string) error {
	b, err := coldjson.Marshal(h.id)
	if err != nil {
		return err
	}
	h.record = filepath.Join(runDir, prefix+strconv.Itoa(h.id.PID))
	err = os.Symlink(string(b), h.record)
	if errors.Is(err, fs.ErrExist) { // of an earlier process with this pid
		err = errors.Join(os.Remove(h.record), os.Symlink(string(b), h.record))
	}
	return err
}

// recorded returns the holders on record in a run directory, dead ones too.
func recorded(runDir string, prefixes ...string) ([]*holder, error) {
	entries, err := os.ReadDir(runDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []*holder
	for _, e := range entries {
		if !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(e.Name(), p) }) {
			continue
		}
		h := &holder{record: filepath.Join(runDir, e.Name())}
		text, err := os.Readlink(h.record)
		if errors.Is(err, fs.ErrNotExist) { // somebody else ends them at the same time
			continue
		}
		if err == nil {
			err = coldjson.Unmarshal([]byte(text), &h.id)
		}
		if err != nil {
			return nil, fmt.Errorf("reading the record of a holder: %w", err)
		}
		all = append(all, h)
	}
	return all, nil
}

// take returns a descriptor of a holder that an earlier keeper started.
func (h *holder) take(which int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(h.id.PID, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open %d: %w", h.id.PID, err)
	}
	defer unix.Close(pidfd)
	if !h.id.Alive() {
		return nil, fmt.Errorf("holder %d: %w", h.id.PID, unix.ESRCH)
	}
	fd, err := unix.PidfdGetfd(pidfd, which, 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_getfd of %d: %w", h.id.PID, err)
	}
	return os.NewFile(uintptr(fd), "held"), nil
}

// wait returns when the holder has ended. It costs no thread.
func (h *holder) wait() error {
	fd, err := unix.PidfdOpen(h.id.PID, unix.PIDFD_NONBLOCK)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd_open %d: %w", h.id.PID, err)
	}
	f := os.NewFile(uintptr(fd), "holder")
	defer f.Close()
	if !h.id.Alive() {
		return nil
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return n > 0 || err != nil && err != unix.EINTR
	})
}

// end ends the holder. It may be nil.
func (h *holder) end() {
	switch {
	case h == nil:
		return
	case h.own:
		unix.Kill(h.id.PID, unix.SIGKILL)
		unix.Wait4(h.id.PID, nil, 0, nil)
	case h.id.Alive():
		unix.Kill(h.id.PID, unix.SIGKILL)
	}
	if h.stay != nil {
		h.stay.Close()
	}
	if h.record != "" {
		os.Remove(h.record)
	}
}

// EndHolders ends what holders there are of a container that has no keeper and does not run.
// s is its state.
func EndHolders(runDir string, s State) error {
	all, err := recorded(runDir, recordPrefix, commandPrefix)
	for _, h := range append(all, &holder{id: s.Holder}) { // which may be of a keeper that made no records
		h.end()
	}
	return err
}

// identifyChild is statefile.Identify for a child that has not been waited for; it may
// have ended.
func identifyChild(pid int) (statefile.Process, error) {
	id, err := statefile.Identify(pid)
	if err == nil {
		return id, nil
	}
	boot, err := statefile.BootID()
	return statefile.Process{PID: pid, BootID: boot}, err
}
