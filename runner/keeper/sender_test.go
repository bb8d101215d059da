package keeper

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// receiver collects what is sent to it, on a stream everything in one piece.
type receiver struct {
	target Target
	close  func()

	mu       sync.Mutex
	messages [][]byte
	stream   []byte
}

func (r *receiver) put(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.messages = append(r.messages, bytes.Clone(b))
	r.stream = append(r.stream, b...)
}

func (r *receiver) all() ([][]byte, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.messages, string(r.stream)
}

// receiveAt makes a receiver of a network; of tcp and udp address may be empty.
func receiveAt(t *testing.T, network, address string) *receiver {
	t.Helper()
	r := &receiver{}
	if address == "" {
		address = "127.0.0.1:0"
		if strings.HasPrefix(network, "unix") {
			address = filepath.Join(t.TempDir(), "log")
		}
	}
	if network == "udp" || network == "unixgram" {
		c, err := net.ListenPacket(network, address)
		if err != nil {
			t.Fatal(err)
		}
		c.(interface{ SetReadBuffer(int) error }).SetReadBuffer(4 << 20)
		r.target, r.close = Target{network, c.LocalAddr().String()}, func() { c.Close() }
		go r.datagrams(c)
	} else {
		l, err := net.Listen(network, address)
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var conns []net.Conn
		r.target, r.close = Target{network, l.Addr().String()}, func() {
			l.Close()
			mu.Lock()
			defer mu.Unlock()
			for _, c := range conns {
				c.Close()
			}
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
				buf := make([]byte, 64<<10) // one after the other: a sender has one connection
				for err == nil {
					var n int
					if n, err = c.Read(buf); n > 0 {
						r.put(buf[:n])
					}
				}
			}
		}()
	}
	t.Cleanup(r.close)
	return r
}

// datagrams receives them with what comes in a file instead, as systemd's journal does.
func (r *receiver) datagrams(c net.PacketConn) {
	buf := make([]byte, 1<<20)
	for {
		u, ok := c.(*net.UnixConn)
		if !ok {
			n, _, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			r.put(buf[:n])
			continue
		}
		oob := make([]byte, 64)
		n, k, _, _, err := u.ReadMsgUnix(buf, oob)
		if err != nil {
			return
		}
		b := buf[:n]
		if list, err := unix.ParseSocketControlMessage(oob[:k]); err == nil && len(list) > 0 {
			fds, err := unix.ParseUnixRights(&list[0])
			if err != nil || len(fds) != 1 || n > 0 {
				b = []byte("not one file")
			} else {
				seals, _ := unix.FcntlInt(uintptr(fds[0]), unix.F_GET_SEALS, 0)
				f := os.NewFile(uintptr(fds[0]), "")
				f.Seek(0, io.SeekStart)
				b, _ = io.ReadAll(f)
				f.Close()
				if want := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE; seals&want != want {
					b = fmt.Appendf(nil, "seals %x", seals)
				}
			}
		}
		r.put(b)
	}
}

func sendTo(r *receiver, driver string) *Sender {
	return &Sender{
		Driver: driver, Targets: []Target{r.target}, Tag: "tag", Host: "host", Facility: 24, Buffer: 1 << 20, Retries: 3, RetryMillis: 10,
	}
}

// sending opens a recorder that sends.
func sending(t *testing.T, dir string, send *Sender) *recorder {
	t.Helper()
	r, err := openRecorder(Log{Path: filepath.Join(dir, "log"), MaxSize: 1 << 20, MaxFiles: 3, Send: send}, filepath.Join(dir, "cursor"))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func begin(t *testing.T, r *recorder, fresh bool) {
	t.Helper()
	if err := r.beginSending(fresh); err != nil {
		t.Fatal(err)
	}
}

func numbered(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = fmt.Appendf(b, "line %d\n", i)
	}
	return b
}

// inOrder checks that what was received are the lines from..to, each once.
func inOrder(t *testing.T, got string, from, to int) {
	t.Helper()
	n := from
	for line := range strings.Lines(got) {
		_, text, _ := strings.Cut(line, "]: ")
		if want := fmt.Sprintf("line %d\n", n); text != want {
			t.Fatalf("line %d is %q", n, line)
		}
		n++
	}
	if n != to {
		t.Fatalf("%d lines, want %d", n-from, to-from)
	}
}

