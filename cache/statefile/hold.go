package statefile

import (
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// Hold shows everybody that this process lives, until it ends, by the document at path: see Holds. It is a
// read lock of fcntl(2), which belongs to the process and not to those it forks. The process must not open
// the file again, as any close would end it. A document that is written anew is held by nobody.
func Hold(path string) error {
	fd, err := open(path)
	if err != nil {
		return fmt.Errorf("holding %s: %w", path, err)
	}
	lock := unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(uintptr(fd), unix.F_SETLK, &lock); err != nil {
		unix.Close(fd)
		return fmt.Errorf("holding %s: %w", path, err)
	}
	return nil // fd is closed with the process
}

// Holds says whether the process is seen to hold the document at path. Then it lives; if not, only Alive can tell,
// which takes four times as long: that counts for who asks about hundreds.
func (p Process) Holds(path string) bool {
	fd, err := open(path)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	lock := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart} // which a reader's excludes
	err = unix.FcntlFlock(uintptr(fd), unix.F_GETLK, &lock)
	return err == nil && lock.Type != unix.F_UNLCK && lock.Pid > 0 && int(lock.Pid) == p.PID
}
