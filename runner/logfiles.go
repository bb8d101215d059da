package runner

import (
	"bufio"
	"bytes"
	"compress/flate"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// openLogs opens the files of a log, the oldest first. Files that a rotation moves while
// they are being opened make it begin again.
func openLogs(path string) ([]*os.File, error) {
	const turns = 20
	for turn := 0; ; turn++ {
		before := logNames(path)
		files, err := openAll(before)
		if err == nil && slices.Equal(before, logNames(path)) && isCurrent(files, path) || turn == turns {
			return files, err
		}
		closeFiles(files)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
}

// logNames are the files of a log, the oldest first. Of one that is being compressed there
// are two forms; the plain one counts.
func logNames(path string) []string {
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		return nil
	}
	names := map[int]string{}
	for _, d := range entries {
		rest, ok := strings.CutPrefix(d.Name(), filepath.Base(path))
		if !ok {
			continue
		}
		n := 0
		number, packed := strings.CutSuffix(rest, ".gz")
		if rest != "" {
			if n, err = strconv.Atoi(strings.TrimPrefix(number, ".")); err != nil || n < 1 || number[0] != '.' {
				continue
			}
		}
		if names[n] == "" || !packed {
			names[n] = path + rest
		}
	}
	numbers := make([]int, 0, len(names))
	for n := range names {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	slices.Reverse(numbers)
	var list []string
	for _, n := range numbers {
		list = append(list, names[n])
	}
	return list
}

func openAll(names []string) (files []*os.File, err error) {
	for _, name := range names {
		f, err := openLog(name)
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// openLog opens one file. A compressed one is unpacked into a file without a name.
func openLog(name string) (*os.File, error) {
	f, err := os.Open(name)
	if err != nil || !strings.HasSuffix(name, ".gz") {
		return f, err
	}
	defer f.Close()
	zr, err := gzip.NewReader(bufio.NewReaderSize(f, 256<<10))
	if damaged(err) {
		return os.Open(os.DevNull)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	plain, err := os.CreateTemp(filepath.Dir(name), ".log-")
	if err == nil {
		os.Remove(plain.Name())
		if err = unpack(plain, zr); err == nil {
			return plain, nil
		}
		plain.Close()
	}
	// A disk that is full or broken is when logs are read.
	fd, e := unix.MemfdCreate("log", unix.MFD_CLOEXEC)
	if e != nil {
		return nil, fmt.Errorf("%s: %w", name, errors.Join(err, e))
	}
	plain = os.NewFile(uintptr(fd), "log")
	if _, err = f.Seek(0, io.SeekStart); err == nil {
		if err = zr.Reset(bufio.NewReaderSize(f, 256<<10)); err == nil {
			err = unpack(plain, zr)
		}
	}
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return plain, nil
}

// damaged says whether err comes from what a compressed file holds. The others of the log can be read all the same.
func damaged(err error) bool {
	var corrupt flate.CorruptInputError
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, gzip.ErrHeader) || errors.Is(err, gzip.ErrChecksum) ||
		errors.As(err, &corrupt)
}

// unpack writes everything into a file, as far as it is not damaged, and goes back to its beginning.
func unpack(to *os.File, from io.Reader) error {
	if _, err := io.Copy(to, from); err != nil && !damaged(err) {
		return err
	}
	_, err := to.Seek(0, io.SeekStart)
	return err
}

// isCurrent says whether the newest of the files is still the one that is written.
func isCurrent(files []*os.File, path string) bool {
	now, err := os.Stat(path)
	if err != nil {
		return len(files) == 0 || errors.Is(err, fs.ErrNotExist)
	}
	if len(files) == 0 {
		return false
	}
	st, err := files[len(files)-1].Stat()
	return err == nil && os.SameFile(st, now)
}

// newer returns those of the files of a log, the oldest first, that came after f, which has been rotated away: all if it has
// been dropped since. By then it may have been compressed, and clocks go back: it is known by how it begins.
func newer(files []*os.File, f *os.File) []*os.File {
	first := firstLine(f)
	for i, other := range files[:len(files)-1] {
		if len(first) > 0 && bytes.Equal(firstLine(other), first) {
			return files[i+1:]
		}
	}
	if len(first) == 0 { // it may be any of them
		return files[len(files)-1:]
	}
	return files
}

// firstLine is the first entry of a log file, with its time, which no other has.
func firstLine(f *os.File) []byte {
	line, err := bufio.NewReader(io.NewSectionReader(f, 0, 1<<62)).ReadBytes('\n')
	if err != nil {
		return nil
	}
	return line
}
