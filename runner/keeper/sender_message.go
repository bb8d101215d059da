package keeper

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"
)

// maxPart is how long a message can be: a longer line becomes several, as in dockerd
// (daemon/logger/copier.go, defaultBufSize).
const maxPart = 16 << 10

// logEntry is a line of the log, or a part of one.
type logEntry struct {
	text   []byte
	stream int // 0 or 1
	time   time.Time
	part   bool // its line goes on
}

// parseEntry reads a line of the log. The text is in it or in scratch.
func parseEntry(line []byte, scratch *[]byte) (e logEntry, ok bool) {
	l, ok := ParseLogLine(bytes.TrimSuffix(line, []byte{'\n'}), scratch)
	if !ok {
		return e, false
	}
	e.stream = slices.Index(streamNames[:], string(l.Stream))
	var err error
	e.time, err = time.Parse(time.RFC3339Nano, string(l.Time))
	e.text, e.part = l.Text, !l.Newline
	return e, err == nil && e.stream >= 0
}

// partial is what is said of a part of a line.
type partial struct {
	id      string
	ordinal int64 // from 1 on; 0: it is a whole line
	last    bool
}

// partOf follows the parts of a line.
func (s *sender) partOf(e *logEntry, st *sentState) (p partial) {
	n, since := &st.parts[e.stream], &st.since[e.stream]
	if *n == 0 && !e.part {
		return p
	}
	if *n == 0 {
		*since = e.time.UnixNano()
	}
	*n++
	e.time = time.Unix(0, *since).UTC()
	p = partial{id: s.partID(e.stream, *since), ordinal: *n, last: !e.part}
	if p.last || len(e.text) < maxPart { // the end of the line, or of the stream
		*n = 0
	}
	return p
}

// partID is an ID of 64 digits that a line has and no other.
func (s *sender) partID(stream int, since int64) string {
	var id []byte
	for i := range byte(4) {
		b := append(binary.LittleEndian.AppendUint64([]byte{i, byte(stream)}, uint64(since)), s.cfg.Static...)
		id = fmt.Appendf(id, "%016x", chunkSum(b))
	}
	return string(id)
}

// message appends what the server is sent of an entry, which may be nothing.
func (s *sender) message(b []byte, e logEntry, st *sentState) []byte {
	p := s.partOf(&e, st)
	st.ordinal++
	switch s.cfg.Driver {
	case "journald":
		return s.journalMessage(b, e, p, st.ordinal)
	case "fluentd":
		return s.fluentMessage(b, e, p, *st)
	}
	if len(e.text) == 0 { // as dockerd has it
		return b
	}
	if s.cfg.Driver == "gelf" {
		return s.gelfMessage(b, e)
	}
	start := len(b)
	b = s.syslogMessage(b, e)
	if s.cfg.Counted {
		b = slices.Insert(b, start, fmt.Appendf(nil, "%d ", len(b)-start)...)
	}
	return b
}

// severity is what a stream is in syslog's words: an error, or information.
func (e *logEntry) severity() int { return []int{6, 3}[e.stream] }

// syslogMessage is dockerd's: RFC 3164 without a host as it is told to /dev/log, or as the option has it.
func (s *sender) syslogMessage(b []byte, e logEntry) []byte {
	c := s.cfg
	b = append(strconv.AppendInt(append(b, '<'), int64(c.Facility|e.severity()), 10), '>')
	now := e.time.Local()
	pid := strconv.Itoa(os.Getpid())
	switch c.Format {
	case "rfc5424", "rfc5424micro":
		layout := time.RFC3339
		if c.Format == "rfc5424micro" {
			layout = "2006-01-02T15:04:05.000000Z07:00"
		}
		b = now.AppendFormat(append(b, "1 "...), layout)
		for _, word := range []string{c.Host, c.Tag, pid, c.Tag, "-"} {
			b = append(append(b, ' '), word...)
		}
		b = append(b, ' ')
	default:
		b = append(now.AppendFormat(b, time.Stamp), ' ')
		if c.Format == "rfc3164" {
			b = append(append(b, c.Host...), ' ')
		}
		b = append(append(append(append(b, c.Tag...), '['), pid...), "]: "...)
	}
	return append(append(b, e.text...), '\n')
}

// journalMessage is a message of systemd's native protocol. Static has the fields that are always the same.
func (s *sender) journalMessage(b []byte, e logEntry, p partial, ordinal uint64) []byte {
	b = AppendJournalField(b, "PRIORITY", strconv.Itoa(e.severity()))
	b = AppendJournalField(b, "MESSAGE", string(e.text))
	b = append(b, s.cfg.Static...)
	b = AppendJournalField(b, "SYSLOG_TIMESTAMP", e.time.Format(time.RFC3339Nano))
	if p.ordinal > 0 {
		b = AppendJournalField(b, "CONTAINER_PARTIAL_ID", p.id)
		b = AppendJournalField(b, "CONTAINER_PARTIAL_ORDINAL", strconv.FormatInt(p.ordinal, 10))
		b = AppendJournalField(b, "CONTAINER_PARTIAL_LAST", strconv.FormatBool(p.last))
		if !p.last {
			b = AppendJournalField(b, "CONTAINER_PARTIAL_MESSAGE", "true")
		}
	}
	return AppendJournalField(b, "CONTAINER_LOG_ORDINAL", strconv.FormatUint(ordinal, 10))
}

// AppendJournalField appends a field as systemd's native protocol has it.
func AppendJournalField(b []byte, name, value string) []byte {
	b = append(b, name...)
	if bytes.IndexByte([]byte(value), '\n') < 0 {
		b = append(b, '=')
	} else {
		b = binary.LittleEndian.AppendUint64(append(b, '\n'), uint64(len(value)))
	}
	return append(append(b, value...), '\n')
}

