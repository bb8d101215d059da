package keeper

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// jsonLog is docker's json-file: one JSON object per line with keys log, stream, time and, if
// the log has some, attrs (moby, daemon/logger/jsonfilelog/jsonlog).
// The current file is path; older ones are path.1, path.2 and so on.
type jsonLog struct {
	cfg   Log
	f     *os.File
	inode uint64
	size  int64
	buf   []byte

	work    sync.WaitGroup
	mu      sync.Mutex // the names of the files; and
	busy    bool       // somebody compresses
	closing bool       // nobody begins to
	done    int        // the number of the newest rotated file that nobody needs as it is
}

func openLog(cfg Log) (*jsonLog, error) {
	f, err := os.OpenFile(cfg.Path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	l := &jsonLog{cfg: cfg, done: 1}
	if err := l.use(f); err != nil {
		f.Close()
		return nil, err
	}
	if cfg.Send != nil {
		l.done = cfg.MaxFiles // until openSender knows
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.compressNext() // what an earlier keeper has not
	return l, nil
}

func (l *jsonLog) use(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	l.f, l.size, l.inode = f, st.Size(), st.Sys().(*syscall.Stat_t).Ino
	return nil
}

// add encodes one line, or a part of one, to be written by flush. end is what appendEnd made.
// If it makes the file larger than it may be, what was added before, in bytes, is to be
// written first.
func (l *jsonLog) add(line, end []byte) (before int) {
	before = len(l.buf)
	l.buf = append(l.buf, `{"log":"`...)
	l.buf = appendEscaped(l.buf, line, l.cfg.Send != nil)
	l.buf = append(l.buf, end...)
	if l.cfg.MaxSize > 0 && l.size+int64(len(l.buf)) > l.cfg.MaxSize {
		return before
	}
	return 0
}

// appendEnd appends what follows the text of all lines of a stream at one moment.
func appendEnd(b []byte, stream, attrs string, now time.Time) []byte {
	b = append(append(append(b, `","stream":"`...), stream...), '"')
	if attrs != "" {
		b = append(append(b, `,"attrs":`...), attrs...)
	}
	b = appendTime(append(b, `,"time":"`...), now)
	return append(b, '"', '}', '\n')
}

// flush writes what was added: everything or, if the disk is full, nothing.
func (l *jsonLog) flush() error {
	b := l.buf
	l.buf = l.buf[:0]
	if cap(b) > 256<<10 {
		l.buf = nil
	}
	if len(b) == 0 {
		return nil
	}
	if l.cfg.MaxSize > 0 && l.size > 0 && l.size+int64(len(b)) > l.cfg.MaxSize {
		if err := l.rotate(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(b)
	if err != nil {
		if n > 0 {
			l.f.Truncate(l.size)
		}
		return err
	}
	l.size += int64(n)
	return nil
}

// rotate moves every file one number up and begins a new one.
func (l *jsonLog) rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	// First what can fail for want of room or descriptors: files that are moved up again and again are dropped in the end.
	next := l.cfg.Path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if err = l.shift(); err == nil {
		err = os.Rename(next, l.cfg.Path)
	}
	if err != nil {
		f.Close()
		return err
	}
	old := l.f
	if err := l.use(f); err != nil {
		f.Close()
		return err
	}
	if l.cfg.Send != nil { // it has to be sent first
		l.done++
	}
	l.compressNext()
	return old.Close()
}

// Close waits for a file that is being compressed. Others wait for the next keeper.
func (l *jsonLog) Close() error {
	l.mu.Lock()
	l.closing = true
	l.mu.Unlock()
	l.work.Wait()
	return l.f.Close()
}

// appendTime is the form docker writes: UTC with all nine digits of the nanoseconds.
func appendTime(b []byte, t time.Time) []byte {
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000000Z")
}

// plain says whether none of eight bytes is escaped: none below ' ' or above '~', no quote
// and no backslash. Each term has the high bit of a byte set if that byte, or one below it,
// is meant (https://graphics.stanford.edu/~seander/bithacks.html, "ZeroInWord").
func plain(x uint64) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	quote, backslash, del := x^ones*'"', x^ones*'\\', x^ones*0x7f
	found := x | (x-ones*' ')&^x | (quote-ones)&^quote | (backslash-ones)&^backslash | (del-ones)&^del
	return found&highs == 0
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends s as the inside of a JSON string. Bytes that are no UTF-8 become
// U+FFFD, as encoding/json has it, unless they are to be kept for whoever gets the lines.
func appendEscaped(b, s []byte, keep bool) []byte {
	start := 0
	for i := 0; i < len(s); {
		for i+8 <= len(s) && plain(binary.LittleEndian.Uint64(s[i:])) {
			i += 8
		}
		if i == len(s) {
			break
		}
		c := s[i]
		if c < utf8.RuneSelf {
			if c >= ' ' && c != '"' && c != '\\' && c != 0x7f {
				i++
				continue
			}
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRune(s[i:])
		if r == utf8.RuneError && n == 1 && !keep {
			b = append(append(b, s[start:i]...), `\ufffd`...)
			i++
			start = i
			continue
		}
		i += n
	}
	return append(b, s[start:]...)
}
