package registry

import (
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// rateLimit gives every client so many requests a second, and rateBurst times as many at
// once. nil limits nobody.
type rateLimit struct {
	rate float64
	most float64 // at once

	mu      sync.Mutex
	clients map[string]rateState
}

// rateState is what a client has left, and when that was true.
type rateState struct {
	left float64
	at   time.Time
}

const (
	rateBurst = 10
	// maxClients bounds the memory of clients. Who is forgotten begins anew.
	maxClients = 1 << 16
)

// take returns an error when who has made too many requests.
func (l *rateLimit) take(w http.ResponseWriter, who string) error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	s, ok := l.clients[who]
	if !ok {
		if l.clients == nil || len(l.clients) >= maxClients {
			l.clients = map[string]rateState{}
		}
		s = rateState{l.most, now}
	}
	s.left = min(l.most, s.left+now.Sub(s.at).Seconds()*l.rate)
	s.at = now
	if s.left < 1 {
		l.clients[who] = s
		w.Header().Set("Retry-After", strconv.Itoa(1+int((1-s.left)/l.rate)))
		return &apiError{http.StatusTooManyRequests, codeTooManyRequests, "too many requests", nil}
	}
	s.left--
	l.clients[who] = s
	return nil
}

// clientAddress is the address a request came from, of IPv6 the network.
func clientAddress(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
		return ip.Mask(net.CIDRMask(64, 128)).String()
	}
	return host
}
