package keeper

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

func message(kind uint16, payload int) []byte {
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+payload))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = append(m, make([]byte, 10+payload)...)
	return append(m, make([]byte, -len(m)&3)...)
}

func TestDeletesTable(t *testing.T) {
	rule := uint16(unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE)
	for name, c := range map[string]struct {
		messages []byte
		want     bool
	}{
		"alone":                      {message(nftDelTable, 20), true},
		"behind others":              {append(append(message(rule, 33), message(rule, 1)...), message(nftDelTable, 4)...), true},
		"others only":                {append(message(rule, 33), message(rule, 0)...), false},
		"nothing":                    {nil, false},
		"cut":                        {message(rule, 40)[:30], false},
		"size smaller than a header": {append([]byte{3, 0, 0, 0}, make([]byte, 40)...), false},
	} {
		if got := deletesTable(c.messages); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func FuzzDeletesTable(f *testing.F) {
	f.Add(message(nftDelTable, 20))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 2, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(_ *testing.T, messages []byte) { deletesTable(messages) })
}
