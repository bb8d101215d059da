package keeper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"syscall"
	"time"
)

// Sender says where each line goes besides the file. The file is then the sender's queue: a sender
// follows it, and notes behind each delivery how far it is. So nothing waits in memory, a
// keeper that adopts the container goes on where the last one was, and what a server that was away has
// missed is sent when it is back, as far as Buffer reaches.
type Sender struct {
	Driver  string   // syslog, journald, fluentd or gelf
	Targets []Target // tried in their order
	Relay   []string `json:",omitempty"` // the command that connects to a target of tls, see socket.relayed
	Lazy    bool     `json:",omitempty"` // the container starts although no target can be reached

	Tag    string
	Host   string `json:",omitempty"` // the name of this machine
	Static []byte // what is the same in each message, in the form of the driver

	Format   string `json:",omitempty"` // syslog: rfc3164, rfc5424, rfc5424micro; gelf: gzip, zlib, none
	Level    int    `json:",omitempty"` // gelf: of the compression
	Facility int    `json:",omitempty"` // syslog: as it is in a priority
	Counted  bool   `json:",omitempty"` // syslog: the length is before each message (RFC 5425, section 4.3)
	Precise  bool   `json:",omitempty"` // fluentd: nanoseconds
	Ack      bool   `json:",omitempty"` // fluentd: each message is answered

	Buffer  int64 // bytes of the file that may wait
	Drop    bool  `json:",omitempty"` // of more than these the oldest are dropped; else the container waits
	Retries int   `json:",omitempty"` // failures in a row after which it waits no more; 0: it always waits

	RetryMillis int64 // before the second try; later ones wait longer
	WriteMillis int64 `json:",omitempty"` // how long a server may take nothing before it is connected anew; 0: for ever
	ReadMillis  int64 `json:",omitempty"` // how long an answer is awaited
}

// Target is an address: of tcp or udp with numbers, of tls with a name, of unix or unixgram a path.
type Target struct{ Network, Address string }

// maxRetryWait is the longest pause between two tries.
const maxRetryWait = 10 * time.Second

// sender is the other end of the log. Those who write the log call commit and room.
type sender struct {
	cfg  *Sender
	log  *jsonLog
	note *os.File
	word []byte // of save
	sock socket
	most int64         // bytes that may wait
	stop chan struct{} // closed: it shall end at once
	done chan struct{} // closed: it has ended

	mu      sync.Mutex
	moved   sync.Cond   // something below has changed
	files   []*sentFile // that are not sent to their ends; the last is the one that is written
	waiting int64       // bytes in them that have not been sent
	free    bool        // nobody waits for room
	failing time.Time   // since when nothing could be sent
	stalled bool        // it has been so often that nobody waits any more
	begun   bool

	// Of the sending goroutine alone.
	state sentState
	buf   []byte
	out   []byte
	text  []byte
	tries int
	pack  packer
}

// sentFile is a file of the log.
type sentFile struct {
	f     *os.File
	inode uint64
	size  int64 // up to which the recorder vouches for it
}

// sentState is what a sender notes.
type sentState struct {
	inode   uint64
	at      int64    // position in that file
	ordinal uint64   // of the last message
	parts   [2]int64 // of a line of each stream that has not ended
	since   [2]int64 // when that line began, in nanoseconds
}

