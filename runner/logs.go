package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
)

// LogOptions choose what Logs shows.
type LogOptions struct {
	Follow       bool
	Tail         int // the last lines only; negative: all
	Since, Until time.Time
	Timestamps   bool
}

// Logs writes what a container has said to stdout and stderr. With Follow it goes on
// until the container has ended.
func (e *Engine) Logs(ctx context.Context, ref string, o LogOptions, stdout, stderr io.Writer) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if c.Options.LogDriver == "none" {
		return fmt.Errorf("the log driver of %s keeps nothing: %w", c.Name, errdefs.ErrNotImplemented)
	}
	files, err := openLogs(e.logFile(c.ID))
	if err != nil {
		return err
	}
	defer func() { closeFiles(files) }()
	p := &logPrinter{o: o, w: [2]*bufio.Writer{bufio.NewWriterSize(stdout, 64<<10), bufio.NewWriterSize(stderr, 64<<10)}}
	if o.Tail >= 0 {
		if files, err = tail(files, o.Tail); err != nil {
			return err
		}
	}
	for _, f := range files {
		if err := p.print(ctx, f); err != nil {
			return err
		}
	}
	if !o.Follow || p.past {
		return p.flush()
	}
	var last *os.File
	if len(files) > 0 {
		last = files[len(files)-1]
		files = files[:len(files)-1]
	}
	return e.follow(ctx, c.ID, p, last)
}

// openLogs opens the files of a log, the oldest first, so that a rotation meanwhile
// changes nothing.
func openLogs(path string) ([]*os.File, error) {
	var files []*os.File
	for i := 0; ; i++ {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			if i == 0 {
				continue // between the steps of a rotation
			}
			return files, nil
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		files = append([]*os.File{f}, files...)
	}
}

// tail positions the files so that n lines are left, and drops those before.
func tail(files []*os.File, n int) ([]*os.File, error) {
	for i := len(files) - 1; i >= 0; i-- {
		found, err := seekTail(files[i], n)
		if err != nil {
			return files, err
		}
		if n -= found; n <= 0 {
			closeFiles(files[:i])
			return files[i:], nil
		}
	}
	return files, nil
}

