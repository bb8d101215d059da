package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
)

// defaultHostDirs hold what the administrator says of single registries, in docker's and
// containerd's words. The first that has a directory for a registry counts:
//
//	DIR/HOST[:PORT]/hosts.toml               mirrors, see mirror.go
//	DIR/HOST[:PORT]/*.crt                    certificates of authorities, beside the system's
//	DIR/HOST[:PORT]/NAME.cert, NAME.key      a client certificate
func defaultHostDirs() []string { return []string{"/etc/teu/certs.d", "/etc/docker/certs.d"} }

// hostDir returns the directory for the registry name, "" if there is none.
func (c *Client) hostDir(name string) string {
	// The name may come from a redirect.
	if name == "" || strings.HasPrefix(name, ".") || strings.ContainsAny(name, "/\\\x00") {
		return ""
	}
	for _, dir := range c.options.HostDirs {
		path := filepath.Join(dir, name)
		if fi, err := os.Stat(path); err == nil && fi.IsDir() {
			return path
		}
	}
	return ""
}

// certificates reads docker's kind of directory. Nil means that it has none.
func certificates(dir string) (*tls.Config, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var authorities []string
	var clients [][2]string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(path) {
		case ".crt":
			authorities = append(authorities, path)
		case ".cert":
			clients = append(clients, [2]string{path, strings.TrimSuffix(path, ".cert") + ".key"})
		}
	}
	if len(authorities)+len(clients) == 0 {
		return nil, nil
	}
	return tlsConfig(authorities, clients)
}

// tlsConfig trusts the authorities in the files beside those of the system, and shows the clients' certificates.
func tlsConfig(authorities []string, clients [][2]string) (*tls.Config, error) {
	config := &tls.Config{}
	if len(authorities) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, path := range authorities {
			pem, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("%s holds no certificate: %w", path, errdefs.ErrInvalidArgument)
			}
		}
		config.RootCAs = pool
	}
	for _, pair := range clients {
		certificate, err := tls.LoadX509KeyPair(pair[0], pair[1])
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w: %w", pair[0], errdefs.ErrInvalidArgument, err)
		}
		config.Certificates = append(config.Certificates, certificate)
	}
	return config, nil
}

// trust gives h what its directory says of TLS. Who names an authority wants it checked, on
// loopback too.
func (h *host) trust(dir string) {
	if dir == "" {
		return
	}
	config, err := certificates(dir)
	if err != nil {
		h.broken = fmt.Errorf("certificates for %s: %w", h.name, err)
		return
	}
	h.use(config)
}

// use sets the TLS configuration of h, unless it is nil.
func (h *host) use(config *tls.Config) {
	if config == nil {
		return
	}
	if config.RootCAs != nil {
		h.lax = false
	}
	config.InsecureSkipVerify = h.lax
	h.own = newTransport(config)
}
