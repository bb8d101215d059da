package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// maxFile is above everything the kernel writes into one of its files, except lists of
// processes, which are read by line.
const maxFile = 1 << 20

// readFile returns the content of a file of the kernel without the last newline.
func readFile(dir, file string) (string, error) {
	b, err := statefile.ReadFile(filepath.Join(dir, file), maxFile)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(b), "\n"), nil
}

// writeFile writes value in one call, as the kernel wants it. The file must exist.
func writeFile(dir, file, value string) error {
	path := filepath.Join(dir, file)
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	for {
		// While the kernel makes room for a lower limit of v1, any signal ends the call: one of the Go runtime's, too.
		if _, err = unix.Write(fd, []byte(value)); err != unix.EINTR {
			break
		}
	}
	if err := errors.Join(err, unix.Close(fd)); err != nil {
		return fmt.Errorf("writing %q: %w", value, &os.PathError{Op: "write", Path: path, Err: err})
	}
	return nil
}

// readUint reads a number; "max" and absurdly large ones, which mean no limit, are 0.
func readUint(dir, file string) (uint64, error) {
	s, err := readFile(dir, file)
	if err != nil || s == "max" {
		return 0, err
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", filepath.Join(dir, file), err)
	}
	if n >= 1<<62 {
		return 0, nil
	}
	return n, nil
}

// readKeys reads a file of "key value" lines, all of them or those with the keys named.
func readKeys(dir, file string, keys ...string) (map[string]uint64, error) {
	s, err := readFile(dir, file)
	if err != nil {
		return nil, err
	}
	m := map[string]uint64{}
	for line := range strings.Lines(s) {
		key, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if len(keys) > 0 && !slices.Contains(keys, key) {
			continue
		}
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			m[key] = n
		}
	}
	return m, nil
}

// readPids reads a list of processes. That of a threaded group cannot be read, and they are in that of the
// group above that is not; cgroup-v2.rst, "Threads".
func readPids(dir string) ([]int, error) {
	f, err := os.Open(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var pids []int
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if n, err := strconv.Atoi(lines.Text()); err == nil && n > 0 {
			pids = append(pids, n)
		}
	}
	if err := lines.Err(); !errors.Is(err, unix.EOPNOTSUPP) {
		return pids, err
	}
	return nil, nil
}

func absent(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) }
