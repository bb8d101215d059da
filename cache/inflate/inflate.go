// Package inflate reads gzip (RFC 1952), which is what most layers of images are in.
//
// Taking deflate (RFC 1951) apart is the largest part of unpacking an image. This reader takes about
// half the time of those that decode a symbol at a time from a buffered reader: it keeps up to 63
// bits of what comes in a register, finds a symbol with its extra bits by one look into a table, and writes
// into a buffer that is its own window.
package inflate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// ErrCorrupt says that the bytes are no gzip, or damaged. What is cut off is an io.ErrUnexpectedEOF.
var ErrCorrupt = errors.New("corrupt data")

const (
	window   = 32 << 10
	inSize   = 64 << 10
	outSize  = window + 128<<10
	slack    = 8 // bytes behind the end of the output that may be written in passing
	maxMatch = 258
	full     = outSize - 3 - maxMatch // one turn of the loop in quickly may write so much
)

// A Reader gives the plain bytes of gzip members that follow each other.
type Reader struct {
	src    io.Reader
	srcErr error // what src ended with

	in       []byte
	pos, end int    // of what is in it
	bits     uint64 // taken from in, the next one lowest
	n        uint   // how many of them count; those above are zeros, or the same as at pos

	out        []byte // outSize and slack: the window, then what is new
	given, op  int    // up to where it was given to the caller, and is written
	begin      int    // where the member begins, or 0 if that is gone
	summed     int    // up to where it is in crc and size
	crc, size  uint32
	err        error
	next       func(*Reader) error // the state: what comes next
	last       bool                // block of the member
	stored     int                 // bytes of a stored block that are to come
	lit        [litSize]uint32
	dist       [distSize]uint32
	values     *values
	afterFirst bool // member
}

// NewReader reads the header of the first member.
func NewReader(src io.Reader) (*Reader, error) {
	r := &Reader{src: src, in: make([]byte, inSize), out: make([]byte, outSize+slack), values: newValues()}
	if err := r.header(); err != nil {
		return nil, r.failed(err)
	}
	return r, nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for r.given == r.op {
		if r.err != nil {
			return 0, r.err
		}
		r.slide()
		for r.err == nil && r.op < full {
			r.err = r.next(r)
		}
		if r.err != nil && r.err != io.EOF {
			r.err = r.failed(r.err)
		}
		r.sum()
	}
	n := copy(p, r.out[r.given:r.op])
	r.given += n
	return n, nil
}

// slide makes room for what comes by moving the window to the front.
func (r *Reader) slide() {
	if r.op < outSize/2 {
		return
	}
	r.sum()
	by := r.op - window
	copy(r.out, r.out[by:r.op])
	r.op, r.given, r.summed, r.begin = window, r.given-by, window, max(0, r.begin-by)
}

// sum adds what is new to the sums of the member.
func (r *Reader) sum() {
	b := r.out[r.summed:r.op]
	r.crc = crc32.Update(r.crc, crc32.IEEETable, b)
	r.size += uint32(len(b))
	r.summed = r.op
}

// failed returns why there is no more, by where the bytes came from.
func (r *Reader) failed(err error) error {
	if err == io.ErrUnexpectedEOF && r.srcErr != nil && r.srcErr != io.EOF {
		return r.srcErr
	}
	return err
}

func corrupt(what string) error { return fmt.Errorf("%s: %w", what, ErrCorrupt) }

// more reads on, behind what is left in the buffer. At the end of the source that is an io.ErrUnexpectedEOF.
func (r *Reader) more() error {
	kept := max(0, r.pos-8) // what is in the register may be put back
	r.end = copy(r.in, r.in[kept:r.end])
	r.pos -= kept
	for tries := 0; r.srcErr == nil; tries++ {
		n, err := r.src.Read(r.in[r.end:])
		r.end += n
		r.srcErr = err
		if n > 0 {
			return nil
		}
		if tries == 100 {
			r.srcErr = io.ErrNoProgress
		}
	}
	return io.ErrUnexpectedEOF
}

// need has at least want bits in the register, 32 at most.
func (r *Reader) need(want uint) error {
	for r.n < want {
		if r.pos == r.end {
			if err := r.more(); err != nil {
				return err
			}
		}
		r.bits |= uint64(r.in[r.pos]) << r.n
		r.pos++
		r.n += 8
	}
	return nil
}

func (r *Reader) take(n uint) uint32 {
	v := uint32(r.bits & (1<<n - 1))
	r.bits >>= n
	r.n -= n
	return v
}

