// Package dns answers the questions of a container on a network with names.
//
// The containers of a network find each other by name; who they are is in files that
// runner/network writes. The keeper of a container answers on 127.0.0.11 inside the
// container's network namespace and passes on what the networks do not know, so there is
// no server that all containers depend on.
package dns

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// Config is what one container sees, a document that changes while it runs.
type Config struct {
	NetNS   string   // path of the container's network namespace
	Port    uint16   // on 127.0.0.11
	Zones   []string // paths of the Zones of its networks
	Servers []Server // asked in this order for what no zone knows
	Links   []Link   `json:",omitempty"`
	// Closed says that the container's networks lead nowhere: servers that only the host
	// reaches are not asked, since a question can carry data out (CVE-2024-29018).
	Closed bool `json:",omitempty"`
}

// Link is a name that only this container uses for another, as long as that is in the network.
type Link struct {
	Network string
	Alias   string
	Name    string
}

// Server is a name server.
type Server struct {
	Address string // of IP, or IP:port
	Host    bool   `json:",omitempty"` // it is reached from the host's namespace, not the container's
}

// Zone is a network with the containers in it.
type Zone struct {
	Network string
	Members []Member
}

// Member is a container in a network. Its first name is its own.
type Member struct {
	Names     []string
	Addresses []netip.Addr
}

// view is the present state of a container's names: documents that are read again when
// they have changed. It is safe for concurrent use.
type view struct {
	path string

	mu     sync.Mutex
	config document[Config]
	zones  map[string]*document[Zone]
}

// document is a file as it was when it was last read. Files are replaced by rename, so
// another inode or time means another content.
type document[T any] struct {
	size  int64
	when  time.Time
	inode os.FileInfo
	value T
}

// load reads the file again if it has changed. A missing file is the zero value.
func (d *document[T]) load(path string) {
	info, err := os.Stat(path)
	if err != nil {
		*d = document[T]{}
		return
	}
	if d.inode != nil && os.SameFile(d.inode, info) && d.when.Equal(info.ModTime()) && d.size == info.Size() {
		return
	}
	var value T
	if statefile.Read(path, &value) == nil {
		*d = document[T]{size: info.Size(), when: info.ModTime(), inode: info, value: value}
	}
}

// current returns the configuration and zones as they are now.
func (v *view) current() (Config, []Zone) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.config.load(v.path)
	c := v.config.value
	fresh := make(map[string]*document[Zone], len(c.Zones))
	var zones []Zone
	for _, path := range c.Zones {
		d := v.zones[path]
		if d == nil {
			d = &document[Zone]{}
		}
		d.load(path)
		fresh[path] = d
		zones = append(zones, d.value)
	}
	v.zones = fresh
	return c, zones
}

// lookup returns the addresses of a name in lower case without the final dot, in random
// order, and whether the networks know it. NAME.NETWORK is NAME in that network; both may have dots.
func lookup(c Config, zones []Zone, name string) (addresses []netip.Addr, known bool) {
	for _, z := range zones {
		addresses = append(addresses, z.find(c, name)...)
	}
	if len(addresses) == 0 {
		for _, z := range zones {
			if short, ok := strings.CutSuffix(name, "."+strings.ToLower(z.Network)); ok {
				addresses = append(addresses, z.find(c, short)...)
			}
		}
	}
	rand.Shuffle(len(addresses), func(i, j int) { addresses[i], addresses[j] = addresses[j], addresses[i] })
	return addresses, len(addresses) > 0
}

// find returns the addresses of a name in one network, where a link comes before what is there.
func (z Zone) find(c Config, name string) (addresses []netip.Addr) {
	if i := slices.IndexFunc(c.Links, func(l Link) bool { return l.Network == z.Network && strings.EqualFold(l.Alias, name) }); i >= 0 {
		name = c.Links[i].Name
	}
	for _, m := range z.Members {
		if slices.ContainsFunc(m.Names, func(n string) bool { return strings.EqualFold(n, name) }) {
			addresses = append(addresses, m.Addresses...)
		}
	}
	return addresses
}

// reverse returns the name of the container that has an address, with its network's.
func reverse(zones []Zone, a netip.Addr) string {
	for _, z := range zones {
		for _, m := range z.Members {
			if slices.Contains(m.Addresses, a) && len(m.Names) > 0 {
				return m.Names[0] + "." + z.Network
			}
		}
	}
	return ""
}

// inverse is the address a name of the reverse zones stands for (RFC 1035, section 3.5;
// RFC 3596, section 2.5).
func inverse(name string) (netip.Addr, bool) {
	if labels, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		parts := strings.Split(labels, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	labels, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(labels) != 63 {
		return netip.Addr{}, false
	}
	nibbles := strings.Split(labels, ".")
	slices.Reverse(nibbles)
	var b strings.Builder
	for i, n := range nibbles {
		if i > 0 && i%4 == 0 {
			b.WriteByte(':')
		}
		b.WriteString(n)
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil && a.Is6()
}
