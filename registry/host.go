package registry

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpproxy"
)

const (
	hubDomain = "docker.io"            // in references
	hubHost   = "registry-1.docker.io" // serves the API
	hubAuth   = "index.docker.io"      // in credential files
)

// host is one registry, or a server that a registry redirected to.
type host struct {
	client *Client
	name   string // as in references: docker.io
	addr   string // host[:port] to connect to
	lax    bool   // plain HTTP and unverified TLS are allowed
	auth   *authorizer
	own    http.RoundTripper // nil: the client's
	broken error             // what is wrong with its certificates
	fixed  string            // the scheme, if it need not be found out
	header http.Header       // sent with every request, to it alone

	probe  lock
	scheme string                    // "" until known; guarded by probe
	seen   atomic.Bool               // it has answered once
	down   atomic.Pointer[time.Time] // until when a mirror that did not answer, or is doubted, is passed by
	rate   atomic.Pointer[RateLimit]
}

// host returns the registry of a reference's domain.
func (c *Client) host(domain string) *host {
	addr := domain
	switch domain {
	case hubDomain, hubAuth:
		domain, addr = hubDomain, hubHost
	}
	return c.hostAt(domain, addr, true)
}

// foreign returns the host a registry redirected to. It gets no credentials.
func (c *Client) foreign(u *url.URL) *host {
	return c.hostAt(u.Host, u.Host, false)
}

func (c *Client) hostAt(name, addr string, credentials bool) *host {
	key := addr
	if !credentials {
		key = "foreign " + addr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.hosts[key]
	if h == nil {
		h = c.newHost(name, addr, credentials)
		c.hosts[key] = h
	}
	return h
}

func (c *Client) newHost(name, addr string, credentials bool) *host {
	h := &host{client: c, name: name, addr: addr, lax: c.insecure.contains(addr), probe: newLock()}
	h.auth = newAuthorizer(h, credentials)
	h.trust(c.hostDir(name))
	return h
}

func (h *host) transport() http.RoundTripper {
	switch {
	case h.own != nil:
		return h.own
	case h.lax:
		return h.client.lax
	}
	return h.client.verified
}

func dialer() net.Dialer { return net.Dialer{Timeout: 15 * time.Second, KeepAlive: 30 * time.Second} }

// newTransport goes through the proxies of HTTP_PROXY, HTTPS_PROXY and NO_PROXY as they are now.
func newTransport(config *tls.Config) *http.Transport {
	proxy := httpproxy.FromEnvironment().ProxyFunc()
	d := dialer()
	return &http.Transport{
		TLSClientConfig:       config,
		Proxy:                 func(q *http.Request) (*url.URL, error) { return proxy(q.URL) },
		DialContext:           d.DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // digests are of the bytes as stored
		ForceAttemptHTTP2:     true,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		ExpectContinueTimeout: time.Second,
	}
}

// newLaxTransport is that of registries that may have no TLS. They are near, so what is on the way lets early bytes pass.
func newLaxTransport() *http.Transport {
	t := newTransport(&tls.Config{InsecureSkipVerify: true})
	t.DialContext = newEarlyDialer(dialer()).dial
	return t
}

// insecureHosts are the registries that need no verified TLS.
type insecureHosts struct {
	names    map[string]bool
	prefixes []netip.Prefix
}

func parseInsecure(list []string) insecureHosts {
	hosts := insecureHosts{names: make(map[string]bool)}
	for _, s := range list {
		s = strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s, "http://"), "https://"), "/")
		if p, err := netip.ParsePrefix(s); err == nil {
			hosts.prefixes = append(hosts.prefixes, p)
			continue
		}
		hosts.names[s] = true
	}
	return hosts
}

func (i insecureHosts) contains(addr string) bool {
	name := addr
	if h, _, err := net.SplitHostPort(addr); err == nil {
		name = h
	}
	name = strings.Trim(name, "[]")
	if name == "localhost" || i.names[addr] || i.names[name] {
		return true
	}
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return false
	}
	if ip.IsLoopback() {
		return true
	}
	for _, p := range i.prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