// seekTail moves f to before its last n lines and returns how many there are, n at most.
func seekTail(f *os.File, n int) (int, error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil || n == 0 {
		return 0, err
	}
	buf := make([]byte, 64<<10)
	lines := 0
	for pos := end; pos > 0; {
		k := min(int64(len(buf)), pos)
		pos -= k
		if _, err := f.ReadAt(buf[:k], pos); err != nil {
			return 0, err
		}
		for b := buf[:k]; ; {
			i := bytes.LastIndexByte(b, '\n')
			if i < 0 {
				break
			}
			if lines == n {
				_, err := f.Seek(pos+int64(i)+1, io.SeekStart)
				return n, err
			}
			lines++
			b = b[:i]
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return lines, err
}

// followInterval is how often a followed log is looked at.
const followInterval = 50 * time.Millisecond

// follow prints what is added to a log until the container has ended and all is said.
func (e *Engine) follow(ctx context.Context, id string, p *logPrinter, f *os.File) error {
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for {
		c, err := e.current(ctx, id) // before reading: what an ended container said is there
		over := err != nil || ended(c.State)
		if f != nil {
			if err := p.print(ctx, f); err != nil {
				return err
			}
		}
		if err := p.flush(); err != nil {
			return err
		}
		next, err := e.rotated(id, f)
		if err != nil {
			return err
		}
		if next != nil {
			if f != nil {
				if err := p.print(ctx, f); err != nil { // what came just before the rotation
					next.Close()
					return err
				}
				f.Close()
			}
			f = next
			continue
		}
		if over || p.past {
			return p.flush()
		}
		if err := pause(ctx, followInterval); err != nil {
			return err
		}
	}
}

// rotated opens the present file of a log if f is not it.
func (e *Engine) rotated(id string, f *os.File) (*os.File, error) {
	now, err := os.Open(e.logFile(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || f == nil {
		return now, err
	}
	a, e1 := now.Stat()
	b, e2 := f.Stat()
	if e1 != nil || e2 != nil || os.SameFile(a, b) {
		now.Close()
		return nil, errors.Join(e1, e2)
	}
	return now, nil
}

// logPrinter prints the lines of a json-file log.
type logPrinter struct {
	o    LogOptions
	w    [2]*bufio.Writer
	line []byte  // the beginning of a line that is not whole yet
	past bool    // a line after Until has been seen
	part [2]bool // the last entry of the stream had no end of line
}

// logLine is a line of the log. The fields are parts of it.
type logLine struct {
	text, stream, time []byte
	newline            bool // text ends with one that is not in it
}

// print prints the whole lines from f's position to its end.
func (p *logPrinter) print(ctx context.Context, f *os.File) error {
	buf := make([]byte, 256<<10)
	for !p.past {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := f.Read(buf)
		rest := buf[:n]
		for {
			i := bytes.IndexByte(rest, '\n')
			if i < 0 {
				break
			}
			line := rest[:i]
			if len(p.line) > 0 {
				line = append(p.line, line...)
			}
			if err := p.entry(line); err != nil {
				return err
			}
			p.line, rest = p.line[:0], rest[i+1:]
		}
		p.line = append(p.line, rest...)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entry prints one line. A line that is no log line, which a disk that was full can
// leave, is passed over.
func (p *logPrinter) entry(line []byte) error {
	l, ok := parseOwn(line)
	if !ok {
		var err error
		if l, err = parseAny(line); err != nil {
			return nil
		}
	}
	if !p.o.Since.IsZero() || !p.o.Until.IsZero() {
		t, err := time.Parse(time.RFC3339Nano, string(l.time))
		if err != nil || t.Before(p.o.Since) {
			return nil
		}
		if !p.o.Until.IsZero() && t.After(p.o.Until) {
			p.past = true
			return nil
		}
	}
	w, other, part := p.w[0], p.w[1], &p.part[0]
	if string(l.stream) == "stderr" {
		w, other, part = other, w, &p.part[1]
	}
	if other.Buffered() > 0 { // lines appear in their order on a terminal
		if err := other.Flush(); err != nil {
			return err
		}
	}
	if p.o.Timestamps && !*part {
		w.Write(l.time)
		w.WriteByte(' ')
	}
	*part = !l.newline && !bytes.HasSuffix(l.text, []byte("\n"))
	_, err := w.Write(l.text)
	if l.newline {
		err = w.WriteByte('\n')
	}
	return err
}

func parseAny(line []byte) (logLine, error) {
	var l struct{ Log, Stream, Time string }
	err := json.Unmarshal(line, &l)
	return logLine{text: []byte(l.Log), stream: []byte(l.Stream), time: []byte(l.Time)}, err
}

// parseOwn parses a line as our keeper writes it if its text has no escapes but the
// final \n, which is the usual case and ten times as fast.
func parseOwn(line []byte) (l logLine, ok bool) {
	rest, ok := bytes.CutPrefix(line, []byte(`{"log":"`))
	if !ok {
		return l, false
	}
	i := bytes.IndexByte(rest, '"') // the end of the text, as it holds no quoted quote
	if i < 0 {
		return l, false
	}
	l.text, rest = rest[:i], rest[i:]
	if l.text, l.newline = bytes.CutSuffix(l.text, []byte(`\n`)); bytes.IndexByte(l.text, '\\') >= 0 {
		return l, false
	}
	if rest, ok = bytes.CutPrefix(rest, []byte(`","stream":"`)); !ok {
		return l, false
	}
	if l.stream, rest, ok = bytes.Cut(rest, []byte(`","time":"`)); !ok {
		return l, false
	}
	l.time, ok = bytes.CutSuffix(rest, []byte(`"}`))
	return l, ok && bytes.IndexByte(l.time, '"') < 0 && bytes.IndexByte(l.stream, '"') < 0
}

func (p *logPrinter) flush() error { return errors.Join(p.w[0].Flush(), p.w[1].Flush()) }
