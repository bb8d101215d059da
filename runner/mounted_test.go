package runner

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// What a container has read-only is so for cp, too, also on kernels without mount_setattr(2).
func TestBindAt(t *testing.T) {
	privilege.NeedRoot(t)
	for _, without := range []bool{false, true} {
		for _, writable := range []bool{false, true} {
			t.Run(fmt.Sprintf("without setattr %v, writable %v", without, writable), func(t *testing.T) {
				done := make(chan error)
				go func() {
					runtime.LockOSThread() // never unlocked: the thread, its mounts and its filter end with the goroutine
					done <- bindAndWrite(t.TempDir(), without, writable)
				}()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
		}
	}
}

func bindAndWrite(dir string, without, writable bool) error {
	source, target := filepath.Join(dir, "source"), filepath.Join(dir, "target")
	if err := errors.Join(os.MkdirAll(source+"/below", 0o755), os.Mkdir(target, 0o755), unix.Unshare(unix.CLONE_NEWNS),
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("t", source+"/below", "tmpfs", unix.MS_NOSUID, "")); err != nil {
		return err
	}
	if without {
		if err := denySetattr(); err != nil {
			return err
		}
	}
	at, err := os.OpenFile(target, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer at.Close()
	if err := bindAt(source, at, writable); err != nil {
		return err
	}
	for _, file := range []string{"/file", "/below/file"} {
		if err := os.WriteFile(target+file, nil, 0o644); writable != (err == nil) || !writable && !errors.Is(err, unix.EROFS) {
			return fmt.Errorf("writing %s: %v", file, err)
		}
	}
	return nil
}

// denySetattr makes mount_setattr(2) a call this thread does not have.
func denySetattr() error {
	filter := []unix.SockFilter{ // seccomp(2); nr is the first field of struct seccomp_data
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_MOUNT_SETATTR, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}
