package runner

import (
	"bufio"
	"bytes"
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
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	plain, err := os.CreateTemp(filepath.Dir(name), ".log-")
	if err != nil {
		return nil, err
	}
	os.Remove(plain.Name())
	if _, err = io.Copy(plain, zr); err == nil {
		_, err = plain.Seek(0, io.SeekStart)
	}
	if err != nil {
		plain.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return plain, nil
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

// firstTime is the time of the first entry of a log file, which is then read from its
// beginning. Empty: it has none.
func firstTime(f *os.File) string {
	buf := make([]byte, 128<<10)
	n, _ := f.ReadAt(buf, 0)
	line, _, ok := strings.Cut(string(buf[:n]), "\n")
	i := strings.LastIndex(line, `"time":"`)
	if !ok || i < 0 {
		return ""
	}
	t, _, _ := strings.Cut(line[i+len(`"time":"`):], `"`)
	return t
}

// lastTime is the time of the last entry of a log, whose files come the oldest first; nil: it has none. The time ends
// the line.
func lastTime(files []*os.File) []byte {
	for _, f := range slices.Backward(files) {
		st, err := f.Stat()
		if err != nil {
			continue
		}
		end := make([]byte, min(128, st.Size()))
		n, _ := f.ReadAt(end, st.Size()-int64(len(end)))
		mark := []byte(`"time":"`)
		if i := bytes.LastIndex(end[:n], mark); i >= 0 {
			t, _, _ := bytes.Cut(end[i+len(mark):n], []byte{'"'})
			return t
		}
	}
	return nil
}
