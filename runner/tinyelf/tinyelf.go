// Package tinyelf makes executables of a few instructions, for what a Go program cannot be:
// a process that only sleeps, and one of a single thread that changes its user namespace.
package tinyelf

import (
	"encoding/binary"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Sleep is the code of a process that reads a byte from its standard input and then sleeps
// for ever. It ends if no byte can come any more: who starts it with the end of a pipe, and
// gives it a byte only when the process is on record, leaves none that nobody knows of.
//
// It has no capabilities. So that nobody else in its user namespace gets at its root directory
// by /proc, which takes no more than the same user, it is not dumpable (ptrace(2), PR_SET_DUMPABLE(2const)).
func Sleep() []byte { return sleep }

// SleepIn is the code of a process that joins the user namespace behind a descriptor, becomes root
// there, makes the namespaces of flags (clone(2)), which belong to it, and says so by a byte on
// standard output; then it is Sleep. When a call fails it says so on standard error and ends with the
// errno as its exit code.
func SleepIn(user int, flags uintptr) []byte {
	code := append([]byte(nil), failure...)
	for _, call := range [][]uint32{
		{unix.SYS_SETNS, uint32(user), unix.CLONE_NEWUSER},
		{unix.SYS_SETRESGID, 0, 0, 0},
		{unix.SYS_SETRESUID, 0, 0, 0},
		{unix.SYS_UNSHARE, uint32(flags)},
		{unix.SYS_WRITE, 1, base, 1},
	} {
		code = appendCall(code, call[0], call[1:]...)
	}
	return append(code, sleep...)
}

// complaint is what Enter says before it ends with an errno; a multiple of four bytes.
const complaint = "teu: joining the user's namespaces failed, see docs/rootless.md\n"

// Enter is the code of a process that joins the user and the mount namespace behind two
// descriptors, which it closes, becomes root there, and executes its argument 0 in the
// directory argument 1 with the arguments from 2 on and its environment. When a call fails
// it says so and ends with the errno as its exit code.
func Enter(user, mounts int) []byte {
	code := append([]byte(nil), failure...)
	for _, call := range [][]uint32{
		{unix.SYS_SETNS, uint32(user), unix.CLONE_NEWUSER},
		{unix.SYS_SETNS, uint32(mounts), unix.CLONE_NEWNS},
		{unix.SYS_CLOSE, uint32(user)},
		{unix.SYS_CLOSE, uint32(mounts)},
		{unix.SYS_SETRESGID, 0, 0, 0},
		{unix.SYS_SETRESUID, 0, 0, 0},
	} {
		code = appendCall(code, call[0], call[1:]...)
	}
	return appendExecute(code)
}

// Memfd returns a descriptor of an executable with the code, in memory; it is closed on
// execve and the caller's. It is not sealed, which takes milliseconds: nobody else can open it.
func Memfd(name string, code []byte) (int, error) {
	entry := uint64(0)
	if len(code) > len(failure) && string(code[:len(failure)]) == string(failure) {
		entry = uint64(len(failure))
	}
	elf := image(code, entry)
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_EXEC)
	if err == unix.EINVAL { // MFD_EXEC is of Linux 6.3
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	}
	if err != nil {
		return -1, fmt.Errorf("memfd_create: %w", err)
	}
	if n, err := unix.Write(fd, elf); err != nil || n < len(elf) {
		unix.Close(fd)
		return -1, &os.PathError{Op: "write", Path: "memfd:" + name, Err: err}
	}
	return fd, nil
}

// base is where an executable is in memory.
const base = 0x400000

// image is an ELF header, one segment, and the code; elf(5).
func image(code []byte, entry uint64) []byte {
	const headers = 64 + 56
	size := uint64(headers + len(code))
	elf := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	half := func(v ...uint16) { elf, _ = binary.Append(elf, binary.LittleEndian, v) }
	word := func(v ...uint32) { elf, _ = binary.Append(elf, binary.LittleEndian, v) }
	long := func(v ...uint64) { elf, _ = binary.Append(elf, binary.LittleEndian, v) }
	half(2, machine) // executable
	word(1)
	long(base+headers+entry, 64, 0) // entry, program headers, no section headers
	word(0)
	half(64, 56, 1, 64, 0, 0)
	word(1, 5) // to be loaded, readable and executable
	long(0, base, base, size, size, 0x1000)
	return append(elf, code...)
}