// openSender opens the files that are not sent to their ends.
func openSender(cfg *Sender, l *jsonLog) (*sender, error) {
	note, err := os.OpenFile(l.cfg.Path+".sent", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	s := &sender{cfg: cfg, log: l, note: note, stop: make(chan struct{}), done: make(chan struct{})}
	s.sock.fd, s.sock.stop, s.sock.relay = -1, s.stop, cfg.Relay
	s.most = most(cfg, l.cfg)
	s.moved.L = &s.mu
	state, noted := readSent(note)
	for i := max(1, l.cfg.MaxFiles) - 1; i >= 0; i-- {
		f, err := os.Open(l.name(i))
		if err != nil {
			continue // compressed, and so sent; or not there
		}
		st, err := f.Stat()
		if err != nil {
			f.Close()
			continue
		}
		inode := st.Sys().(*syscall.Stat_t).Ino
		if noted && inode != state.inode && len(s.files) == 0 && i > 0 {
			f.Close() // older than what the note speaks of
			continue
		}
		if len(s.files) == 0 {
			l.sentBefore(i)
		}
		s.files = append(s.files, &sentFile{f: f, inode: inode, size: st.Size()})
		s.waiting += st.Size()
	}
	if len(s.files) == 0 {
		note.Close()
		return nil, &os.PathError{Op: "open", Path: l.cfg.Path, Err: os.ErrNotExist}
	}
	first := s.files[0]
	if first.inode != state.inode {
		state.inode, state.at = first.inode, 0
	}
	state.at = min(state.at, first.size)
	s.waiting -= state.at
	s.state = state
	return s, nil
}

// most is how many bytes may wait: not more than are still there when another keeper looks for them.
func most(cfg *Sender, l Log) int64 {
	switch {
	case l.MaxSize <= 0:
		return cfg.Buffer
	case cfg.Drop:
		return min(cfg.Buffer, l.MaxSize*int64(max(1, l.MaxFiles-1)))
	}
	return min(cfg.Buffer, l.MaxSize/2)
}

func readSent(f *os.File) (st sentState, ok bool) {
	var b [4 + 7*8]byte
	if _, err := f.ReadAt(b[:], 0); err != nil || crc32.ChecksumIEEE(b[4:]) != binary.LittleEndian.Uint32(b[:]) {
		return st, false
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(b[4+8*i:]) }
	st = sentState{inode: word(0), at: int64(word(1)), ordinal: word(2)}
	for i := range 2 {
		st.parts[i], st.since[i] = int64(word(3+i)), int64(word(5+i))
	}
	return st, st.at >= 0
}

func (s *sender) save() {
	b := append(s.word[:0], 0, 0, 0, 0)
	st := &s.state
	for _, w := range [...]uint64{st.inode, uint64(st.at), st.ordinal, uint64(st.parts[0]), uint64(st.parts[1]), uint64(st.since[0]), uint64(st.since[1])} {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	s.word = b
	s.note.WriteAt(b, 0) // if it cannot be, some lines may be sent again
}

// begin lets the sender send. A fresh one is that of a container that starts, which it does not if
// the server cannot be reached.
func (s *sender) begin(fresh bool) error {
	if fresh {
		s.state.ordinal = 0
		if err := s.sock.connect(s.cfg.Targets); err != nil && !s.cfg.Lazy {
			return fmt.Errorf("failed to initialize logging driver: %w", s.worded(err))
		}
	}
	s.begun = true
	go s.run()
	return nil
}

// worded is an error in the words of dockerd's driver.
func (s *sender) worded(err error) error {
	switch {
	case s.cfg.Driver == "journald":
		return errors.New("journald is not enabled on this host")
	case s.cfg.Driver == "syslog" && len(s.cfg.Targets) > 1 && s.cfg.Targets[0].Network == "unixgram":
		//lint:ignore ST1005 dockerd's words
		return errors.New("Unix syslog delivery error")
	case s.cfg.Driver == "gelf":
		return fmt.Errorf("gelf: cannot connect to GELF endpoint: %s %w", s.cfg.Targets[0].Address, err)
	}
	return err
}

// commit tells of a log that is written and noted up to size.
func (s *sender) commit(inode uint64, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.files[len(s.files)-1]
	if last.inode != inode {
		f, err := os.Open(s.log.cfg.Path)
		if err != nil {
			fmt.Fprintln(os.Stderr, "the log is not sent:", err)
			return
		}
		last = &sentFile{f: f, inode: inode}
		s.files = append(s.files, last)
	}
	s.waiting += max(0, size-last.size)
	last.size = size
	s.moved.Broadcast()
}

// room returns when more may be logged.
func (s *sender) room() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.waiting > s.most && !s.cfg.Drop && !s.free && !s.stalled {
		s.moved.Wait()
	}
}

// limit says whether those who log wait for the server, as they do while the container lives.
func (s *sender) limit(wait bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = !wait
	s.moved.Broadcast()
}

// flushTime is how long the end of a run waits for a server that takes what it is sent, and awayTime
// how long for one that does not.
const (
	flushTime = 10 * time.Second
	awayTime  = time.Second
)

// flush returns when everything has been sent, or will not be soon.
func (s *sender) flush() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting == 0 || !s.begun {
		return
	}
	over, left := false, s.waiting
	var check *time.Timer
	until := time.Now().Add(flushTime)
	check = time.AfterFunc(awayTime, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		over = s.waiting == left || !s.failing.IsZero() || time.Now().After(until)
		left = s.waiting
		s.moved.Broadcast()
		if !over {
			check.Reset(awayTime)
		}
	})
	defer check.Stop()
	for s.waiting > 0 && !s.stalled && !over {
		s.moved.Wait()
	}
	if s.waiting > 0 {
		fmt.Fprintf(os.Stderr, "%d bytes of the log have not been sent to %s yet\n", s.waiting, s.cfg.Targets[0].Address)
	}
}

