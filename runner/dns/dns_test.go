package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/test/privilege"
)

func addresses(list ...string) (out []netip.Addr) {
	for _, s := range list {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

func zones() []Zone {
	return []Zone{
		{Network: "red", Members: []Member{
			{Names: []string{"web", "www", "0123456789ab"}, Addresses: addresses("10.0.0.2", "fd00::2")},
			{Names: []string{"web2", "www", "a.b"}, Addresses: addresses("10.0.0.3")},
		}},
		{Network: "blue", Members: []Member{{Names: []string{"db"}, Addresses: addresses("10.0.1.2")}}},
		{Network: "Sea.green", Members: []Member{{Names: []string{"db.1"}, Addresses: addresses("10.0.2.2")}}},
	}
}

func TestLookup(t *testing.T) {
	c := Config{Links: []Link{{Network: "blue", Alias: "Mate", Name: "db"}, {Network: "red", Alias: "lost", Name: "db"}, {Network: "red", Alias: "www", Name: "web"}}}
	for name, want := range map[string][]netip.Addr{
		"web": addresses("10.0.0.2", "fd00::2"), "0123456789ab": addresses("10.0.0.2", "fd00::2"),
		"www": addresses("10.0.0.2", "fd00::2"), "a.b": addresses("10.0.0.3"), "mate": addresses("10.0.1.2"),
		"mate.blue": addresses("10.0.1.2"), "mate.red": nil, "lost": nil, // a link holds in its own network
		"db.1.sea.green": addresses("10.0.2.2"), "db.1": addresses("10.0.2.2"), "db.1.green": nil,
		"db.blue": addresses("10.0.1.2"), "db.red": nil, "nobody": nil, "": nil, ".": nil,
	} {
		got, known := lookup(c, zones(), name)
		slices.SortFunc(got, netip.Addr.Compare)
		if !slices.Equal(got, want) || known != (want != nil) {
			t.Errorf("%q: got %v, %v; want %v", name, got, known, want)
		}
	}
	first := map[netip.Addr]bool{}
	for range 200 {
		got, _ := lookup(Config{}, zones(), "www")
		first[got[0]] = true
	}
	if len(first) != 3 {
		t.Errorf("the first of a shared name was always one of %v", first)
	}
}

func query(name string, kind dnsmessage.Type) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 77, RecursionDesired: true})
	b.StartQuestions()
	b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET})
	m, err := b.Finish()
	if err != nil {
		panic(err)
	}
	return m
}

// told is what an answer says, in short; "" stands for no answer of ours.
func told(t *testing.T, message []byte) string {
	t.Helper()
	if message == nil {
		return ""
	}
	var m dnsmessage.Message
	if err := m.Unpack(message); err != nil {
		t.Fatal(err)
	}
	if m.ID != 77 || !m.Response || !m.RecursionAvailable {
		t.Errorf("header: %+v", m.Header)
	}
	out := []string{strings.TrimPrefix(m.RCode.String(), "RCode")}
	for _, r := range m.Answers {
		switch b := r.Body.(type) {
		case *dnsmessage.AResource:
			out = append(out, netip.AddrFrom4(b.A).String())
		case *dnsmessage.AAAAResource:
			out = append(out, netip.AddrFrom16(b.AAAA).String())
		case *dnsmessage.PTRResource:
			out = append(out, b.PTR.String())
		}
	}
	slices.Sort(out[1:])
	return strings.Join(out, " ")
}

func TestAnswer(t *testing.T) {
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want string
	}{
		{"web.", dnsmessage.TypeA, "Success 10.0.0.2"},
		{"WEB.", dnsmessage.TypeAAAA, "Success fd00::2"},
		{"web2.", dnsmessage.TypeAAAA, "Success"}, // it exists, without such a record
		{"web.", dnsmessage.TypeMX, "Success"},
		{"web.", dnsmessage.Type(65), "Success"},
		{"nobody.", dnsmessage.TypeA, ""},
		{"2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, "Success web.red."},
		{"9.0.0.10.in-addr.arpa.", dnsmessage.TypePTR, ""},
		{"2." + strings.Repeat("0.", 27) + "0.0.d.f.ip6.arpa.", dnsmessage.TypePTR, "Success web.red."},
	} {
		q, ok := parse(query(c.name, c.kind))
		if !ok {
			t.Fatalf("%s: not a question", c.name)
		}
		if got := told(t, answer(Config{}, zones(), q)); got != c.want {
			t.Errorf("%s %s: got %q, want %q", c.name, c.kind, got, c.want)
		}
	}
}

func TestLongAnswersAreCut(t *testing.T) {
	var members []Member
	for i := range 200 {
		members = append(members, Member{Names: []string{"all"}, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})}})
	}
	q, _ := parse(query("all.", dnsmessage.TypeA))
	whole := answer(Config{}, []Zone{{Network: "n", Members: members}}, q)
	short := q.fit(whole)
	var m dnsmessage.Message
	if err := m.Unpack(short); err != nil || !m.Truncated || len(short) > 512 || len(short) < 480 || len(m.Answers) < 25 {
		t.Errorf("got %d bytes with %d records, %+v, %v; want a truncated answer", len(short), len(m.Answers), m.Header, err)
	}
	if err := m.Unpack(whole); err != nil || len(m.Answers) != 200 {
		t.Errorf("by TCP: %d answers, %v", len(m.Answers), err)
	}
}

