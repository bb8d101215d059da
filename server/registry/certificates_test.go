package registry

import (
	"errors"
	"testing"

	"golang.org/x/crypto/acme/autocert"
)

// TestCertificates: another server has what one has put, until it is deleted.
func TestCertificates(t *testing.T) {
	o := testStorage(t)
	var servers [2]autocert.Cache
	for i := range servers {
		g, err := New(o)
		if err != nil {
			t.Fatal(err)
		}
		servers[i] = g.Certificates()
	}
	const key = "registry.test+rsa/../x"
	for _, want := range []string{"one", "two"} {
		if err := servers[0].Put(t.Context(), key, []byte(want)); err != nil {
			t.Fatal(err)
		}
		if got, err := servers[1].Get(t.Context(), key); err != nil || string(got) != want {
			t.Errorf("got %q, %v, want %q", got, err, want)
		}
	}
	for range 2 {
		if err := servers[1].Delete(t.Context(), key); err != nil {
			t.Fatal(err)
		}
		if got, err := servers[0].Get(t.Context(), key); !errors.Is(err, autocert.ErrCacheMiss) {
			t.Errorf("got %q, %v after deletion", got, err)
		}
	}
}