// Close ends the sender. What it has not sent waits for the next.
func (s *sender) Close() {
	close(s.stop)
	s.mu.Lock()
	s.moved.Broadcast()
	s.mu.Unlock()
	if s.begun {
		<-s.done
	}
	s.sock.close()
	for _, f := range s.files {
		f.f.Close()
	}
	s.note.Close()
}

func (s *sender) stopped() bool {
	select {
	case <-s.stop:
		return true
	default:
		return false
	}
}

// run sends until it is closed.
func (s *sender) run() {
	defer close(s.done)
	for {
		f, end, ok := s.next()
		if !ok {
			return
		}
		b, err := s.read(f, end)
		if err == nil {
			err = s.send(b)
		}
		if err != nil {
			s.fail(err)
		}
	}
}

// next waits until there is something to send: f from the present position to end.
func (s *sender) next() (f *sentFile, end int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if s.stopped() {
			return nil, 0, false
		}
		f = s.files[0]
		switch {
		case s.state.at < f.size:
			if (s.cfg.Drop || s.stalled) && s.waiting > s.most {
				s.skip()
				continue
			}
			return f, f.size, true
		case len(s.files) > 1:
			s.leave(f)
		default:
			s.moved.Wait()
		}
	}
}

// leave goes on to the next file. mu is held.
func (s *sender) leave(f *sentFile) {
	s.waiting -= f.size - s.state.at
	s.files = s.files[1:]
	s.state.inode, s.state.at = s.files[0].inode, 0
	s.save()
	s.log.sent(f.f)
	f.f.Close()
}

// skip drops lines until not more than the buffer waits. mu is held.
func (s *sender) skip() {
	before := s.waiting
	for s.waiting > s.most {
		f := s.files[0]
		if rest := f.size - s.state.at; s.waiting-rest >= s.most && len(s.files) > 1 {
			s.leave(f)
			continue
		}
		s.move(s.waiting - s.most)
		// The position is within a line now.
		var b [4096]byte
		for s.state.at < f.size {
			n, err := f.f.ReadAt(b[:min(int64(len(b)), f.size-s.state.at)], s.state.at)
			i := bytes.IndexByte(b[:n], '\n')
			if i >= 0 {
				s.move(int64(i + 1))
				break
			}
			if err != nil || n == 0 {
				s.move(f.size - s.state.at)
				break
			}
			s.move(int64(n))
		}
	}
	s.state.parts = [2]int64{}
	s.save()
	fmt.Fprintf(os.Stderr, "%d bytes of the log were not sent to %s\n", before-s.waiting, s.cfg.Targets[0].Address)
	s.moved.Broadcast()
}