// get is need and take.
func (r *Reader) get(n uint) (uint32, error) {
	if err := r.need(n); err != nil {
		return 0, err
	}
	return r.take(n), nil
}

// align drops what is left of a byte, and puts whole bytes back.
func (r *Reader) align() {
	r.take(r.n % 8)
	r.pos -= int(r.n / 8)
	r.bits, r.n = 0, 0
}

// What can be in the flags of a header, RFC 1952, 2.3.1.
const (
	hasSum     = 1 << 1
	hasExtra   = 1 << 2
	hasName    = 1 << 3
	hasComment = 1 << 4
)

// header reads that of a member. Where there is no other member it returns io.EOF.
func (r *Reader) header() error {
	if r.pos == r.end {
		if err := r.more(); err != nil {
			if r.srcErr == io.EOF && r.afterFirst {
				return io.EOF
			}
			return err
		}
	}
	r.afterFirst = true
	var head [10]byte
	crc := uint32(0)
	read := func(p []byte) error {
		for i := range p {
			v, err := r.get(8)
			if err != nil {
				return err
			}
			p[i] = byte(v)
		}
		crc = crc32.Update(crc, crc32.IEEETable, p)
		return nil
	}
	if err := read(head[:]); err != nil {
		return err
	}
	if head[0] != 0x1f || head[1] != 0x8b || head[2] != 8 {
		return corrupt("no header")
	}
	flags := head[3]
	var b [2]byte
	if flags&hasExtra != 0 {
		if err := read(b[:]); err != nil {
			return err
		}
		for range binary.LittleEndian.Uint16(b[:]) {
			if err := read(b[:1]); err != nil {
				return err
			}
		}
	}
	for _, text := range []byte{hasName, hasComment} {
		for end := flags&text == 0; !end; end = b[0] == 0 {
			if err := read(b[:1]); err != nil {
				return err
			}
		}
	}
	if flags&hasSum != 0 {
		want := uint16(crc)
		if err := read(b[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(b[:]) != want {
			return corrupt("sum of the header")
		}
	}
	r.begin, r.crc, r.size = r.op, 0, 0
	r.next = (*Reader).blockHeader
	return nil
}

// trailer checks the sums behind a member.
func (r *Reader) trailer() error {
	r.align()
	r.sum()
	crc, err := r.get(32)
	if err != nil {
		return err
	}
	size, err := r.get(32)
	if err != nil {
		return err
	}
	if crc != r.crc || size != r.size {
		return corrupt("sum of the data")
	}
	r.next = (*Reader).header
	return nil
}

// blockHeader is RFC 1951, 3.2.3.
func (r *Reader) blockHeader() error {
	if r.last {
		r.last = false
		r.next = (*Reader).trailer
		return nil
	}
	v, err := r.get(3)
	if err != nil {
		return err
	}
	r.last = v&1 != 0
	switch v >> 1 {
	case 0:
		return r.storedHeader()
	case 1:
		r.fixedCodes()
	case 2:
		if err := r.ownCodes(); err != nil {
			return err
		}
	default:
		return corrupt("type of a block")
	}
	r.next = (*Reader).block
	return nil
}

// storedHeader is RFC 1951, 3.2.4.
func (r *Reader) storedHeader() error {
	r.align()
	v, err := r.get(32)
	if err != nil {
		return err
	}
	if uint16(v) != ^uint16(v>>16) {
		return corrupt("length of a stored block")
	}
	r.stored = int(uint16(v))
	r.next = (*Reader).storedBlock
	return nil
}

func (r *Reader) storedBlock() error {
	r.align()
	if r.stored == 0 {
		r.next = (*Reader).blockHeader
		return nil
	}
	if r.pos == r.end {
		if err := r.more(); err != nil {
			return err
		}
	}
	n := min(r.stored, r.end-r.pos, outSize-r.op)
	copy(r.out[r.op:], r.in[r.pos:r.pos+n])
	r.op, r.pos, r.stored = r.op+n, r.pos+n, r.stored-n
	return nil
}

// fixedCodes is RFC 1951, 3.2.6.
func (r *Reader) fixedCodes() {
	var lengths [numLit]byte
	for i := range lengths {
		switch {
		case i < 144:
			lengths[i] = 8
		case i < 256:
			lengths[i] = 9
		case i < 280:
			lengths[i] = 7
		default:
			lengths[i] = 8
		}
	}
	fill(r.lit[:], litBits, lengths[:], r.values.lit[:])
	clear(lengths[:])
	for i := range numDist {
		lengths[i] = 5
	}
	fill(r.dist[:], distBits, lengths[:numDist], r.values.dist[:])
}

// orderOfLengths is the order in which the lengths of the codes for lengths come.
const orderOfLengths = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// ownCodes is RFC 1951, 3.2.7.
func (r *Reader) ownCodes() error {
	v, err := r.get(14)
	if err != nil {
		return err
	}
	nLit, nDist, nLen := int(v&31)+257, int(v>>5&31)+1, int(v>>10)+4
	if nLit > 286 || nDist > 30 {
		return corrupt("number of codes")
	}
	var lengths [numLit + numDist]byte
	for _, i := range []byte(orderOfLengths[:nLen]) {
		v, err := r.get(3)
		if err != nil {
			return err
		}
		lengths[i] = byte(v)
	}
	if !fill(r.dist[:], lenBits, lengths[:numLen], r.values.len[:]) {
		return corrupt("codes of lengths")
	}
	clear(lengths[:numLen])
	for i := 0; i < nLit+nDist; {
		// The last code of all may end with the last byte of the source.
		err := r.need(lenBits)
		e := r.dist[r.bits&(1<<lenBits-1)]
		if err != nil && uint(e&0xff) > r.n {
			return err
		}
		if e&isSpecial != 0 {
			return corrupt("code of a length")
		}
		r.take(uint(e & 0xff))
		symbol := byte(e >> 16)
		if symbol < 16 {
			lengths[i] = symbol
			i++
			continue
		}
		again := [3]struct{ bits, least uint }{{2, 3}, {3, 3}, {7, 11}}[symbol-16]
		v, err := r.get(again.bits)
		if err != nil {
			return err
		}
		n := int(again.least) + int(v)
		if symbol == 16 && i == 0 || i+n > nLit+nDist {
			return corrupt("lengths of codes")
		}
		for range n {
			if symbol == 16 {
				lengths[i] = lengths[i-1]
			}
			i++
		}
	}
	if lengths[256] == 0 {
		return corrupt("no code for the end of a block")
	}
	if !fill(r.lit[:], litBits, lengths[:nLit], r.values.lit[:]) || !fill(r.dist[:], distBits, lengths[nLit:nLit+nDist], r.values.dist[:]) {
		return corrupt("codes")
	}
	return nil
}

// block writes what a block means until it ends, or the buffer is full.
func (r *Reader) block() error {
	for r.op < full {
		var ended bool
		var err error
		if r.end-r.pos < quickBytes && r.more() != nil {
			ended, err = r.symbol()
		} else {
			ended, err = r.quickly()
		}
		if err != nil {
			return err
		}
		if ended {
			r.next = (*Reader).blockHeader
			break
		}
	}
	return nil
}

// symbol writes one, at the end of the source.
func (r *Reader) symbol() (ended bool, err error) {
	e, err := r.code(r.lit[:], litBits)
	switch {
	case err != nil:
		return false, err
	case e&isLiteral != 0:
		r.out[r.op] = byte(e >> 16)
		r.op++
		return false, nil
	case e&isEnd != 0 && e&isSpecial != 0:
		return true, nil
	}
	length, err := r.value(e)
	if err != nil {
		return false, err
	}
	if e, err = r.code(r.dist[:], distBits); err != nil {
		return false, err
	}
	if e&isSpecial != 0 {
		return false, corrupt("length instead of a distance")
	}
	distance, err := r.value(e)
	if err != nil {
		return false, err
	}
	if distance > r.op-r.begin {
		return false, corrupt("distance")
	}
	for range length {
		r.out[r.op] = r.out[r.op-distance]
		r.op++
	}
	return false, nil
}

// code takes one and returns its entry, which is one of a symbol.
func (r *Reader) code(table []uint32, most uint) (uint32, error) {
	err := r.need(maxCode)
	e := table[r.bits&(1<<most-1)]
	if e&(isSpecial|isTable) == isSpecial|isTable && e&isLiteral == 0 {
		if r.n < most {
			return 0, err
		}
		r.take(most)
		e = table[uint64(e>>16)+r.bits&(1<<(e>>8&15)-1)]
	}
	if e&isSpecial != 0 && e&isLiteral == 0 && e&isEnd == 0 {
		if err != nil {
			return 0, err
		}
		return 0, corrupt("code")
	}
	if length := uint(e >> 8 & 15); length <= r.n {
		r.take(length)
		return e, nil
	}
	return 0, err
}

// value is that of an entry whose code was taken, and of the bits behind it.
func (r *Reader) value(e uint32) (int, error) {
	v, err := r.get(uint(e&0xff) - uint(e>>8&15))
	return int(e>>16) + int(v), err
}
