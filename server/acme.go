package server

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"
)

// ACME says from whom a server gets its certificates (RFC 8555). The authority connects to
// port 443 of each name to see whose it is (RFC 8737, tls-alpn-01); the server itself answers.
type ACME struct {
	// Hosts are the names by which clients come. Others get no certificate.
	Hosts []string
	// Email is where the authority writes to about certificates, may be empty.
	Email string
	// Directory is the URL of the authority. "": Let's Encrypt.
	Directory string
	// CAFile has the certificates by which an authority of one's own proves itself, in PEM.
	CAFile string
}

// Config returns a configuration whose certificates come when the first client wants one, are
// renewed a month before their end, and are kept in cache, which several servers may share.
// Whoever uses this accepts the terms of the authority.
func (a ACME) Config(cache autocert.Cache) (*tls.Config, error) {
	if len(a.Hosts) == 0 || slices.Contains(a.Hosts, "") {
		return nil, fmt.Errorf("certificates by ACME are for names of hosts: %w", errdefs.ErrInvalidArgument)
	}
	client := &acme.Client{DirectoryURL: a.Directory, UserAgent: "teu"}
	if a.Directory == "" {
		client.DirectoryURL = autocert.DefaultACMEDirectory
	}
	if a.CAFile != "" {
		pool, err := readPool(a.CAFile)
		if err != nil {
			return nil, fmt.Errorf("reading authorities of the ACME directory: %w", err)
		}
		client.HTTPClient = &http.Client{
			Timeout: time.Minute,
			Transport: &http.Transport{
				Proxy:           http.ProxyFromEnvironment,
				TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			},
		}
	}
	m := &autocert.Manager{Prompt: autocert.AcceptTOS, Cache: cache, HostPolicy: autocert.HostWhitelist(a.Hosts...), Client: client, Email: a.Email}
	c := m.TLSConfig()
	c.MinVersion = tls.VersionTLS12
	return c, nil
}

// RequireClientCertificates makes c want a certificate of an authority in the file from every
// client, but for the authority of ACME, which has none.
func RequireClientCertificates(c *tls.Config, file string) error {
	pool, err := readPool(file)
	if err != nil {
		return fmt.Errorf("reading authorities of clients: %w", err)
	}
	open := c.Clone()
	c.ClientCAs, c.ClientAuth = pool, tls.RequireAndVerifyClientCert
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) != 1 || hello.SupportedProtos[0] != acme.ALPNProto {
			return nil, nil // c itself
		}
		only := open.Clone()
		only.NextProtos = []string{acme.ALPNProto} // no request is read from such a connection
		return only, nil
	}
	return nil
}

func readPool(file string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s: %w", file, errdefs.ErrInvalidArgument)
	}
	return pool, nil
}
