package statefile

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
)

// A packed file is a derived one that must be read fast: thousands of records as strings and numbers
// one after another, and a checksum. Nothing is lost with it.

const (
	packedMagic = "teu1"
	maxPacked   = 256 << 20 // bytes
)

// A Packer takes the values of a packed file. The zero Packer is empty.
type Packer struct{ data []byte }

// String adds s.
func (p *Packer) String(s string) {
	p.data = append(binary.AppendUvarint(p.data, uint64(len(s))), s...)
}

// Int adds n.
func (p *Packer) Int(n int64) { p.data = binary.AppendVarint(p.data, n) }

// Write makes the values the document at path, as Write does.
func (p *Packer) Write(path string) error {
	whole := binary.LittleEndian.AppendUint32(append([]byte(packedMagic), p.data...), crc32.ChecksumIEEE(p.data))
	return writeBytes(path, whole, WriteOptions{})
}

// An Unpacker gives the values of a packed file in the order they were added. After the last, or where
// the next is of the other kind, it gives zero values and Err says so.
type Unpacker struct {
	rest string
	err  error
}

// Unpack opens the packed file at path. A damaged one is an errdefs.ErrDataLoss.
func Unpack(path string) (*Unpacker, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if fi.Size() > maxPacked {
		return nil, fmt.Errorf("%s has more than %d bytes: %w", path, maxPacked, errdefs.ErrResourceExhausted)
	}
	// The values are in memory once: to touch its pages is most of what a large file costs.
	var data strings.Builder
	data.Grow(int(fi.Size()))
	sum := crc32.NewIEEE()
	_, err = io.CopyN(&data, f, int64(len(packedMagic)))
	if err == nil {
		_, err = io.CopyN(io.MultiWriter(&data, sum), f, max(0, fi.Size()-int64(len(packedMagic)+sum.Size())))
	}
	if err == nil {
		_, err = io.CopyN(&data, f, int64(sum.Size()))
	}
	if err != nil && err != io.EOF {
		return nil, err
	}
	values, magic := strings.CutPrefix(data.String(), packedMagic)
	values, whole := strings.CutSuffix(values, string(binary.LittleEndian.AppendUint32(nil, sum.Sum32())))
	if err != nil || !magic || !whole {
		return nil, fmt.Errorf("%s is damaged: %w", path, errdefs.ErrDataLoss)
	}
	return &Unpacker{rest: values}, nil
}

// More says whether there are values left.
func (u *Unpacker) More() bool { return u.err == nil && len(u.rest) > 0 }

// Err says why a value could not be read.
func (u *Unpacker) Err() error { return u.err }

func (u *Unpacker) fail() {
	u.rest, u.err = "", fmt.Errorf("a packed file has other values: %w", errdefs.ErrDataLoss)
}

// String gives the next value. It shares the memory of the whole file.
func (u *Unpacker) String() string {
	n, width := uvarint(u.rest)
	if width <= 0 || n > uint64(len(u.rest)-width) {
		u.fail()
		return ""
	}
	s := u.rest[width : width+int(n)]
	u.rest = u.rest[width+int(n):]
	return s
}

// Int gives the next value.
func (u *Unpacker) Int() int64 {
	n, width := uvarint(u.rest)
	if width <= 0 {
		u.fail()
		return 0
	}
	u.rest = u.rest[width:]
	return int64(n>>1) ^ -int64(n&1) // zigzag, as binary.Varint
}

// uvarint is binary.Uvarint of a string.
func uvarint(s string) (n uint64, width int) {
	for i := 0; i < len(s) && i < binary.MaxVarintLen64; i++ {
		n |= uint64(s[i]&0x7f) << (7 * i)
		if s[i] < 0x80 {
			return n, i + 1
		}
	}
	return 0, 0
}
