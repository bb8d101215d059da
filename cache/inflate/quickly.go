package inflate

import "encoding/binary"

// quickBytes is how many bytes one turn of the loop in quickly may read.
const quickBytes = 16

// quickly is block as long as there are enough bytes in the buffer.
//
// A turn begins with 56 bits or more in the register. Three literals whose codes are in the main table take
// 33 of them; after two of them and a length, which takes 20, it is filled once more for the distance.
// They are written out: a loop over them takes 7 % longer for the layers of Debian.
func (r *Reader) quickly() (ended bool, err error) {
	var (
		lit   = (*[1 << litBits]uint32)(r.lit[:])
		dist  = (*[1 << distBits]uint32)(r.dist[:])
		in    = r.in[:r.end]
		out   = r.out
		begin = r.begin
		limit = len(in) - quickBytes
		pos   = r.pos
		op    = r.op
		bits  = r.bits
		n     = r.n
	)
loop:
	for op < full && pos <= limit {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int((63 - n) / 8)
		n |= 56
		e := lit[bits&(1<<litBits-1)]
		if int32(e) < 0 {
			bits >>= e & 63
			n -= uint(e & 63)
			out[op] = byte(e >> 16)
			op++
			e = lit[bits&(1<<litBits-1)]
			if int32(e) < 0 {
				bits >>= e & 63
				n -= uint(e & 63)
				out[op] = byte(e >> 16)
				op++
				e = lit[bits&(1<<litBits-1)]
				if int32(e) < 0 {
					bits >>= e & 63
					n -= uint(e & 63)
					out[op] = byte(e >> 16)
					op++
					continue
				}
			}
		}
		if e&isSpecial != 0 {
			if e&isTable != 0 {
				bits >>= e & 63
				n -= uint(e & 63)
				e = r.lit[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
				if int32(e) < 0 {
					bits >>= e & 63
					n -= uint(e & 63)
					out[op] = byte(e >> 16)
					op++
					continue
				}
			}
			if e&isEnd != 0 && e&isSpecial != 0 {
				bits >>= e & 63
				n -= uint(e & 63)
				ended = true
				break
			}
			if e&isSpecial != 0 {
				err = corrupt("code")
				break
			}
		}
		length := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		n -= uint(e & 63)

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (n & 63)
		pos += int((63 - n) / 8)
		n |= 56
		e = dist[bits&(1<<distBits-1)]
		if e&isSpecial != 0 {
			if e&isTable != 0 {
				bits >>= e & 63
				n -= uint(e & 63)
				e = r.dist[uint64(e>>16)+bits&(1<<(e>>8&15)-1)]
			}
			if e&isSpecial != 0 {
				err = corrupt("code of a distance")
				break
			}
		}
		distance := int(e>>16) + int(bits&(1<<(e&63)-1)>>(e>>8&15))
		bits >>= e & 63
		n -= uint(e & 63)

		if distance > op-begin {
			err = corrupt("distance")
			break loop
		}
		from, to := op-distance, op+length
		switch {
		case distance >= 8:
			for ; op < to; from, op = from+8, op+8 {
				binary.LittleEndian.PutUint64(out[op:], binary.LittleEndian.Uint64(out[from:]))
			}
			op = to
		case distance == 1:
			eight := uint64(out[from]) * 0x0101010101010101
			for ; op < to; op += 8 {
				binary.LittleEndian.PutUint64(out[op:], eight)
			}
			op = to
		default:
			for ; op < to; from, op = from+1, op+1 {
				out[op] = out[from]
			}
		}
	}
	r.pos, r.op, r.bits, r.n = pos, op, bits, n
	return ended, err
}
