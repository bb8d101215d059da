package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"github.com/containerd/errdefs"
)

// A program on disk, little-endian, is
//
//	"teu launch 1\n" GOARCH "\n"
//	slots u32, clone flags u64, cgroup directory (u32 length, bytes)
//	u32 count of notes, each u32 length and bytes
//	u32 length of data, bytes
//	u32 count of pointers, each u32 at, u32 to
//	u32 count of operations, each u32 nr, note, when, unless, 4 u16 ignore, 6 u8 kinds, 6 u64 args
//
// System call numbers belong to one architecture, so the file does too.
const magic = "teu launch 1\n" + runtime.GOARCH + "\n"

const opSize = 4*4 + 4*2 + 6 + 6*8

// MarshalBinary returns the form UnmarshalBinary reads.
func (p *Program) MarshalBinary() ([]byte, error) {
	le := binary.LittleEndian
	size := len(magic) + 4 + 8 + 4*5 + len(p.opts.CgroupDir) + len(p.data) + len(p.relocs)*8 + len(p.ops)*opSize
	for _, n := range p.notes {
		size += 4 + len(n)
	}
	b := make([]byte, 0, size)
	b = append(b, magic...)
	b = le.AppendUint32(b, uint32(p.opts.Slots))
	b = le.AppendUint64(b, p.opts.CloneFlags)
	b = appendString(b, p.opts.CgroupDir)
	b = le.AppendUint32(b, uint32(len(p.notes)))
	for _, n := range p.notes {
		b = appendString(b, n)
	}
	b = appendString(b, string(p.data))
	b = le.AppendUint32(b, uint32(len(p.relocs)))
	for _, r := range p.relocs {
		b = le.AppendUint32(b, r.at)
		b = le.AppendUint32(b, r.to)
	}
	b = le.AppendUint32(b, uint32(len(p.ops)))
	for i := range p.ops {
		b = p.ops[i].append(b)
	}
	return b, nil
}

func (o *op) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, o.nr)
	b = le.AppendUint32(b, o.note)
	b = le.AppendUint32(b, uint32(o.when))
	b = le.AppendUint32(b, uint32(o.unless))
	for _, e := range o.ignore {
		b = le.AppendUint16(b, e)
	}
	for _, k := range o.kinds {
		b = append(b, byte(k))
	}
	for _, a := range o.args {
		b = le.AppendUint64(b, a)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint32(b, uint32(len(s))), s...)
}

// UnmarshalBinary reads what MarshalBinary wrote and checks everything the child relies
// on. Anything else, also the program of another architecture, is an
// errdefs.ErrInvalidArgument and leaves p unchanged.
func (p *Program) UnmarshalBinary(b []byte) error {
	d := decoder{b: b}
	q := d.program()
	err := d.err
	if err == nil && len(d.b) != 0 {
		err = fmt.Errorf("%d bytes too many", len(d.b))
	}
	if err == nil {
		err = q.validate()
	}
	if err != nil {
		return fmt.Errorf("reading a launch program: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	*p = q
	return nil
}

// decoder takes values off b; after the first error all are zero.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) program() (p Program) {
	if string(d.take(len(magic))) != magic && d.err == nil {
		d.err = errors.New("not a program for " + runtime.GOARCH)
	}
	p.opts.Slots = int(d.uint32(maxSlots))
	p.opts.CloneFlags = d.uint64()
	p.opts.CgroupDir = string(d.bytes(maxPath))
	p.notes = make([]string, d.uint32(maxOps+1))
	for i := range p.notes {
		p.notes[i] = string(d.bytes(maxNote))
	}
	p.data = append([]byte(nil), d.bytes(maxData)...)
	p.relocs = make([]reloc, d.count(maxRelocs, 8))
	for i := range p.relocs {
		p.relocs[i] = reloc{d.uint32(maxData), d.uint32(maxData)}
	}
	p.ops = make([]op, d.count(maxOps, opSize))
	for i := range p.ops {
		p.ops[i] = d.op()
	}
	return p
}

func (d *decoder) op() (o op) {
	o.nr, o.note = d.uint32(opEnd), d.uint32(maxOps)
	o.when, o.unless = int32(d.uint32(maxOps)), int32(d.uint32(maxOps))
	for i := range o.ignore {
		if b := d.take(2); b != nil {
			o.ignore[i] = binary.LittleEndian.Uint16(b)
		}
	}
	for i := range o.kinds {
		if b := d.take(1); b != nil {
			o.kinds[i] = argKind(b[0])
		}
	}
	for i := range o.args {
		o.args[i] = d.uint64()
	}
	return o
}

func (d *decoder) take(n int) []byte {
	if d.err == nil && n > len(d.b) {
		d.err = errors.New("ends too early")
	}
	if d.err != nil {
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) uint32(limit uint32) uint32 {
	b := d.take(4)
	if b == nil {
		return 0
	}
	v := binary.LittleEndian.Uint32(b)
	if v > limit {
		d.err = fmt.Errorf("number %d above %d", v, limit)
		return 0
	}
	return v
}

func (d *decoder) uint64() uint64 {
	b := d.take(8)
	if b == nil {
		return 0
	}
	return binary.LittleEndian.Uint64(b)
}

func (d *decoder) bytes(limit uint32) []byte { return d.take(int(d.uint32(limit))) }

// count reads a number of things of size bytes, no more than can follow.
func (d *decoder) count(limit uint32, size int) int {
	n := int(d.uint32(limit))
	if n > len(d.b)/size {
		if d.err == nil {
			d.err = errors.New("ends too early")
		}
		return 0
	}
	return n
}
