package runner

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/network"
)

// markName is the file by which programs know that they are in a container of docker's:
// systemd-detect-virt(1), Ansible's facts, distrobox, Testcontainers and others ask for it.
const markName = ".dockerenv"

// mark puts that file into the upper directory of the new container. It hides what the image has there.
func (c *Container) mark(upper string) error {
	path := filepath.Join(upper, markName)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	err = errors.Join(f.Chmod(0o755), f.Close())
	if err == nil && c.UserIDs.copied() {
		uid, gid := c.UserIDs.outside(0, 0)
		err = os.Lchown(path, uid, gid)
	}
	return err
}

// writeFiles writes what is mounted on /etc/hosts, /etc/hostname and /etc/resolv.conf.
func (e *Engine) writeFiles(ctx context.Context, c *Container, sb network.Sandbox) error {
	if other := c.Options.networkContainer(); other != "" {
		return e.copyFiles(other, c)
	}
	hosts, err := e.hostsFile(ctx, c, sb)
	if err != nil {
		return err
	}
	resolv, err := c.resolvFile(sb)
	if err != nil {
		return err
	}
	return errors.Join(
		e.writeShared(c, "hosts", hosts),
		e.writeShared(c, "hostname", []byte(c.Hostname+"\n")),
		e.writeShared(c, "resolv.conf", resolv),
	)
}

// sharedFiles are the names of these files.
func sharedFiles() []string { return []string{"hosts", "hostname", "resolv.conf"} }

// mountedFiles are the names of those that are mounted in a container: they are there, and nothing else is in their place.
func (e *Engine) mountedFiles(c *Container) (names []string) {
	for _, name := range sharedFiles() {
		taken := slices.ContainsFunc(c.Mounts, func(p MountPoint) bool { return p.Destination == "/etc/"+name })
		if _, err := os.Stat(filepath.Join(e.dir(c.ID), name)); err == nil && !taken {
			names = append(names, name)
		}
	}
	return names
}