// upstream answers every question with 192.0.2.1, or with a code.
func upstream(t *testing.T, code dnsmessage.RCode) string {
	t.Helper()
	reply := func(message []byte) []byte {
		q, _ := parse(message)
		return q.reply(code, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
			if code != dnsmessage.RCodeSuccess {
				return nil
			}
			return b.AResource(h, dnsmessage.AResource{A: [4]byte{192, 0, 2, 1}})
		})
	}
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tcp, err := net.Listen("tcp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close(); tcp.Close() })
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, from, err := udp.ReadFrom(buffer)
			if err != nil {
				return
			}
			udp.WriteTo([]byte("nonsense"), from) // is not taken for an answer
			guess := reply(buffer[:n])
			guess[0] ^= 1
			guess[3] |= byte(dnsmessage.RCodeNameError)
			udp.WriteTo(guess, from) // nor is one to another question
			udp.WriteTo(reply(buffer[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			if message, err := readTCP(c); err == nil {
				writeTCP(c, reply(message))
			}
			c.Close()
		}
	}()
	return udp.LocalAddr().String()
}

// TestResponder asks a responder in this process's own namespace, by Go's resolver, while
// its documents change.
func TestResponder(t *testing.T) {
	privilege.NeedRoot(t) // entering a namespace, even one's own
	dir := t.TempDir()
	zone, path := filepath.Join(dir, "zone"), filepath.Join(dir, "config")
	write := func(path string, v any) {
		t.Helper()
		if err := statefile.Write(path, v, statefile.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := Listen(path); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("without a document: got %v", err)
	}
	free, err := net.ListenPacket("udp", "127.0.0.11:0")
	if err != nil {
		t.Fatal(err)
	}
	port := netip.MustParseAddrPort(free.LocalAddr().String()).Port()
	free.Close()
	c := Config{NetNS: "/proc/self/ns/net", Port: port, Zones: []string{zone},
		Servers: []Server{{Address: upstream(t, dnsmessage.RCodeServerFailure)}, {Address: upstream(t, dnsmessage.RCodeSuccess), Host: true}}}
	write(path, c)
	write(zone, zones()[0])
	s, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	go s.Serve()
	ask := func(network, name string) string {
		r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, fmt.Sprint("127.0.0.11:", port))
		}}
		got, err := r.LookupNetIP(t.Context(), "ip4", name+".")
		if err != nil {
			return "failed"
		}
		var list []string
		for _, a := range got {
			list = append(list, a.String())
		}
		slices.Sort(list)
		return strings.Join(list, " ")
	}
	for _, network := range []string{"udp", "tcp"} {
		if got := ask(network, "www"); got != "10.0.0.2 10.0.0.3" {
			t.Errorf("by %s: got %s", network, got)
		}
		if got := ask(network, "example.org"); got != "192.0.2.1" {
			t.Errorf("a name of others by %s: got %s, want that of the second server", network, got)
		}
	}
	write(zone, Zone{Network: "red", Members: []Member{{Names: []string{"www"}, Addresses: addresses("10.0.0.9")}}})
	if got := ask("udp", "www"); got != "10.0.0.9" {
		t.Errorf("after a change: got %s", got)
	}
	c.Closed = true
	write(path, c)
	if got := ask("udp", "example.org"); got != "failed" {
		t.Errorf("closed: the host's server answered %s", got)
	}
}

// The host's servers are asked questions only, not to copy or change what they have.
func TestWhatIsNotForwarded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	c := Config{Servers: []Server{{Address: upstream(t, dnsmessage.RCodeSuccess), Host: true}}}
	if err := statefile.Write(path, c, statefile.WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	s := &Responder{view: view{path: path}}
	update := query("example.org.", dnsmessage.TypeA)
	update[2] |= 5 << 3 // RFC 2136, section 1.3
	for name, q := range map[string]struct {
		message []byte
		want    string
	}{
		"a question":       {query("example.org.", dnsmessage.TypeA), "Success 192.0.2.1"},
		"a whole zone":     {query("example.org.", dnsmessage.TypeAXFR), "NotImplemented"},
		"a zone's changes": {query("example.org.", dnsmessage.Type(251)), "NotImplemented"},
		"an update":        {update, "NotImplemented"},
	} {
		if got := told(t, s.respond(q.message, "udp")); got != q.want {
			t.Errorf("%s: got %q, want %q", name, got, q.want)
		}
	}
}

// FuzzRespond: what a container sends makes no panic, and an answer is one to its question.
func FuzzRespond(f *testing.F) {
	f.Add(query("web.", dnsmessage.TypeA))
	f.Add(query("2.0.0.10.in-addr.arpa.", dnsmessage.TypePTR))
	f.Add(query(strings.Repeat("0.", 32)+"ip6.arpa.", dnsmessage.TypePTR))
	f.Add([]byte("\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01"))
	f.Fuzz(func(t *testing.T, message []byte) {
		q, ok := parse(message)
		if !ok {
			return
		}
		reply := answer(Config{}, zones(), q)
		if reply == nil {
			reply = q.reply(dnsmessage.RCodeServerFailure, nil)
		}
		if reply == nil {
			return // a name that cannot be written again
		}
		if reply = q.fit(reply); !answers(reply, q) {
			t.Errorf("%x is no answer to %x", reply, message)
		}
	})
}

// A server may answer in its own case, but not another question.
func TestAnswers(t *testing.T) {
	q, ok := parse(query("Www.Example.org.", dnsmessage.TypeA))
	if !ok {
		t.Fatal("no question")
	}
	for _, c := range []struct {
		name string
		kind dnsmessage.Type
		want bool
	}{
		{"Www.Example.org.", dnsmessage.TypeA, true},
		{"www.example.ORG.", dnsmessage.TypeA, true},
		{"www.example.com.", dnsmessage.TypeA, false},
		{"www.example.org.", dnsmessage.TypeAAAA, false},
	} {
		message := query(c.name, c.kind)
		message[2] |= 0x80 // a response
		if got := answers(message, q); got != c.want {
			t.Errorf("%s %v: %v", c.name, c.kind, got)
		}
	}
}
