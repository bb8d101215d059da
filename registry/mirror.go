package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
	"github.com/containerd/errdefs"
)

const maxHostsFile = 1 << 20 // bytes

// What a mirror may be asked for: containerd, docs/hosts.md, "capabilities".
const (
	capPull    = "pull"    // by digest
	capResolve = "resolve" // by tag, so it is trusted
)

// A mirror is asked before the registry itself.
type mirror struct {
	host         *host
	prefix       string // in the place of "/v2"
	capabilities []string
}

// hostsFile is a hosts.toml as containerd 2 reads it, docs/hosts.md.
type hostsFile struct {
	Server string `toml:"server"`
	hostEntry
	Hosts map[string]hostEntry `toml:"host"`
}

type hostEntry struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path or paths
	Client       any            `toml:"client"` // a path, paths, or pairs of paths
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"` // a value or values each
}

// mirrors returns the mirrors of the registry name, the first to be asked first. They are read once.
func (c *Client) mirrors(name string) ([]mirror, error) {
	c.mu.Lock()
	list, known := c.mirrored[name]
	c.mu.Unlock()
	if known {
		return list, nil
	}
	list, err := c.readMirrors(name)
	if err == nil {
		c.mu.Lock()
		c.mirrored[name] = list
		c.mu.Unlock()
	}
	return list, err
}

func (c *Client) readMirrors(name string) ([]mirror, error) {
	list, err := c.mirrorsOfDir(name)
	if err != nil || len(list) > 0 || name != hubDomain {
		return list, err
	}
	for _, address := range c.options.Mirrors {
		m, err := c.mirror(address, hostEntry{}, "")
		if err != nil {
			return nil, fmt.Errorf("mirror %q: %w", address, err)
		}
		list = append(list, m)
	}
	return list, nil
}

// mirrorsOfDir reads the hosts.toml that speaks of the registry name, if there is one.
func (c *Client) mirrorsOfDir(name string) ([]mirror, error) {
	dir := c.hostDir(name)
	if dir == "" {
		dir = c.hostDir("_default")
	}
	if dir == "" {
		return nil, nil
	}
	path := filepath.Join(dir, "hosts.toml")
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := readLimited(f, maxHostsFile)
	if err == nil {
		var list []mirror
		if list, err = c.parseHosts(string(data), dir); err == nil {
			return list, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", path, err)
}

// parseHosts reads a hosts.toml. Paths are relative to dir.
func (c *Client) parseHosts(text, dir string) ([]mirror, error) {
	var file hostsFile
	meta, err := toml.Decode(text, &file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	var list []mirror
	seen := map[string]bool{}
	for _, key := range meta.Keys() { // in the order of the file, which a map has not
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		m, err := c.mirror(key[1], file.Hosts[key[1]], dir)
		if err != nil {
			return nil, fmt.Errorf("host %q: %w", key[1], err)
		}
		list = append(list, m)
	}
	if file.Server == "" {
		return list, nil
	}
	m, err := c.mirror(file.Server, file.hostEntry, dir)
	if err != nil {
		return nil, fmt.Errorf("server %q: %w", file.Server, err)
	}
	return append(list, m), nil
}

func (c *Client) mirror(address string, e hostEntry, dir string) (mirror, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return mirror{}, fmt.Errorf("no address of a registry: %w", errdefs.ErrInvalidArgument)
	}
	h := &host{client: c, name: u.Host, addr: u.Host, fixed: u.Scheme, lax: e.SkipVerify || u.Scheme == "http", probe: newLock()}
	switch u.Host {
	case hubDomain, hubAuth, hubHost:
		h.name, h.addr = hubDomain, hubHost
	}
	h.auth = newAuthorizer(h, true)
	if h.trust(c.hostDir(h.name)); h.broken != nil {
		return mirror{}, h.broken
	}
	if err := h.configure(e, dir); err != nil {
		return mirror{}, err
	}
	m := mirror{host: h, prefix: strings.TrimSuffix(u.Path, "/"), capabilities: e.Capabilities}
	if !e.OverridePath && !strings.HasSuffix(m.prefix, "/v2") {
		m.prefix += "/v2"
	}
	if m.capabilities == nil {
		m.capabilities = []string{capPull, capResolve}
	}
	h.header = http.Header{}
	for name, values := range e.Header {
		if h.header[http.CanonicalHeaderKey(name)], err = texts(values); err != nil {
			return mirror{}, fmt.Errorf("header %s: %w", name, err)
		}
	}
	return m, nil
}

// configure sets up TLS as e says.
func (h *host) configure(e hostEntry, dir string) error {
	authorities, err := texts(e.CA)
	if err != nil {
		return fmt.Errorf("ca: %w", err)
	}
	pairs, err := clientPairs(e.Client)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	if len(authorities)+len(pairs) == 0 {
		return nil
	}
	absolute := func(p string) string {
		if filepath.IsAbs(p) {
			return p
		}
		return filepath.Join(dir, p)
	}
	for i := range authorities {
		authorities[i] = absolute(authorities[i])
	}
	for i := range pairs {
		pairs[i] = [2]string{absolute(pairs[i][0]), absolute(pairs[i][1])}
	}
	config, err := tlsConfig(authorities, pairs)
	if err != nil {
		return err
	}
	if e.SkipVerify {
		config.RootCAs = nil
	}
	h.use(config)
	return nil
}

// texts reads a string or a list of strings.
func texts(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var list []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is no text: %w", e, errdefs.ErrInvalidArgument)
			}
			list = append(list, s)
		}
		return list, nil
	}
	return nil, fmt.Errorf("%v is neither a text nor a list of them: %w", v, errdefs.ErrInvalidArgument)
}

