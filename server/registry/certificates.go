package registry

import (
	"context"
	"encoding/base64"
	"errors"

	"github.com/containerd/errdefs"
	"golang.org/x/crypto/acme/autocert"
)

// certificates are the certificates and keys that came by ACME, and the answers to its
// challenges: whichever server of the storage the authority or a client comes to has them.
type certificates struct{ store documents }

var _ autocert.Cache = certificates{}

// Certificates returns where servers of the registry keep certificates they got by ACME.
func (g *Registry) Certificates() autocert.Cache { return certificates{g.store} }

// certificateDocument makes a name of any bytes that of a document.
func certificateDocument(key string) string {
	return "acme-" + base64.RawURLEncoding.EncodeToString([]byte(key))
}

// Get implements autocert.Cache.
func (c certificates) Get(ctx context.Context, key string) ([]byte, error) {
	b, _, err := c.store.Document(ctx, certificateDocument(key))
	if errdefs.IsNotFound(err) || err == nil && len(b) == 0 {
		return nil, autocert.ErrCacheMiss
	}
	return b, err
}

// Put implements autocert.Cache.
func (c certificates) Put(ctx context.Context, key string, data []byte) error {
	return editDocument(ctx, c.store, certificateDocument(key), func([]byte) ([]byte, error) { return data, nil })
}

// Delete implements autocert.Cache. Documents are not removed: an empty one is none.
func (c certificates) Delete(ctx context.Context, key string) error {
	if _, err := c.Get(ctx, key); err != nil {
		if errors.Is(err, autocert.ErrCacheMiss) {
			return nil
		}
		return err
	}
	return c.Put(ctx, key, nil)
}
