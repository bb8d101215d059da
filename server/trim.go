package server

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Trim lets go of the pages of the program itself. A server's start goes through most of the
// program once, to initialise every package it is linked from; what is needed again comes back
// from the page cache, and the rest does not count as the server's memory for ever.
func Trim() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	lines := bufio.NewScanner(maps)
	for lines.Scan() {
		if begin, end, ok := unchanged(lines.Text(), program); ok {
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, begin, end-begin, unix.MADV_DONTNEED); errno != 0 {
				return os.NewSyscallError("madvise", errno)
			}
		}
	}
	return lines.Err()
}

// unchanged reads a line of /proc/PID/maps, proc_pid_maps(5), and says whether it is a part of the
// program that nobody can have written to: what was written would be lost.
func unchanged(line, program string) (begin, end uintptr, ok bool) {
	var mode, offset, device, inode string
	if _, err := fmt.Sscanf(line, "%x-%x %s %s %s %s", &begin, &end, &mode, &offset, &device, &inode); err != nil {
		return 0, 0, false
	}
	return begin, end, (mode == "r-xp" || mode == "r--p") && inode != "0" && strings.HasSuffix(line, " "+program)
}