// fluentMessage is a message of fluentd's forward protocol, in its Message mode. The first byte of Static says
// how many pairs follow.
func (s *sender) fluentMessage(b []byte, e logEntry, p partial, st sentState) []byte {
	b = appendPacked(append(b, 0x94), s.cfg.Tag) // an array of four
	switch sec := e.time.Unix(); {
	case s.cfg.Precise: // EventTime, an extension of eight bytes
		b = binary.BigEndian.AppendUint32(append(b, 0xd7, 0), uint32(sec))
		b = binary.BigEndian.AppendUint32(b, uint32(e.time.Nanosecond()))
	case sec <= math.MaxInt32:
		b = binary.BigEndian.AppendUint32(append(b, 0xd2), uint32(sec))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0xd3), uint64(sec))
	}
	pairs := int(binary.BigEndian.Uint16(s.cfg.Static)) + 2
	if p.ordinal > 0 {
		pairs += 4
	}
	if pairs < 16 {
		b = append(b, 0x80|byte(pairs))
	} else {
		b = binary.BigEndian.AppendUint16(append(b, 0xde), uint16(pairs))
	}
	b = AppendPackedPair(b, "source", streamNames[e.stream])
	b = AppendPackedPair(b, "log", string(e.text))
	b = append(b, s.cfg.Static[2:]...)
	if p.ordinal > 0 {
		b = AppendPackedPair(b, "partial_message", "true")
		b = AppendPackedPair(b, "partial_id", p.id)
		b = AppendPackedPair(b, "partial_ordinal", strconv.FormatInt(p.ordinal, 10))
		b = AppendPackedPair(b, "partial_last", strconv.FormatBool(p.last))
	}
	if !s.cfg.Ack {
		return append(b, 0x80) // no options
	}
	return AppendPackedPair(append(b, 0x81), "chunk", string(s.chunkID(st)))
}

// chunkID names a message that is to be answered.
func (s *sender) chunkID(st sentState) []byte {
	return fmt.Appendf(nil, "%016x%016x", chunkSum(s.cfg.Static), chunkSum(binary.LittleEndian.AppendUint64(
		binary.LittleEndian.AppendUint64(nil, st.ordinal), uint64(st.at))))
}

// AppendPackedPair appends two strings as msgpack has them in a map.
func AppendPackedPair(b []byte, k, v string) []byte { return appendPacked(appendPacked(b, k), v) }

func appendPacked(b []byte, s string) []byte {
	switch n := len(s); {
	case n < 32:
		b = append(b, 0xa0|byte(n))
	case n <= math.MaxUint8:
		b = append(b, 0xd9, byte(n))
	case n <= math.MaxUint16:
		b = binary.BigEndian.AppendUint16(append(b, 0xda), uint16(n))
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xdb), uint32(n))
	}
	return append(b, s...)
}

// gelfMessage is GELF 1.1. Static has the fields that are always the same, as the end of a JSON object.
func (s *sender) gelfMessage(b []byte, e logEntry) []byte {
	quote := func(text string) {
		quoted, _ := json.Marshal(text)
		b = append(b, quoted...)
	}
	b = append(b, `{"version":"1.1","host":`...)
	quote(s.cfg.Host)
	b = append(b, `,"short_message":`...)
	quote(string(e.text))
	b = append(b, `,"timestamp":`...)
	b = strconv.AppendFloat(b, float64(e.time.UnixMilli())/1000, 'f', -1, 64)
	b = strconv.AppendInt(append(b, `,"level":`...), int64(e.severity()), 10)
	b = append(append(b, ','), s.cfg.Static...)
	if s.sock.stream() {
		b = append(b, 0)
	}
	return b
}

// packer compresses messages. It is used again and again, being large.
type packer struct {
	to interface {
		io.WriteCloser
		Reset(w io.Writer)
	}
	buf bytes.Buffer
}

// GELF over UDP (docs.graylog.org, "GELF via UDP"): what is too large for one datagram goes in chunks.
const (
	chunkDatagram = 1420
	chunkHeader   = 12
	maxChunks     = 128
)

func (s *sender) putChunks() error {
	b := s.out
	p := &s.pack
	if s.cfg.Format != "none" {
		if p.to == nil {
			level := s.cfg.Level
			if level < flate.HuffmanOnly || level > flate.BestCompression {
				level = flate.BestSpeed
			}
			if s.cfg.Format == "zlib" {
				p.to, _ = zlib.NewWriterLevel(&p.buf, level)
			} else {
				p.to, _ = gzip.NewWriterLevel(&p.buf, level)
			}
		}
		p.buf.Reset()
		p.to.Reset(&p.buf)
		p.to.Write(b) // into memory
		p.to.Close()
		b = p.buf.Bytes()
	}
	if len(b) <= chunkDatagram {
		return s.sock.write(b, 0)
	}
	const each = chunkDatagram - chunkHeader
	count := (len(b) + each - 1) / each
	if count > maxChunks {
		fmt.Fprintf(os.Stderr, "a message of %d bytes is too large for GELF\n", len(b))
		return nil
	}
	head := binary.LittleEndian.AppendUint64([]byte{0x1e, 0x0f}, chunkSum(b)^uint64(time.Now().UnixNano()))
	for i := range count {
		chunk := append(head[:10:10], byte(i), byte(count))
		chunk = append(chunk, b[i*each:min(len(b), (i+1)*each)]...)
		if err := s.sock.write(chunk, 0); err != nil {
			return err
		}
	}
	return nil
}
