package runner

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/watch"
)

// LogOptions choose what Logs shows.
type LogOptions struct {
	Follow       bool
	OneRun       bool // following ends with the present run, also if the container is restarted
	Tail         int  // the last lines only; negative: all
	Since, Until time.Time
	Timestamps   bool
	Details      bool // labels and variables named by the log options
}

// Logs writes what a container has said to stdout and stderr. With Follow it goes on
// until the container has ended, with OneRun until its present run has, if there is one.
func (e *Engine) Logs(ctx context.Context, ref string, o LogOptions, stdout, stderr io.Writer) error {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return err
	}
	if !c.Options.ReadsLog() {
		return worded(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	files, err := openLogs(e.logFile(c.ID))
	if err != nil {
		return err
	}
	defer func() { closeFiles(files) }()
	p := &logPrinter{o: o, w: newLogWriters(stdout, stderr)}
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
	if !o.Follow || p.past || o.OneRun && !runs(c.State) {
		return p.flush()
	}
	var last *os.File
	if len(files) > 0 {
		last = files[len(files)-1]
		files = files[:len(files)-1]
	}
	return e.follow(ctx, c, p, last)
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

// followPause is how long a followed log is left alone after it was read, for more to come.
const followPause = 10 * time.Millisecond

// follow prints what is added to the log of c until it has ended, or the run that c tells of, and all is said.
func (e *Engine) follow(ctx context.Context, c *Container, p *logPrinter, f *os.File) error {
	id, run := c.ID, c.State.StartedAt
	changes := watch.New(e.dir(id)) // of the log, and of the state beside it
	defer changes.Close()
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for {
		c, err := e.current(ctx, id) // before reading: what an ended container said is there
		over := err != nil || ended(c.State)
		if p.o.OneRun && !over {
			over = p.endOfRun(c.State, run)
		}
		if f != nil {
			if err := p.print(ctx, f); err != nil {
				return err
			}
		}
		next, err := e.rotated(ctx, id, p, f)
		if err := errors.Join(err, p.flush()); err != nil {
			return err
		}
		if next != nil {
			f = next
			continue
		}
		if over || p.past {
			return nil
		}
		if err := changes.Wait(ctx); err != nil {
			return err
		}
		if err := pause(ctx, followPause); err != nil {
			return err
		}
	}
}

// endOfRun says whether the run that was started then is over. What the next has said is left out.
func (p *logPrinter) endOfRun(s keeper.State, started time.Time) bool {
	if !s.StartedAt.Equal(started) {
		if last := s.StartedAt.Add(-1); p.o.Until.IsZero() || last.Before(p.o.Until) {
			p.o.Until = last
		}
		return true
	}
	return !runs(s)
}

// rotated goes on to the present file of a log if f is not it: it prints what came just
// before the rotation, and files that were rotated away since, and closes f.
func (e *Engine) rotated(ctx context.Context, id string, p *logPrinter, f *os.File) (*os.File, error) {
	if f != nil && isCurrent([]*os.File{f}, e.logFile(id)) {
		return nil, nil
	}
	files, err := openLogs(e.logFile(id))
	if err != nil || len(files) == 0 {
		return nil, err
	}
	missed := files
	if f != nil {
		if err := p.print(ctx, f); err != nil {
			closeFiles(files)
			return nil, err
		}
		missed, p.line = newer(files, f), p.line[:0]
		f.Close()
	}
	closeFiles(files[:len(files)-len(missed)])
	last := len(missed) - 1
	for _, m := range missed[:last] {
		if err == nil {
			err = p.print(ctx, m)
		}
	}
	closeFiles(missed[:last])
	if err != nil {
		missed[last].Close()
		return nil, err
	}
	return missed[last], nil
}

// logPrinter prints the lines of a json-file log.
type logPrinter struct {
	o    LogOptions
	w    [2]*bufio.Writer
	line []byte  // the beginning of a line that is not whole yet
	past bool    // a line after Until has been seen
	part [2]bool // the last entry of the stream had no end of line
	text []byte  // of ParseLogLine
	// What is shown of the attributes of the last line: few have others than the one before.
	attrs   []byte
	details string
	buf     []byte // for reading

	of    *os.File // what was printed last begins with first
	first []byte
}

func newLogWriters(stdout, stderr io.Writer) [2]*bufio.Writer {
	return [2]*bufio.Writer{bufio.NewWriterSize(stdout, 64<<10), bufio.NewWriterSize(stderr, 64<<10)}
}

// print prints the whole lines from f's position to its end.
func (p *logPrinter) print(ctx context.Context, f *os.File) error {
	if p.buf == nil {
		p.buf = make([]byte, 256<<10)
	}
	buf := p.buf
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
		if err == io.EOF && p.emptied(f) {
			p.line = p.line[:0]
			_, err = f.Seek(0, io.SeekStart)
		} else if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// emptied says whether somebody has made f shorter, which has been read to its end, and it has begun anew. A keeper cuts off
// what the one before it had not noted; then it begins as it did.
func (p *logPrinter) emptied(f *os.File) bool {
	at, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return false
	}
	st, err := f.Stat()
	if err != nil {
		return false
	}
	if p.of != f || len(p.first) == 0 {
		p.of, p.first = f, firstLine(f)
	}
	if at <= st.Size() {
		return false
	}
	now := firstLine(f)
	again := len(now) > 0 && !bytes.Equal(now, p.first)
	if again {
		p.first = now
	}
	return again
}

// parseAny parses a line that is JSON of another form.
func parseAny(line []byte) (keeper.LogLine, error) {
	var l struct {
		Log, Stream, Time string
		Attrs             json.RawMessage
	}
	err := json.Unmarshal(line, &l)
	return keeper.LogLine{Text: []byte(l.Log), Stream: []byte(l.Stream), Time: []byte(l.Time), Attrs: l.Attrs}, err
}

// detailsOf are the attributes of a line as docker shows them: "a=b,c=d ".
func (p *logPrinter) detailsOf(attrs []byte) string {
	if p.details != "" && bytes.Equal(attrs, p.attrs) {
		return p.details
	}
	var all map[string]string
	_ = json.Unmarshal(attrs, &all) // what is none shows none
	var list []string
	for k, v := range all {
		list = append(list, url.QueryEscape(k)+"="+url.QueryEscape(v))
	}
	slices.Sort(list)
	p.attrs, p.details = bytes.Clone(attrs), strings.Join(list, ",")+" "
	return p.details
}

// entry prints one line. A line that is no log line, which a disk that was full can
// leave, is passed over.
func (p *logPrinter) entry(line []byte) error {
	l, ok := keeper.ParseLogLine(line, &p.text)
	if !ok {
		var err error
		if l, err = parseAny(line); err != nil {
			return nil
		}
	}
	if !p.o.Since.IsZero() || !p.o.Until.IsZero() {
		t, err := time.Parse(time.RFC3339Nano, string(l.Time))
		if err != nil || t.Before(p.o.Since) {
			return nil
		}
		if !p.o.Until.IsZero() && t.After(p.o.Until) {
			p.past = true
			return nil
		}
	}
	w, other, part := p.w[0], p.w[1], &p.part[0]
	if string(l.Stream) == "stderr" {
		w, other, part = other, w, &p.part[1]
	}
	if other.Buffered() > 0 { // lines appear in their order on a terminal
		if err := other.Flush(); err != nil {
			return err
		}
	}
	info := ""
	if p.o.Details {
		info = p.detailsOf(l.Attrs)
	}
	// A line comes in one write, unless it is longer than the buffer: the reader may take a write for a message.
	if w.Available() < len(l.Time)+len(info)+len(l.Text)+2 {
		if err := w.Flush(); err != nil {
			return err
		}
	}
	if !*part {
		if p.o.Timestamps {
			w.Write(l.Time)
			w.WriteByte(' ')
		}
		w.WriteString(info)
	}
	*part = !l.Newline && !bytes.HasSuffix(l.Text, []byte("\n"))
	_, err := w.Write(l.Text)
	if l.Newline {
		err = w.WriteByte('\n')
	}
	return err
}

func (p *logPrinter) flush() error { return errors.Join(p.w[0].Flush(), p.w[1].Flush()) }
