package dns

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ttl is how long an answer may be kept, in seconds: not long, since a container that is
// replaced has another address.
const ttl = 5

// question is a query as far as it concerns us.
type question struct {
	header dnsmessage.Header
	dnsmessage.Question
	size int // of the largest answer that may be sent by UDP, in bytes
}

// parse reads the question of a message. Messages with any other number of questions than
// one are nobody's practice.
func parse(message []byte) (q question, ok bool) {
	var p dnsmessage.Parser
	var err error
	if q.header, err = p.Start(message); err != nil || q.header.Response {
		return q, false
	}
	all, err := p.AllQuestions()
	if err != nil || len(all) != 1 {
		return q, false
	}
	q.Question, q.size = all[0], 512
	if p.SkipAllAnswers() != nil || p.SkipAllAuthorities() != nil {
		return q, true
	}
	for {
		h, err := p.AdditionalHeader()
		if err != nil {
			return q, true
		}
		if h.Type == dnsmessage.TypeOPT { // RFC 6891, section 6.1.2: the class is the size
			q.size = max(512, min(int(h.Class), 4096))
		}
		if p.SkipAdditional() != nil {
			return q, true
		}
	}
}

// forwarded says whether a question may be asked of the host's servers in the container's stead. They may take the
// host's word for what others may not do: change zones (RFC 2136), announce new ones (RFC 1996), copy them whole (RFC 5936).
func (q question) forwarded() bool {
	const typeIXFR = 251 // RFC 1995; dnsmessage has no name for it
	return q.header.OpCode == 0 && q.Type != dnsmessage.TypeAXFR && q.Type != typeIXFR
}

// answer is what the networks know about a question; nil means that others must be asked.
func answer(c Config, zones []Zone, q question) []byte {
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	if q.Class != dnsmessage.ClassINET || q.header.OpCode != 0 {
		return nil
	}
	if q.Type == dnsmessage.TypePTR {
		a, ok := inverse(name)
		if !ok {
			return nil
		}
		host := reverse(zones, a)
		if host == "" {
			return nil
		}
		target, err := dnsmessage.NewName(host + ".")
		if err != nil {
			return nil
		}
		return q.reply(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
			return b.PTRResource(h, dnsmessage.PTRResource{PTR: target})
		})
	}
	addresses, known := lookup(c, zones, name)
	if !known {
		return nil
	}
	// A name we know has no records of other types, which is not the same as not existing.
	return q.reply(dnsmessage.RCodeSuccess, func(b *dnsmessage.Builder, h dnsmessage.ResourceHeader) error {
		return addressRecords(b, h, q.Type, addresses)
	})
}

func addressRecords(b *dnsmessage.Builder, h dnsmessage.ResourceHeader, want dnsmessage.Type, addresses []netip.Addr) error {
	// The order is random, so each is first in its turn when not all fit.
	for _, a := range addresses {
		var err error
		switch {
		case want == dnsmessage.TypeA && a.Is4():
			err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
		case want == dnsmessage.TypeAAAA && a.Is6():
			err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// reply makes an answer with the records that add writes.
func (q question) reply(code dnsmessage.RCode, add func(*dnsmessage.Builder, dnsmessage.ResourceHeader) error) []byte {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RCode: code,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true,
	})
	b.EnableCompression()
	err := b.StartQuestions()
	if err == nil {
		err = b.Question(q.Question)
	}
	if err == nil {
		err = b.StartAnswers()
	}
	if err == nil && add != nil {
		err = add(&b, dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: ttl})
	}
	message, e := b.Finish()
	if err != nil || e != nil {
		return nil
	}
	return message
}

// fit leaves out the last records of an answer that is too long for UDP and says so; who
// wants them all asks again by TCP (RFC 1035, section 4.2.1). Many resolvers do not.
func (q question) fit(message []byte) []byte {
	if len(message) <= q.size {
		return message
	}
	var m dnsmessage.Message
	if m.Unpack(message) != nil || len(m.Answers) == 0 {
		return nil
	}
	bare := len(q.reply(dnsmessage.RCodeSuccess, nil))
	each := (len(message) - bare + len(m.Answers) - 1) / len(m.Answers) // they are of one size
	m.Truncated, m.Answers = true, m.Answers[:max(0, q.size-bare)/each]
	short, err := m.Pack()
	if err != nil || len(short) > q.size {
		return nil
	}
	return short
}
