package inflate

import "math/bits"

// Prefix codes (RFC 1951, 3.2.2) are decoded by tables. The first bits of what comes are an
// index of the main table; where a code is longer than that, the entry there leads to a table of its
// own for the rest of the bits.
//
// An entry has all that is to be known of a symbol:
//
//	31     it is a literal, and its code fits the main table
//	30-16  the byte, or the least length or distance, or where a further table begins
//	15     it is none of these with a value: 14 or 13 says what, and without them there is no such code
//	14     there is a further table
//	13     the block ends
//	11-8   bits of the code; in front of a further table: bits of its index
//	7-0    bits of the code and of the number that is added to the value
const (
	isLiteral = 1 << 31
	isSpecial = 1 << 15
	isTable   = 1 << 14
	isEnd     = 1 << 13

	litBits  = 11
	distBits = 8
	lenBits  = 7 // the lengths of codes have codes of at most so many

	maxCode = 15 // bits of the longest code
	numLit  = 288
	numDist = 32
	numLen  = 19
)

// A code in a further table has a sibling there: as many tables of the greatest size as there are pairs of symbols.
const (
	litSize  = 1<<litBits + numLit/2<<(maxCode-litBits)
	distSize = 1<<distBits + numDist/2<<(maxCode-distBits)
)

// values has the entries of symbols without their codes.
type values struct {
	lit  [numLit]uint32
	dist [numDist]uint32
	len  [numLen]uint32
}

// newValues computes them from RFC 1951, 3.2.5.
func newValues() *values {
	v := &values{}
	for i := range v.lit {
		switch {
		case i < 256:
			v.lit[i] = isLiteral | uint32(i)<<16
		case i == 256:
			v.lit[i] = isSpecial | isEnd
		default:
			v.lit[i] = isSpecial // 286 and 287 have codes, but no meaning
		}
	}
	base := uint32(3)
	for i := 257; i < 285; i++ {
		extra := uint32(max(0, (i-261)/4))
		v.lit[i] = base<<16 | extra
		base += 1 << extra
	}
	v.lit[285] = 258 << 16
	base = 1
	for i := range v.dist {
		if i >= 30 {
			v.dist[i] = isSpecial
			continue
		}
		extra := uint32(max(0, (i-2)/2))
		v.dist[i] = base<<16 | extra
		base += 1 << extra
	}
	for i := range v.len {
		v.len[i] = uint32(i) << 16
	}
	return v
}

// fill makes the table of the codes with the given lengths, which has a main table of 1<<most entries, and
// reports whether there are such codes. values are of the symbols. There may be no code at all, or a
// single one of one bit; otherwise all sequences of bits mean something.
func fill(table []uint32, most uint, lengths []byte, values []uint32) bool {
	var count [maxCode + 1]int
	for _, n := range lengths {
		count[n]++
	}
	used := len(lengths) - count[0]
	count[0] = 0
	var next [maxCode + 2]int
	code := 0
	for n := 1; n <= maxCode; n++ {
		next[n] = code
		code = (code + count[n]) << 1
	}
	complete := code == 1<<(maxCode+1)
	if !complete && used > 0 && !(used == 1 && count[1] == 1) {
		return false
	}
	main := table[:1<<most]
	if !complete {
		for i := range main {
			main[i] = isSpecial
		}
	}
	// How long the codes are that share an entry of the main table, and where their further table begins.
	var longest [1 << litBits]uint8
	var begin [1 << litBits]uint16
	codes := next
	for _, n := range lengths {
		if uint(n) > most {
			i := reversed(codes[n], uint(n)) & (1<<most - 1)
			longest[i] = max(longest[i], n)
		}
		codes[n]++
	}
	free := len(main)
	for s, n := range lengths {
		if n == 0 {
			continue
		}
		length := uint(n)
		i := reversed(next[n], length)
		next[n]++
		e := values[s] + uint32(n)
		e |= uint32(n) << 8
		if length <= most {
			for ; i < len(main); i += 1 << length {
				main[i] = e
			}
			continue
		}
		at := i & (1<<most - 1)
		further := uint(longest[at]) - most
		if begin[at] == 0 {
			begin[at] = uint16(free)
			main[at] = isSpecial | isTable | uint32(free)<<16 | uint32(further)<<8 | uint32(most)
			free += 1 << further
		}
		// The bits of the main table are taken before those of the further one.
		e = values[s] + uint32(length-most)
		e |= uint32(length-most) << 8
		sub := table[begin[at]:][:1<<further]
		for j := i >> most; j < len(sub); j += 1 << (length - most) {
			sub[j] = e
		}
	}
	return true
}

// reversed returns the n bits of a code in the order in which they come: the first one lowest.
func reversed(code int, n uint) int {
	return int(bits.Reverse16(uint16(code)) >> (16 - n))
}