func TestSyslogForms(t *testing.T) {
	when, err := time.Parse(time.RFC3339Nano, "2026-03-04T05:06:07.123456789Z")
	if err != nil {
		t.Fatal(err)
	}
	local, pid := when.Local(), os.Getpid()
	for format, want := range map[string]string{
		"":             fmt.Sprintf("<30>%s tag[%d]: text\n", local.Format(time.Stamp), pid),
		"rfc3164":      fmt.Sprintf("<30>%s host tag[%d]: text\n", local.Format(time.Stamp), pid),
		"rfc5424":      fmt.Sprintf("<30>1 %s host tag %d tag - text\n", local.Format(time.RFC3339), pid),
		"rfc5424micro": fmt.Sprintf("<30>1 %s host tag %d tag - text\n", local.Format("2006-01-02T15:04:05.000000Z07:00"), pid),
	} {
		s := &sender{cfg: &Sender{Driver: "syslog", Format: format, Tag: "tag", Host: "host", Facility: 24}}
		if got := string(s.message(nil, logEntry{text: []byte("text"), time: when}, &sentState{})); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
		s.cfg.Counted = true
		want = fmt.Sprintf("before %d %s", len(want), want)
		if got := string(s.message([]byte("before "), logEntry{text: []byte("text"), time: when}, &sentState{})); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
		if got := s.message(nil, logEntry{time: when}, &sentState{}); len(got) != 0 {
			t.Errorf("an empty line is sent: %q", got)
		}
	}
}

// TestSenderGoesOn: the server is away when lines are written and the keeper ends; the next sends them, the same
// lines never twice, bytes that are no UTF-8 as they are.
func TestSenderGoesOn(t *testing.T) {
	for _, network := range []string{"tcp", "udp", "unix", "unixgram"} {
		t.Run(network, func(t *testing.T) {
			dir := t.TempDir()
			srv := receiveAt(t, network, "")
			r := sending(t, dir, sendTo(srv, "syslog"))
			begin(t, r, true)
			r.record(0, numbered(0, 500))
			r.flush()
			r.Close()
			r = sending(t, dir, sendTo(srv, "syslog"))
			r.record(0, numbered(500, 900)) // nobody sends them
			r.Close()
			r = sending(t, dir, sendTo(srv, "syslog"))
			begin(t, r, false)
			r.record(0, numbered(900, 1000))
			r.flush()
			if !await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, "line 999\n") }) {
				t.Fatal("the last line does not come")
			}
			_, got := srv.all()
			inOrder(t, got, 0, 1000)
			r.record(1, []byte("\xff\xfe\x00\n"))
			r.flush()
			if !await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, "]: \xff\xfe\x00\n") }) {
				_, got := srv.all()
				t.Errorf("bytes: %q", got[len(got)-40:])
			}
			r.Close()
		})
	}
}

func TestSenderRefusesToStart(t *testing.T) {
	srv := receiveAt(t, "tcp", "")
	srv.close()
	for driver, want := range map[string]string{
		"syslog":   "failed to initialize logging driver: dial tcp " + srv.target.Address + ": connect: connection refused",
		"gelf":     "failed to initialize logging driver: gelf: cannot connect to GELF endpoint: " + srv.target.Address + " dial tcp " + srv.target.Address + ": connect: connection refused",
		"journald": "failed to initialize logging driver: journald is not enabled on this host",
	} {
		r := sending(t, t.TempDir(), sendTo(srv, driver))
		if err := r.beginSending(true); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", driver, err, want)
		}
		r.Close()
	}
	lazy := sendTo(srv, "fluentd")
	lazy.Lazy, lazy.Static = true, []byte{0, 0}
	r := sending(t, t.TempDir(), lazy)
	begin(t, r, true)
	r.Close()
}

const relayName = "log-relay"

// relay is a relay to a server that needs no TLS; address "away" is none.
func relay(address string) error {
	if address == "away" {
		_, err := os.Stdin.WriteString("nobody there\n")
		return err
	}
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	if _, err := os.Stdin.WriteString("\n"); err != nil {
		return err
	}
	go func() { // ends with the process
		io.Copy(os.Stdin, c)
		os.Exit(0)
	}()
	_, err = io.Copy(c, os.Stdin)
	return err
}

