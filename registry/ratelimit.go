package registry

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// RateLimit is what a registry lets a client pull, as Docker Hub says with the headers of manifests:
// docs.docker.com, "Docker Hub pull usage and limits".
type RateLimit struct {
	Limit, Remaining int           // pulls
	Window           time.Duration // in which they count
	Source           string        // whom they are counted for: an address or an account
}

// String says it for a person: "76 of 100 pulls left in 6h0m0s".
func (r RateLimit) String() string {
	text := fmt.Sprintf("%d pulls left", r.Remaining)
	if r.Limit > 0 {
		text = fmt.Sprintf("%d of %d pulls left", r.Remaining, r.Limit)
	}
	if r.Window > 0 {
		window := strings.Replace(r.Window.String(), "m0s", "m", 1)
		text += " in " + strings.Replace(window, "h0m", "h", 1)
	}
	return text
}

// RateLimit returns what the registry of domain said last; false if it has said nothing.
func (c *Client) RateLimit(domain string) (RateLimit, bool) {
	h := c.host(domain)
	if r := h.rate.Load(); r != nil {
		return *r, true
	}
	return RateLimit{}, false
}

// parseRateLimit reads "100;w=21600" of both headers.
func parseRateLimit(header http.Header) (RateLimit, bool) {
	remaining, window, ok := parseQuota(header.Get("RateLimit-Remaining"))
	if !ok {
		return RateLimit{}, false
	}
	limit, also, _ := parseQuota(header.Get("RateLimit-Limit"))
	return RateLimit{Limit: limit, Remaining: remaining, Window: max(window, also), Source: printable(header.Get("Docker-RateLimit-Source"))}, true
}

func parseQuota(s string) (n int, window time.Duration, ok bool) {
	number, rest, _ := strings.Cut(s, ";")
	n, err := strconv.Atoi(strings.TrimSpace(number))
	if err != nil || n < 0 {
		return 0, 0, false
	}
	if seconds, err := strconv.ParseInt(strings.TrimPrefix(strings.TrimSpace(rest), "w="), 10, 32); err == nil && seconds > 0 {
		window = time.Duration(seconds) * time.Second
	}
	return n, window, true
}
