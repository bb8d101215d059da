package keeper

import (
	"bytes"
	"fmt"
	"os"
	"sync"
	"time"
)

// maxLine is the length up to which a line becomes one entry of the log. A longer one
// becomes several, of which the last ends with the newline. (Docker's limit is 16 KB. What
// is carried is written anew with every chunk, so the limit is not much larger.)
const maxLine = 64 << 10

// streamNames are docker's names of the streams; an index is 0 or 1.
var streamNames = [2]string{"stdout", "stderr"}

// recorder turns output into log lines. It is safe for concurrent use.
type recorder struct {
	mu     sync.Mutex
	log    *jsonLog // nil: no lines are kept
	send   *sender  // nil: they go nowhere else
	cur    *cursor
	tail   []byte // of the lines at present, see appendEnd
	failed bool   // the last write failed and was reported
}

// openRecorder opens the log and the cursor at cursorPath and brings them together.
func openRecorder(cfg Log, cursorPath string) (*recorder, error) {
	cur, err := openCursor(cursorPath)
	if err != nil {
		return nil, fmt.Errorf("opening the log's cursor: %w", err)
	}
	r := &recorder{cur: cur}
	if cfg.Path == "" {
		cur.note.carry = [2][]byte{}
		return r, nil
	}
	if r.log, err = openLog(cfg); err != nil {
		r.Close()
		return nil, fmt.Errorf("opening the log: %w", err)
	}
	if cur.seq > 0 {
		r.undo()
	}
	cur.note.inode, cur.note.size = r.log.inode, r.log.size
	if cfg.Send != nil {
		if r.send, err = openSender(cfg.Send, r.log); err != nil {
			r.Close()
			return nil, fmt.Errorf("opening the log to be sent: %w", err)
		}
	}
	if err := cur.save(); err != nil {
		r.Close()
		return nil, fmt.Errorf("writing the log's cursor: %w", err)
	}
	return r, nil
}

// undo cuts off what an earlier keeper logged and did not note. If it had just begun a
// new file, all of that file goes.
func (r *recorder) undo() {
	keep := r.cur.note.size
	if r.log.inode != r.cur.note.inode {
		keep = 0
	}
	if keep < r.log.size && r.log.f.Truncate(keep) == nil {
		r.log.size = keep
	}
}

// begin looks at what waits in a FIFO, the chunk, before anything of it is recorded. It returns
// how many bytes at its head have been recorded by an earlier keeper, and the position of the
// chunk in the stream, in bytes.
func (r *recorder) begin(index int, chunk []byte) (known int, at int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	note := &r.cur.note
	n := note.n[index]
	if n > 0 && n <= len(chunk) && chunkSum(chunk[:n]) == note.sum[index] {
		return n, note.total[index]
	}
	r.next(index)
	return 0, note.total[index]
}

// record logs the complete lines of a chunk and carries what is left.
func (r *recorder) record(index int, chunk []byte) {
	if len(chunk) == 0 {
		return
	}
	if r.send != nil {
		r.send.room()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next(index)
	if r.log == nil {
		r.commit(index, chunk)
		return
	}
	r.setTail(index)
	carry := &r.cur.note.carry[index]
	rest := chunk
	for {
		n := r.cut(rest, len(*carry))
		if n == 0 {
			break
		}
		line := rest[:n]
		if len(*carry) > 0 {
			line = append(*carry, line...)
			*carry = (*carry)[:0]
		}
		if whole := r.log.add(line, r.tail); whole > 0 {
			// The line begins another file: a note speaks of one file alone, and who follows
			// the log finds the files by their times.
			r.log.buf = r.log.buf[:whole]
			r.commit(index, chunk[:len(chunk)-len(rest)])
			if r.send != nil {
				r.send.room()
			}
			r.setTail(index)
			r.log.add(line, r.tail)
		}
		rest = rest[n:]
	}
	if len(*carry)+len(rest) > maxLine {
		r.log.add(append(*carry, rest...), r.tail)
		*carry, rest = nil, nil
	}
	*carry = append(*carry, rest...)
	r.commit(index, chunk)
}

// setTail makes the tail of the lines of a stream that are logged now.
func (r *recorder) setTail(index int) {
	r.tail = appendEnd(r.tail[:0], streamNames[index], r.log.cfg.Attrs, time.Now())
}

// cut returns the length of what goes into the next entry of the log after what was carried; 0 means that more
// must come. It is a line, or a part of one that is as long as a message may be.
func (r *recorder) cut(rest []byte, carried int) int {
	n := bytes.IndexByte(rest, '\n') + 1
	if room := maxPart - carried; r.send != nil && (n > room || n == 0 && len(rest) >= room) {
		return room
	}
	return n
}

// consumed notes that the chunk that was recorded last waits no more: what comes next may be the same
// again, and is not known for that.
func (r *recorder) consumed(index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next(index)
	r.save()
}

// next moves the position of the stream behind the chunk before.
func (r *recorder) next(index int) {
	note := &r.cur.note
	note.total[index] += int64(note.n[index])
	note.n[index], note.sum[index] = 0, 0
}

// commit writes the log, then the note that says so.
func (r *recorder) commit(index int, chunk []byte) {
	note := &r.cur.note
	if r.log != nil {
		err := r.log.flush()
		if err != nil && !r.failed {
			fmt.Fprintln(os.Stderr, "output is not logged:", err)
		}
		r.failed = err != nil
		note.inode, note.size = r.log.inode, r.log.size
	}
	note.n[index], note.sum[index] = len(chunk), chunkSum(chunk)
	r.save()
	if r.send != nil { // not before: a keeper that adopts the container undoes what was not noted
		r.send.commit(note.inode, note.size)
	}
}

func (r *recorder) save() {
	if err := r.cur.save(); err != nil {
		fmt.Fprintln(os.Stderr, "the log's cursor is not kept:", err)
	}
}

// end records a last line without its end. Nothing of the stream is unconsumed then.
func (r *recorder) end(index int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next(index)
	if carry := &r.cur.note.carry[index]; len(*carry) > 0 {
		r.setTail(index)
		r.log.add(*carry, r.tail)
		*carry = nil
	}
	r.commit(index, nil)
}

// beginSending lets lines be sent, see [sender.begin].
func (r *recorder) beginSending(fresh bool) error {
	if r.send == nil {
		return nil
	}
	return r.send.begin(fresh)
}

// limit says whether the container waits for the server that gets its lines.
func (r *recorder) limit(wait bool) {
	if r.send != nil {
		r.send.limit(wait)
	}
}

// flush waits for the lines to be sent.
func (r *recorder) flush() {
	if r.send != nil {
		r.send.flush()
	}
}

func (r *recorder) Close() {
	if r.send != nil {
		r.send.Close()
	}
	if r.log != nil {
		r.log.Close()
	}
	r.cur.Close()
}