// TestSenderRelayed: another process connects; when it ends, the next one is started.
func TestSenderRelayed(t *testing.T) {
	srv := receiveAt(t, "tcp", "")
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), relayName)
	if err := os.Symlink(exe, path); err != nil {
		t.Fatal(err)
	}
	send := sendTo(srv, "syslog")
	send.Relay, send.Retries = []string{path}, 0
	for address, want := range map[string]string{
		"away":        "failed to initialize logging driver: nobody there",
		"127.0.0.1:1": "failed to initialize logging driver: " + path + " has ended",
	} {
		send.Targets = []Target{{"tls", address}}
		r := sending(t, t.TempDir(), send)
		if err := r.beginSending(true); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", address, err, want)
		}
		r.Close()
	}

	address := srv.target.Address
	send.Targets = []Target{{"tls", address}}
	r := sending(t, t.TempDir(), send)
	defer r.Close()
	begin(t, r, true)
	r.record(0, numbered(0, 100))
	r.flush()
	if !await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, "line 99\n") }) {
		t.Fatal("the lines do not come")
	}
	_, got := srv.all()
	inOrder(t, got, 0, 100)
	srv.close()
	back := receiveAt(t, "tcp", address)
	n := 100
	if !await(func() bool { // some may be lost with the connection
		r.record(0, numbered(n, n+1))
		n++
		_, got := back.all()
		return got != ""
	}) {
		t.Fatal("nothing comes after the server is back")
	}
}

// TestSenderRetries: the server goes and comes back at the same address. What was written meanwhile arrives. While it is
// away nobody waits for ever.
func TestSenderRetries(t *testing.T) {
	srv := receiveAt(t, "tcp", "")
	send := sendTo(srv, "syslog")
	send.Buffer = 2000
	r := sending(t, t.TempDir(), send)
	defer r.Close()
	begin(t, r, true)
	r.record(0, numbered(0, 10))
	r.flush()
	srv.close()
	for i := 10; i < 500; i += 10 { // more than the buffer: it waits until the sender has given up
		r.record(0, numbered(i, i+10))
	}
	back := receiveAt(t, "tcp", srv.target.Address)
	if !await(func() bool { _, got := back.all(); return strings.HasSuffix(got, "line 499\n") }) {
		t.Fatal("nothing comes after the server is back")
	}
	_, got := back.all()
	first := 0
	if _, err := fmt.Sscanf(got[strings.Index(got, "]: ")+3:], "line %d", &first); err != nil || first == 10 {
		t.Errorf("the first line that was kept is %d, %v", first, err)
	}
	inOrder(t, got, first, 500)
}

// TestSenderWaits: a server takes nothing. Blocking, the container waits and loses nothing; otherwise the oldest lines go.
func TestSenderWaits(t *testing.T) {
	for _, drop := range []bool{false, true} {
		t.Run(fmt.Sprintf("drop=%v", drop), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "log")
			c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			srv := &receiver{target: Target{"unixgram", path}}
			send := sendTo(srv, "syslog")
			send.Buffer, send.Drop = 10000, drop
			r := sending(t, t.TempDir(), send)
			defer r.Close()
			begin(t, r, true)
			const lines = 3000
			written := make(chan struct{})
			go func() {
				defer close(written)
				for i := range lines {
					r.record(0, numbered(i, i+1))
				}
			}()
			if drop {
				<-written // or somebody waits, for ever
			} else {
				select {
				case <-written:
					t.Error("nobody waits")
				case <-time.After(500 * time.Millisecond):
				}
			}
			go srv.datagrams(c)
			<-written
			last := fmt.Sprintf("line %d\n", lines-1)
			if !await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, last) }) {
				t.Fatal("the last line does not come")
			}
			_, got := srv.all()
			if !drop {
				inOrder(t, got, 0, lines)
			} else if n := strings.Count(got, "\n"); n >= lines || n < 20 {
				t.Errorf("%d lines of %d", n, lines)
			}
		})
	}
}

// TestSenderRotates: files that are rotated and compressed while their lines are sent.
func TestSenderRotates(t *testing.T) {
	srv, dir := receiveAt(t, "unix", ""), t.TempDir()
	cfg := Log{Path: filepath.Join(dir, "log"), MaxSize: 5000, MaxFiles: 4, Compress: true, Send: sendTo(srv, "syslog")}
	cfg.Send.Buffer = 5000
	const lines = 5000
	for from := 0; from < lines; from += 500 {
		r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
		if err != nil {
			t.Fatal(err)
		}
		begin(t, r, from == 0)
		for i := from; i < from+500; i += 10 {
			r.record(0, numbered(i, i+10))
		}
		r.Close() // the keeper ends in the middle
	}
	r, err := openRecorder(cfg, filepath.Join(dir, "cursor"))
	if err != nil {
		t.Fatal(err)
	}
	begin(t, r, false)
	for i := lines; i < lines+200; i += 10 {
		r.record(0, numbered(i, i+10))
		r.flush()
	}
	if left := plainFiles(dir); len(left) > 0 {
		t.Errorf("not compressed: %v", left)
	}
	r.Close()
	await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, fmt.Sprintf("line %d\n", lines+199)) })
	_, got := srv.all()
	inOrder(t, got, 0, lines+200)
}