// move goes n bytes on in the present file. mu is held.
func (s *sender) move(n int64) {
	n = min(n, s.files[0].size-s.state.at)
	s.state.at += n
	s.waiting -= n
}

// advance notes that n bytes have been sent, after which the state is st.
func (s *sender) advance(n int, st sentState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st.inode, st.at = s.state.inode, s.state.at
	s.state = st
	s.move(int64(n))
	s.save()
	s.tries, s.failing, s.stalled = 0, time.Time{}, false
	s.moved.Broadcast()
}

// fail waits before the next try.
func (s *sender) fail(err error) {
	s.sock.close()
	if s.tries == 0 {
		fmt.Fprintln(os.Stderr, "sending the log:", err)
	}
	wait := min(time.Duration(s.cfg.RetryMillis)*time.Millisecond, maxRetryWait)
	for range min(s.tries, 16) {
		wait = min(wait*3/2, maxRetryWait)
	}
	s.tries++
	s.mu.Lock()
	if s.failing.IsZero() {
		s.failing = time.Now()
	}
	s.stalled = s.cfg.Retries > 0 && s.tries >= s.cfg.Retries
	s.moved.Broadcast()
	s.mu.Unlock()
	select {
	case <-s.stop:
	case <-time.After(wait):
	}
}

// sendSize is how much of the log is read at once, unless a line is longer.
const sendSize = 32 << 10

// read returns whole lines of f from the present position on.
func (s *sender) read(f *sentFile, end int64) ([]byte, error) {
	if s.buf == nil {
		s.buf = make([]byte, sendSize)
	}
	for {
		b := s.buf[:min(int64(len(s.buf)), end-s.state.at)]
		n, err := f.f.ReadAt(b, s.state.at)
		if i := bytes.LastIndexByte(b[:n], '\n'); i >= 0 {
			return b[:i+1], nil
		}
		switch {
		case n < len(b): // somebody has cut the file off
			s.mu.Lock()
			s.move(end - s.state.at)
			s.moved.Broadcast()
			s.mu.Unlock()
			return nil, nil
		case n < len(s.buf): // no line, which an entry of the recorder always is
			return b, err
		}
		s.buf = make([]byte, 2*len(s.buf))
	}
}

// send sends lines of the log: on a stream together, else one by one. A connection that turns out to be
// broken is no error, as the next call makes another.
func (s *sender) send(b []byte) error {
	fresh := false
	if s.sock.fd < 0 || s.sock.broken() {
		if err := s.sock.connect(s.cfg.Targets); err != nil {
			return err
		}
		fresh = true
	}
	st, sent := s.state, 0
	s.out = s.out[:0]
	for done := 0; done < len(b) && !s.stopped(); {
		line := b[done:]
		if i := bytes.IndexByte(line, '\n'); i >= 0 {
			line = line[:i+1]
		}
		done += len(line)
		if e, ok := parseEntry(line, &s.text); ok {
			s.out = s.message(s.out, e, &st)
		}
		if s.sock.stream() && !s.cfg.Ack && done < len(b) {
			continue
		}
		if err := s.put(st); err != nil {
			if s.sock.close(); fresh {
				return err
			}
			return nil
		}
		s.advance(done-sent, st)
		sent, s.out = done, s.out[:0]
	}
	return nil
}

// put sends what is in out: one message, or several on a stream.
func (s *sender) put(st sentState) error {
	switch {
	case len(s.out) == 0:
		return nil
	case s.cfg.Driver == "gelf" && !s.sock.stream():
		return s.putChunks()
	case s.cfg.Driver == "journald":
		return s.sock.writeJournal(s.out)
	}
	if err := s.sock.write(s.out, time.Duration(s.cfg.WriteMillis)*time.Millisecond); err != nil || !s.cfg.Ack {
		return err
	}
	return s.sock.await(s.chunkID(st), time.Duration(s.cfg.ReadMillis)*time.Millisecond)
}
