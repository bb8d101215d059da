package keeper

import (
	"encoding/binary"
	"hash/crc32"
	"os"
)

// A cursor makes logging survive the death of the keeper. Output is looked at in its
// FIFO without being consumed (tee(2)), written to the log, noted in the cursor, and
// consumed last. A new keeper thus knows
//
//   - by size and inode, which bytes of the log nobody vouched for: it cuts them off and
//     logs them again from the FIFO;
//   - by length and digest, whether the last noted chunk still waits in the FIFO: it is
//     then consumed and not logged twice;
//   - by carry, what a line began with that has not ended;
//   - by total, how much of each stream has been told to attached clients.
//
// The file has two slots that are written in turn, so that a torn write loses nothing.
type cursor struct {
	f    *os.File
	seq  uint64
	note cursorNote
	buf  []byte
}

type cursorNote struct {
	inode uint64    // of the log file
	size  int64     // of the log file
	n     [2]int    // length of the last chunk of each stream
	sum   [2]uint64 // its digest
	total [2]int64  // bytes of the stream before that chunk
	carry [2][]byte
}

const (
	cursorSlot   = 256 << 10     // more than two carries
	cursorHeader = 4 + 9*8 + 2*4 // checksum, words, lengths of the carries
)

func openCursor(path string) (*cursor, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	c := &cursor{f: f}
	for slot := range int64(2) {
		if seq, note, ok := readSlot(f, slot); ok && seq > c.seq {
			c.seq, c.note = seq, note
		}
	}
	return c, nil
}

func readSlot(f *os.File, slot int64) (seq uint64, n cursorNote, ok bool) {
	header := make([]byte, cursorHeader)
	if _, err := f.ReadAt(header, slot*cursorSlot); err != nil {
		return 0, n, false
	}
	word := func(i int) uint64 { return binary.LittleEndian.Uint64(header[4+8*i:]) }
	a := int(binary.LittleEndian.Uint32(header[4+72:]))
	b := int(binary.LittleEndian.Uint32(header[4+76:]))
	if a > maxLine || b > maxLine {
		return 0, n, false
	}
	all := make([]byte, len(header)+a+b)
	if _, err := f.ReadAt(all, slot*cursorSlot); err != nil {
		return 0, n, false
	}
	if crc32.ChecksumIEEE(all[4:]) != binary.LittleEndian.Uint32(all) {
		return 0, n, false
	}
	n = cursorNote{inode: word(1), size: int64(word(2))}
	n.n = [2]int{int(word(3)), int(word(4))}
	n.sum = [2]uint64{word(5), word(6)}
	n.total = [2]int64{int64(word(7)), int64(word(8))}
	n.carry[0] = all[len(header) : len(header)+a]
	n.carry[1] = all[len(header)+a:]
	return word(0), n, true
}

// save writes the note.
func (c *cursor) save() error {
	c.seq++
	n := &c.note
	b := append(c.buf[:0], 0, 0, 0, 0)
	words := [...]uint64{c.seq, n.inode, uint64(n.size), uint64(n.n[0]), uint64(n.n[1]), n.sum[0], n.sum[1],
		uint64(n.total[0]), uint64(n.total[1])}
	for _, w := range words {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(n.carry[0])))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(n.carry[1])))
	b = append(append(b, n.carry[0]...), n.carry[1]...)
	binary.LittleEndian.PutUint32(b, crc32.ChecksumIEEE(b[4:]))
	c.buf = b
	_, err := c.f.WriteAt(b, int64(c.seq%2)*cursorSlot)
	if cap(c.buf) > 64<<10 {
		c.buf = nil
	}
	return err
}

func (c *cursor) Close() error { return c.f.Close() }

// chunkSum is a 64-bit digest that does not change from process to process.
func chunkSum(b []byte) uint64 {
	const prime = 1099511628211 // FNV-1a, eight bytes at a time
	h := uint64(14695981039346656037)
	for len(b) >= 8 {
		h = (h ^ binary.LittleEndian.Uint64(b)) * prime
		h ^= h >> 29
		b = b[8:]
	}
	for _, c := range b {
		h = (h ^ uint64(c)) * prime
	}
	return h
}