// journalFields decodes a message as systemd-journald does (src/journal/journald-native.c).
func journalFields(t *testing.T, b []byte) map[string]string {
	t.Helper()
	fields := map[string]string{}
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			t.Fatalf("a field without an end: %q", b)
		}
		if k, v, ok := bytes.Cut(b[:i], []byte{'='}); ok {
			fields[string(k)] = string(v)
			b = b[i+1:]
			continue
		}
		n := binary.LittleEndian.Uint64(b[i+1:])
		fields[string(b[:i])] = string(b[i+9 : i+9+int(n)])
		if b[i+9+int(n)] != '\n' {
			t.Fatal("a binary field without an end")
		}
		b = b[i+10+int(n):]
	}
	return fields
}

func TestSenderJournal(t *testing.T) {
	srv := receiveAt(t, "unixgram", "")
	send := sendTo(srv, "journald")
	send.Static = AppendJournalField(nil, "NOTE", "two\nlines")
	send.Static = AppendJournalField(send.Static, "LARGE", strings.Repeat("x", 400<<10)) // no datagram has room for it
	r := sending(t, t.TempDir(), send)
	defer r.Close()
	begin(t, r, true)
	long := strings.Repeat("0123456789abcdef", 40000/16)
	r.record(1, []byte(long[:30000]))
	r.record(1, []byte(long[30000:]+"\nshort\n\n"))
	r.flush()
	var got []map[string]string
	if !await(func() bool { all, _ := srv.all(); return len(all) == 5 }) {
		t.Fatal("not five messages")
	}
	all, _ := srv.all()
	for _, b := range all {
		got = append(got, journalFields(t, b))
	}
	for i, want := range []struct{ text, ordinal, last, partial string }{
		{long[:maxPart], "1", "false", "true"}, {long[maxPart : 2*maxPart], "2", "false", "true"}, {long[2*maxPart:], "3", "true", ""},
		{"short", "", "", ""}, {"", "", "", ""},
	} {
		f := got[i]
		if f["MESSAGE"] != want.text || f["CONTAINER_PARTIAL_ORDINAL"] != want.ordinal || f["CONTAINER_PARTIAL_LAST"] != want.last ||
			f["CONTAINER_PARTIAL_MESSAGE"] != want.partial || f["PRIORITY"] != "3" || f["NOTE"] != "two\nlines" ||
			f["CONTAINER_LOG_ORDINAL"] != fmt.Sprint(i+1) {
			delete(f, "LARGE")
			t.Errorf("message %d: %d bytes, %.200q", i, len(f["MESSAGE"]), f)
		}
	}
	if id := got[0]["CONTAINER_PARTIAL_ID"]; len(id) != 64 || id != got[2]["CONTAINER_PARTIAL_ID"] {
		t.Errorf("ID %q and %q", id, got[2]["CONTAINER_PARTIAL_ID"])
	}
}

// TestSenderFlooded: a server that talks without end does not hold up the sender.
func TestSenderFlooded(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	if err := unix.SetNonblock(fds[0], true); err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		for b := make([]byte, 64<<10); ; { // until this side ends
			if _, err := unix.SendmsgN(fds[1], b, nil, nil, unix.MSG_NOSIGNAL); err != nil {
				return
			}
		}
	}()
	said := make(chan bool)
	go func() {
		s := &socket{fd: fds[0], network: "unix"}
		for !s.broken() { // it may be quicker than the server, but not always
		}
		close(said)
	}()
	select {
	case <-said:
	case <-time.After(10 * time.Second):
		t.Error("the sender only listens")
	}
	unix.Shutdown(fds[0], unix.SHUT_RDWR)
	<-over
	unix.Close(fds[1])
}