// clientPairs reads client: files that hold certificate and key, or pairs of files.
func clientPairs(v any) ([][2]string, error) {
	list, ok := v.([]any)
	if !ok {
		files, err := texts(v)
		if err != nil || len(files) == 0 {
			return nil, err
		}
		return [][2]string{{files[0], files[0]}}, nil
	}
	var pairs [][2]string
	for _, e := range list {
		files, err := texts(e)
		switch {
		case err != nil:
			return nil, err
		case len(files) == 1 || len(files) == 2 && files[1] == "":
			pairs = append(pairs, [2]string{files[0], files[0]})
		case len(files) == 2:
			pairs = append(pairs, [2]string{files[0], files[1]})
		default:
			return nil, fmt.Errorf("%v is not a certificate and a key: %w", e, errdefs.ErrInvalidArgument)
		}
	}
	return pairs, nil
}

// read sends q to the mirrors that may be asked for it, each once, and then to the registry.
// Whatever a mirror cannot do is the registry's to do.
func (r *Repository) read(ctx context.Context, q request, capability string) (*http.Response, error) {
	for _, m := range r.mirrors {
		if m.host.passed() || !slices.Contains(m.capabilities, capability) {
			continue
		}
		resp, err := m.host.do(ctx, m.request(q, r.host.name))
		if err == nil || ctx.Err() != nil {
			return resp, err
		}
		if !m.host.seen.Load() { // or every layer would wait for it again
			m.host.passBy()
		}
	}
	return r.host.do(ctx, q)
}

// mirrorRest is how long a mirror is passed by. A server's client lives for long, and the mirror may come back.
const mirrorRest = 10 * time.Minute

func (h *host) passBy() {
	until := h.client.now().Add(mirrorRest)
	h.down.Store(&until)
}

func (h *host) passed() bool {
	until := h.down.Load()
	return until != nil && h.client.now().Before(*until)
}

// Doubt says that what came of a blob were other bytes than it has, and whether somebody else may be asked for it: for
// a while now the registry itself is, and no mirror.
func (r *Repository) Doubt() (again bool) {
	for _, m := range r.mirrors {
		m.host.passBy()
	}
	return len(r.mirrors) > 0
}

// request makes q one to the mirror. Whose repository is meant says the parameter ns.
func (m mirror) request(q request, name string) request {
	q.path = m.prefix + strings.TrimPrefix(q.path, "/v2")
	q.query = url.Values{"ns": []string{name}}
	q.once = true
	return q
}
