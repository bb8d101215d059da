package main

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"
)

const (
	linkRate = 200e6 / 8             // bytes per second, each way, of all connections together
	linkHalf = 25 * time.Millisecond // from one end to the other
)

// A slowLink is a relay that passes bytes on as a link of 50 ms there and back and 200 Mbit/s would. It
// is one because not every kernel has netem; it has no packets, so nothing of the rate goes into headers.
type slowLink struct {
	l      net.Listener
	target string
	there  lane
	back   lane
	conns  sync.WaitGroup
}

// A lane is one direction.
type lane struct {
	mu   sync.Mutex
	free time.Time // when the last byte so far has left
}

// leave returns when n bytes will have left, if they come now.
func (l *lane) leave(n int) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / linkRate * float64(time.Second)))
	return l.free
}

// newSlowLink listens on loopback for connections to target.
func newSlowLink(target string) (*slowLink, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &slowLink{l: l, target: target}
	s.conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.conns.Go(func() { s.carry(c) })
		}
	})
	return s, nil
}

// close ends the relay when its connections have ended.
func (s *slowLink) close() {
	s.l.Close()
	s.conns.Wait()
}

// carry passes on one connection. Its first bytes come a round trip late, which making it takes.
func (s *slowLink) carry(client net.Conn) {
	defer client.Close()
	time.Sleep(2 * linkHalf)
	server, err := net.Dial("tcp", s.target)
	if err != nil {
		return
	}
	defer server.Close()
	var both sync.WaitGroup
	both.Go(func() { delay(server, client, &s.there); server.(*net.TCPConn).CloseWrite() })
	both.Go(func() { delay(client, server, &s.back); client.(*net.TCPConn).CloseWrite() })
	both.Wait()
}

// piece is bytes under way.
type piece struct {
	data []byte
	due  time.Time
}

// delay copies r to w with the rate and the delay of a link. As in TCP, only so much is under way.
func delay(w, r net.Conn, l *lane) {
	const underWay = 128 // pieces of 64 KB: more than the link holds
	pieces := make(chan piece, underWay)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(pieces)
		for {
			buf := make([]byte, 64<<10)
			n, err := r.Read(buf)
			if n > 0 {
				left := l.leave(n)
				pieces <- piece{buf[:n], left.Add(linkHalf)}
				time.Sleep(time.Until(left))
			}
			if err != nil {
				return
			}
		}
	})
	var err error
	for p := range pieces {
		time.Sleep(time.Until(p.due))
		if err == nil {
			if _, err = w.Write(p.data); err != nil {
				r.Close() // nobody wants more of it, as TCP would say to who sends
			}
		}
	}
	reader.Wait()
}

// measureSlowPull takes the time of cold pulls over a slow link.
func measureSlowPull(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	_, layers, err := b.publish(ctx, address, "large", largeImage())
	if err != nil {
		return err
	}
	debian, _, err := b.publish(ctx, address, "debian", b.debianImage())
	if err != nil {
		return err
	}
	link, err := newSlowLink(address)
	if err != nil {
		return err
	}
	defer link.close()
	p, stop := b.pullers(ctx)
	defer stop()
	var bytes int64
	for _, l := range layers {
		bytes += l.Size
	}
	f := figure{title: "Cold pull of the 835 MB image over 50 ms and 200 Mbit/s", unit: "ms",
		note:    fmt.Sprintf("Through a relay of the bench that delays and limits as such a link; %d MB cross it. The link's row is what its bytes take by themselves.", bytes>>20),
		results: b.race(ctx, 0, max(1, min(2, b.rounds/15)), p.cold(link.l.Addr().String()+"/bench/large:1"))}
	f.results = append(f.results, result{tool: "the link", values: []float64{float64(bytes) / linkRate * 1000}})
	b.report.add(f)
	debian = strings.Replace(debian, address, link.l.Addr().String(), 1)
	b.report.add(figure{title: "Pull of Debian that is there already, over 50 ms and 200 Mbit/s", unit: "ms",
		note:    "From plain HTTP: all of them try TLS, most of them first, and every connection takes a round trip of its own.",
		results: b.race(ctx, 1, max(1, b.rounds/3), p.again(debian))})
	return nil
}