// TestSenderGELF: what is too large for a datagram comes in chunks, compressed.
func TestSenderGELF(t *testing.T) {
	srv := receiveAt(t, "udp", "")
	send := sendTo(srv, "gelf")
	send.Static, send.Format, send.Level = []byte(`"_tag":"tag"}`), "gzip", 1
	r := sending(t, t.TempDir(), send)
	defer r.Close()
	begin(t, r, true)
	var noise []byte
	for range 9000 {
		noise = append(noise, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789<>"[rand.IntN(64)])
	}
	r.record(0, append(noise, "\nshort\n"...))
	r.flush()
	var texts []string
	chunks := map[byte][]byte{}
	done := func() bool {
		all, _ := srv.all()
		texts = nil
		clear(chunks)
		for _, b := range all {
			if b[0] == 0x1e {
				if b[1] != 0x0f || len(b) > chunkDatagram {
					t.Fatalf("chunk %x of %d bytes", b[:12], len(b))
				}
				chunks[b[10]] = b[12:]
				if len(chunks) < int(b[11]) {
					continue
				}
				b = nil
				for i := range len(chunks) {
					b = append(b, chunks[byte(i)]...)
				}
			}
			zr, err := gzip.NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			var m struct {
				Version, Host string
				Short         string  `json:"short_message"`
				Time          float64 `json:"timestamp"`
				Level         int
				Tag           string `json:"_tag"`
			}
			if err := json.NewDecoder(zr).Decode(&m); err != nil || m.Version != "1.1" || m.Host != "host" || m.Level != 6 || m.Tag != "tag" || m.Time < 1e9 {
				t.Fatalf("%+v: %v", m, err)
			}
			texts = append(texts, m.Short)
		}
		return len(texts) == 2
	}
	if !await(done) || texts[0] != string(noise) || texts[1] != "short" || len(chunks) < 4 {
		t.Errorf("%d messages in %d chunks: %.100q", len(texts), len(chunks), texts)
	}
}

// TestSenderAck: a message that is not answered is sent again.
func TestSenderAck(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	send := sendTo(&receiver{target: Target{"tcp", l.Addr().String()}}, "fluentd")
	send.Static, send.Ack, send.ReadMillis = []byte{0, 0}, true, 10000
	heard := make(chan string, 10)
	go func() {
		for n := 0; ; n++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			for {
				k, err := c.Read(buf)
				if err != nil {
					break
				}
				msg := string(buf[:k])
				heard <- msg
				if n == 0 {
					break // no answer
				}
				_, chunk, _ := strings.Cut(msg, "\xa5chunk")
				c.Write([]byte("\x81\xa3ack" + chunk))
			}
			c.Close()
		}
	}()
	r := sending(t, t.TempDir(), send)
	defer r.Close()
	begin(t, r, true)
	r.record(0, []byte("one\ntwo\n"))
	r.flush()
	first, again, second := <-heard, <-heard, <-heard
	if !strings.Contains(first, "\xa3one") || again != first || !strings.Contains(second, "\xa3two") {
		t.Errorf("%q, %q, %q", first, again, second)
	}
	if r.send.waiting != 0 {
		t.Error("it is not noted")
	}
}

// TestAdoptSendsEveryLine: the keeper is killed again and again; the server gets every line, and twice
// only what was on its way at such a moment.
func TestAdoptSendsEveryLine(t *testing.T) {
	srv := receiveAt(t, "unixgram", "")
	b, cfg := sealed(t), config(t)
	cfg.Log.MaxSize, cfg.Log.MaxFiles, cfg.Log.Send = 50<<10, 3, sendTo(srv, "syslog")
	const lines = 3000
	start(t, b, cfg, shell(t, 3, fmt.Sprintf(
		`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); [ $((i %% 100)) = 0 ] && sleep 0.005; done; exit 42`, lines)),
		StartOptions{})
	kills := 0
	for kills < 50 && readState(cfg).Status == Running {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		killKeeper(t, cfg)
		kills++
		if err := Adopt(t.Context(), b, cfg.RunDir); err != nil {
			t.Fatal(err)
		}
	}
	if !await(func() bool { return readState(cfg).Status == Exited }) {
		t.Fatalf("state %+v", readState(cfg))
	}
	if !await(func() bool { _, got := srv.all(); return strings.HasSuffix(got, fmt.Sprintf("line %d\n", lines-1)) }) {
		t.Error("the last line does not come")
	}
	_, got := srv.all()
	n, twice := 0, 0
	for line := range strings.Lines(got) {
		_, text, _ := strings.Cut(line, "]: ")
		switch text {
		case fmt.Sprintf("line %d\n", n):
			n++
		case fmt.Sprintf("line %d\n", n-1):
			twice++
		default:
			t.Fatalf("%q comes after line %d (%d kills)", line, n-1, kills)
		}
	}
	if n != lines || twice > kills {
		t.Errorf("%d lines of %d, %d of them twice after %d kills", n, lines, twice, kills)
	}
	t.Logf("%d kills, %d lines twice", kills, twice)
}

