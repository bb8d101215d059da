package registry

import (
	"context"

	"github.com/google/go-containerregistry/pkg/authn"
)

// CheckCredential asks the registry of domain whether cred is right and stores nothing.
// identity is the token that a registry gave to be used instead of the secret, or empty.
func (c *Client) CheckCredential(ctx context.Context, domain string, cred Credential) (identity string, err error) {
	return c.checkCredential(ctx, Domain(domain), cred)
}

// Granted is a keychain with just these credentials, by domain ("docker.io"), and none
// from files and helpers: of clients that send theirs with every request.
func Granted(credentials map[string]Credential) Keychain { return granted(credentials) }

type granted map[string]Credential

// Resolve implements authn.Keychain.
func (g granted) Resolve(r authn.Resource) (authn.Authenticator, error) {
	c, ok := g[Domain(r.RegistryStr())]
	if !ok {
		return authn.Anonymous, nil
	}
	return c.authenticator(), nil
}

// Asked is a keychain that asks f for credentials by domain ("docker.io"): of clients that give theirs when
// they are needed. The zero Credential stands for none, and so does f if it is nil.
func Asked(f func(ctx context.Context, domain string) (Credential, error)) Keychain {
	if f == nil {
		return Granted(nil)
	}
	return asked(f)
}

type asked func(ctx context.Context, domain string) (Credential, error)

var _ authn.ContextKeychain = asked(nil)

// Resolve implements authn.Keychain.
func (a asked) Resolve(r authn.Resource) (authn.Authenticator, error) {
	return a.ResolveContext(context.Background(), r)
}

// ResolveContext implements authn.ContextKeychain.
func (a asked) ResolveContext(ctx context.Context, r authn.Resource) (authn.Authenticator, error) {
	c, err := a(ctx, Domain(r.RegistryStr()))
	if err != nil || c == (Credential{}) {
		return authn.Anonymous, err
	}
	return c.authenticator(), nil
}

func (c Credential) authenticator() authn.Authenticator {
	return authn.FromConfig(authn.AuthConfig{
		Username: c.Username, Password: c.Secret, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken,
	})
}