// writeShared writes in place: the file may be mounted somewhere.
func (e *Engine) writeShared(c *Container, name string, data []byte) error {
	path := filepath.Join(e.dir(c.ID), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return err
	}
	if c.UserIDs.copied() {
		uid, gid := c.UserIDs.outside(0, 0)
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return errors.Join(c.labelFile(path), os.Chmod(path, 0o644))
}

// maxShared is the largest of these files that is read, in bytes. A container may write to its own, and a hole
// of any size costs it nothing.
const maxShared = 4 << 20

// copyFiles takes the files of the container whose network is shared.
func (e *Engine) copyFiles(other string, c *Container) error {
	id, err := e.resolve(other)
	if err != nil {
		return err
	}
	for _, name := range sharedFiles() {
		b, err := statefile.ReadFile(filepath.Join(e.dir(id), name), maxShared)
		if errors.Is(err, fs.ErrNotExist) && !e.recorded(id) { // it has been removed since
			return noSuchContainer(other)
		}
		if err != nil {
			return fmt.Errorf("the file of container %s: %w", other, err)
		}
		if err := e.writeShared(c, name, b); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) hostsFile(ctx context.Context, c *Container, sb network.Sandbox) ([]byte, error) {
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
		if address == "host-gateway" {
			if address = hostGateway(sb); address == "" {
				return nil, fmt.Errorf("unable to derive the IP value for host-gateway: no network of the container leads to the host: %w", errdefs.ErrInvalidArgument)
			}
		}
		if !ok || net.ParseIP(strings.Trim(address, "[]")) == nil {
			return nil, fmt.Errorf("invalid IP address in add-host: %q: %w", extra, errdefs.ErrInvalidArgument)
		}
		fmt.Fprintf(&b, "%s\t%s\n", strings.Trim(address, "[]"), name)
	}
	links, err := e.linkHosts(ctx, c)
	if err != nil {
		return nil, err
	}
	b.WriteString(links)
	for _, line := range c.ownHosts(sb) {
		b.WriteString(line)
	}
	return b.Bytes(), nil
}

// ownHosts are the lines of /etc/hosts with the container's own addresses.
func (c *Container) ownHosts(sb network.Sandbox) (lines []string) {
	name := c.Hostname
	if short, _, ok := strings.Cut(name, "."); ok {
		name += " " + short
	}
	if c.Options.Domainname != "" {
		name = c.Hostname + "." + c.Options.Domainname + " " + c.Hostname
	}
	for _, ep := range sb.Endpoints {
		for _, a := range []netip.Prefix{ep.Address, ep.Address6} {
			if a.IsValid() {
				lines = append(lines, fmt.Sprintf("%s\t%s\n", a.Addr(), name))
			}
		}
	}
	return lines
}

// changeFiles lets /etc/hosts and /etc/resolv.conf of a container that runs follow a change of its networks. What else is
// in them by now stays, as in docker: tools that manage containers write there.
func (e *Engine) changeFiles(c *Container, before, now network.Sandbox) error {
	change := func(name string, f func(text []byte) []byte) error {
		text, err := statefile.ReadFile(filepath.Join(e.dir(c.ID), name), maxShared)
		if errdefs.IsResourceExhausted(err) { // that is the container's own doing
			return nil
		}
		if err != nil {
			return err
		}
		return e.writeShared(c, name, f(text))
	}
	err := change("hosts", func(text []byte) []byte { return changedHosts(text, c.ownHosts(before), c.ownHosts(now)) })
	if before.DNSPort == 0 && now.DNSPort != 0 { // its first network with names
		err = errors.Join(err, change("resolv.conf", func(text []byte) []byte { return network.ParseResolver(text).ByResponder().Bytes() }))
	}
	return err
}

// changedHosts replaces the lines of a container's own addresses.
func changedHosts(text []byte, before, now []string) []byte {
	var b bytes.Buffer
	for line := range strings.Lines(string(text)) {
		if slices.Contains(now, line) || !slices.Contains(before, line) {
			b.WriteString(line)
		}
	}
	if text := b.String(); text != "" && !strings.HasSuffix(text, "\n") {
		b.WriteByte('\n')
	}
	for _, line := range now {
		if !strings.Contains("\n"+b.String(), "\n"+line) {
			b.WriteString(line)
		}
	}
	return b.Bytes()
}

// hostGateway is an address of the host as the container reaches it.
func hostGateway(sb network.Sandbox) string {
	main := sb.Main()
	switch {
	case main == nil || main.Driver != "bridge":
		return ""
	case main.Gateway.IsValid():
		return main.Gateway.String()
	}
	return main.Gateway6.String()
}

// linkHosts are the lines of legacy links on the default bridge, which has no names: the
// containers must run. On other networks links are names that the keeper resolves.
func (e *Engine) linkHosts(ctx context.Context, c *Container) (string, error) {
	if c.Options.networkMode() != "bridge" {
		return "", nil
	}
	var b strings.Builder
	for i, link := range c.Options.Links {
		ref, alias, _ := strings.Cut(link, ":")
		other, err := e.linked(ctx, c, i)
		if err != nil {
			return "", fmt.Errorf("could not get container for %s: %w", ref, err)
		}
		there, err := e.network.Get(other.ID)
		if err != nil || !other.State.Alive() {
			return "", worded(errdefs.ErrInvalidArgument, "Cannot link to a non running container: /%s AS /%s/%s", other.Name, c.Name, cmp.Or(alias, other.Name))
		}
		ep := there.In(e.network.Default().ID)
		if ep == nil {
			return "", worded(errdefs.ErrInvalidArgument, "cannot link to %s, as it does not belong to the default network", cmp.Or(other.Name, ref))
		}
		names := []string{cmp.Or(alias, other.Name), other.Hostname, other.Name}
		slices.Sort(names[1:])
		fmt.Fprintf(&b, "%s\t%s\n", ep.Address.Addr(), strings.Join(slices.Compact(names), " "))
	}
	return b.String(), nil
}

// linked returns the container that a link leads to, whatever it is called now, or else one that was made again under the
// name.
func (e *Engine) linked(ctx context.Context, c *Container, link int) (*Container, error) {
	if link < len(c.Options.LinkIDs) {
		if other, err := e.Get(ctx, c.Options.LinkIDs[link]); err == nil {
			return other, nil
		}
	}
	ref, _, _ := strings.Cut(c.Options.Links[link], ":")
	return e.Get(ctx, ref)
}

// currentLinks are the links of a container with the names that the others have now.
func (e *Engine) currentLinks(ctx context.Context, c *Container) []string {
	list := slices.Clone(c.Options.Links)
	for i, text := range list {
		ref, alias, ok := strings.Cut(text, ":")
		if !ok {
			alias = ref
		}
		if other, err := e.linked(ctx, c, i); err == nil && i < len(c.Options.LinkIDs) {
			list[i] = other.Name + ":" + strings.TrimPrefix(alias, "/")
		}
	}
	return list
}

// cutHost splits name:address or name=address.
func cutHost(s string) (name, address string, ok bool) {
	if i := strings.IndexAny(s, ":="); i > 0 {
		return s[:i], s[i+1:], true
	}
	return "", "", false
}

func (c *Container) resolvFile(sb network.Sandbox) ([]byte, error) {
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
	if sb.DNSPort != 0 {
		r = r.ByResponder()
	}
	return r.Bytes(), nil
}