// TestSenderDoesNotHoldUpTheEnd: a server that hangs lets the container end.
func TestSenderDoesNotHoldUpTheEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, cfg := sealed(t), config(t)
	cfg.Log.Send = sendTo(&receiver{target: Target{"unixgram", path}}, "syslog")
	cfg.Log.Send.Buffer = 1000
	begun := time.Now()
	s := start(t, b, cfg, shell(t, 3, `i=0; while [ $i -lt 2000 ]; do echo "line $i"; i=$((i+1)); done; exit 7`),
		StartOptions{Attach: &AttachOptions{}, Claim: true})
	status, err := s.Copy(io.Discard, io.Discard)
	if err != nil || status.Code != 7 {
		t.Errorf("%+v, %v", status, err)
	}
	if took := time.Since(begun); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
	if n := len(logEntries(t, cfg)); n != 2000 {
		t.Errorf("%d lines are kept", n)
	}
	s.Close()
}

// What the recorder writes is what the sender reads, whatever it is; and nothing else makes it fail.
func FuzzEntry(f *testing.F) {
	f.Add([]byte("plain\n"))
	f.Add([]byte("\x00\x1b[1m\"quoted\"\\n \xff\xc3 \u2028 é\r\n"))
	f.Add([]byte(`{"log":"\u12","stream":"stdout","time":"2006-01-02T15:04:05.000000000Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var scratch []byte
		parseEntry(b, &scratch)
		attrs := ""
		if len(b)%2 == 1 {
			object, _ := json.Marshal(map[string]string{"a": string(b), `","attrs":{`: "x"})
			attrs = string(object)
		}
		now := time.Unix(1e9, 5)
		line := append([]byte(`{"log":"`), appendEscaped(nil, b, true)...)
		line = appendEnd(line, "stderr", attrs, now)
		e, ok := parseEntry(line, &scratch)
		text, whole := bytes.CutSuffix(b, []byte{'\n'})
		if !ok || !bytes.Equal(e.text, text) || e.part == whole || e.stream != 1 || !e.time.Equal(now) {
			t.Errorf("%q is read as %+v, %v", line, e, ok)
		}
	})
}

// A note may be torn or full of nonsense.
func FuzzSent(f *testing.F) {
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "note")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if st, ok := readSent(file); ok && st.at < 0 {
			t.Errorf("%+v", st)
		}
	})
}

// TestFluentMessage: the bytes are those that dockerd's client sends, but for the order of the pairs, which is none there.
func TestFluentMessage(t *testing.T) {
	when := time.Unix(1795370885, 5).UTC()
	static := AppendPackedPair([]byte{0, 1}, "container_name", "/web")
	s := &sender{cfg: &Sender{Driver: "fluentd", Tag: "tag", Static: static}}
	record := "\xa6source\xa6stdout\xa3log\xa4text\xaecontainer_name\xa4/web"
	if got, want := string(s.message(nil, logEntry{text: []byte("text"), time: when}, &sentState{})), "\x94\xa3tag\xd2\x6b\x03\x2f\x85\x83"+record+"\x80"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.cfg.Precise = true
	if got, want := string(s.message(nil, logEntry{text: []byte("text"), time: when}, &sentState{})), "\x94\xa3tag\xd7\x00\x6b\x03\x2f\x85\x00\x00\x00\x05\x83"+record+"\x80"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	s.cfg.Static[1] = 13
	part := string(s.message(nil, logEntry{text: bytes.Repeat([]byte("x"), maxPart), time: when, part: true}, &sentState{}))
	for _, want := range []string{
		"\xde\x00\x13\xa6source", "\xa3log\xda\x40\x00xxx", "\xafpartial_message\xa4true\xaapartial_id\xd9\x40", "\xafpartial_ordinal\xa11", "\xacpartial_last\xa5false\x80",
	} {
		if !strings.Contains(part, want) {
			t.Errorf("a part has no %q", want)
		}
	}
}
