package server

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Certificate is a certificate and its key in two files. When they change, new connections
// get what is there then; those that are open keep what they have. It is safe for
// concurrent use.
type Certificate struct {
	certFile, keyFile string
	log               *slog.Logger

	mu     sync.Mutex
	now    *tls.Certificate
	stamps [2]fileStamp // of the files as they were last read, whether they were good or not
	looked time.Time
}

// fileStamp tells whether a file is the one read before.
type fileStamp struct {
	mtime time.Time
	size  int64
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = time.Second

// LoadCertificate reads a certificate chain and its key, in PEM.
func LoadCertificate(certFile, keyFile string, log *slog.Logger) (*Certificate, error) {
	c := &Certificate{certFile: certFile, keyFile: keyFile, log: log}
	c.stamps = c.stamp()
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, fmt.Errorf("loading certificate: %w", err)
	}
	c.now = &cert
	return c, nil
}

// Get is for tls.Config.GetCertificate. Files that do not fit together, as when one of them
// was replaced and the other is about to be, leave the certificate there was.
func (c *Certificate) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookEvery {
		return c.now, nil
	}
	c.looked = time.Now()
	stamps := c.stamp()
	if stamps == c.stamps {
		return c.now, nil
	}
	c.stamps = stamps
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		c.log.Warn("loading certificate: the old one stays in use", "error", err)
		return c.now, nil
	}
	c.now = &cert
	c.log.Info("certificate has changed", "file", c.certFile)
	return c.now, nil
}

func (c *Certificate) stamp() (stamps [2]fileStamp) {
	for i, file := range []string{c.certFile, c.keyFile} {
		if fi, err := os.Stat(file); err == nil {
			stamps[i] = fileStamp{fi.ModTime(), fi.Size()}
		}
	}
	return stamps
}
