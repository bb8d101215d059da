package runner

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/network"
)

// writeFiles writes what is mounted on /etc/hosts, /etc/hostname and /etc/resolv.conf.
func (e *Engine) writeFiles(ctx context.Context, c *Container, ep network.Endpoint) error {
	if other := c.Options.networkContainer(); other != "" {
		return e.copyFiles(other, c)
	}
	hosts, err := c.hostsFile(ep)
	if err != nil {
		return err
	}
	resolv, err := c.resolvFile()
	if err != nil {
		return err
	}
	return errors.Join(
		e.writeShared(c, "hosts", hosts),
		e.writeShared(c, "hostname", []byte(c.Hostname+"\n")),
		e.writeShared(c, "resolv.conf", resolv),
	)
}

// writeShared writes in place: the file may be mounted somewhere.
func (e *Engine) writeShared(c *Container, name string, data []byte) error {
	path := filepath.Join(e.dir(c.ID), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	return os.Chmod(path, 0o644)
}

// copyFiles takes the files of the container whose network is shared.
func (e *Engine) copyFiles(other string, c *Container) error {
	id, err := e.resolve(other)
	if err != nil {
		return err
	}
	for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
		b, err := os.ReadFile(filepath.Join(e.dir(id), name))
		if err != nil {
			return err
		}
		if err := e.writeShared(c, name, b); err != nil {
			return err
		}
	}
	return nil
}

func (c *Container) hostsFile(ep network.Endpoint) ([]byte, error) {
	var b bytes.Buffer
	if c.Options.networkMode() == "host" {
		if host, err := os.ReadFile("/etc/hosts"); err == nil {
			b.Write(bytes.TrimRight(host, "\n"))
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	}
	for _, extra := range c.Options.ExtraHosts {
		name, address, ok := cutHost(extra)
		if address == "host-gateway" && ep.Gateway.IsValid() {
			address = ep.Gateway.String()
		}
		if !ok || net.ParseIP(strings.Trim(address, "[]")) == nil {
			return nil, fmt.Errorf("invalid IP address in add-host: %q: %w", extra, errdefs.ErrInvalidArgument)
		}
		fmt.Fprintf(&b, "%s\t%s\n", strings.Trim(address, "[]"), name)
	}
	if ep.Address.IsValid() {
		name := c.Hostname
		if c.Options.Domainname != "" {
			name = c.Hostname + "." + c.Options.Domainname + " " + c.Hostname
		}
		fmt.Fprintf(&b, "%s\t%s\n", ep.Address.Addr(), name)
	}
	return b.Bytes(), nil
}

// cutHost splits name:address or name=address.
func cutHost(s string) (name, address string, ok bool) {
	if i := strings.IndexAny(s, ":="); i > 0 {
		return s[:i], s[i+1:], true
	}
	return "", "", false
}

func (c *Container) resolvFile() ([]byte, error) {
	o := &c.Options
	if o.networkMode() == "host" && len(o.DNS)+len(o.DNSSearch)+len(o.DNSOptions) == 0 {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err == nil || os.IsNotExist(err) {
			return b, nil
		}
		return nil, err
	}
	r, err := network.HostResolver()
	if err != nil {
		return nil, err
	}
	if len(o.DNS) > 0 {
		r.Nameservers = o.DNS
	}
	if len(o.DNSSearch) > 0 {
		r.Search = o.DNSSearch
		if len(r.Search) == 1 && r.Search[0] == "." {
			r.Search = nil
		}
	}
	if len(o.DNSOptions) > 0 {
		r.Options = o.DNSOptions
	}
	return r.Bytes(), nil
}
