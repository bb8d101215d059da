package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

// Credential is what a user logs in with.
type Credential struct {
	Username string
	Secret   string // password or personal access token
	// IdentityToken is what a registry gave to be used instead, RegistryToken one that is
	// sent as it is. Login takes neither.
	IdentityToken, RegistryToken string
}

// LoginResult says what Login did.
type LoginResult struct {
	Path   string // of config.json
	Helper string // the credential helper that took the secret; empty: config.json has it
}

// Login checks the credential with the registry of domain ("" or docker.io is Docker
// Hub) and stores it where docker looks for it: in the configured credential helper, or
// else in config.json below DOCKER_CONFIG or ~/.docker, mode 0600. A registry that gives
// an identity token has that stored instead of the secret.
func (c *Client) Login(ctx context.Context, domain string, cred Credential) (LoginResult, error) {
	domain = Domain(domain)
	identity, err := c.checkCredential(ctx, domain, cred)
	if err != nil {
		return LoginResult{}, err
	}
	path, err := configPath()
	if err != nil {
		return LoginResult{}, err
	}
	var result LoginResult
	err = editConfig(ctx, path, func(f *configFile) error {
		key := credentialKey(domain)
		entry := map[string]string{}
		result = LoginResult{Path: path, Helper: f.helper(key)}
		switch {
		case result.Helper != "":
			secret := helperSecret{ServerURL: key, Username: cred.Username, Secret: cred.Secret}
			if identity != "" {
				secret.Username, secret.Secret = "<token>", identity
			}
			if err := runHelper(ctx, result.Helper, "store", secret); err != nil {
				return err
			}
		case identity != "":
			entry["auth"] = base64.StdEncoding.EncodeToString([]byte(cred.Username + ":"))
			entry["identitytoken"] = identity
		default:
			entry["auth"] = base64.StdEncoding.EncodeToString([]byte(cred.Username + ":" + cred.Secret))
		}
		raw, err := json.Marshal(entry)
		if err != nil {
			return err
		}
		f.auths[key] = raw
		return nil
	})
	return result, err
}

// LoginStored checks the name and password that are stored for domain, and returns the name. It is an
// errdefs.ErrNotFound if there are none, as where a token is stored in their place.
func (c *Client) LoginStored(ctx context.Context, domain string) (user string, err error) {
	domain = Domain(domain)
	a := newAuthorizer(&host{client: c, name: domain}, true)
	cred := a.credential(ctx)
	switch {
	case a.configErr != nil:
		return "", a.configErr
	case cred.Username == "" || cred.Password == "":
		return "", fmt.Errorf("not logged in to %s: %w", domain, errdefs.ErrNotFound)
	}
	_, err = c.checkCredential(ctx, domain, Credential{Username: cred.Username, Secret: cred.Password})
	return cred.Username, err
}

// Logout removes the credential of domain. It is an errdefs.ErrNotFound if there was none.
func (c *Client) Logout(ctx context.Context, domain string) error {
	domain = Domain(domain)
	path, err := configPath()
	if err != nil {
		return err
	}
	return editConfig(ctx, path, func(f *configFile) error {
		key, found := credentialKey(domain), false
		for _, k := range []string{key, "https://" + domain, "http://" + domain, domain} {
			if _, ok := f.auths[k]; ok {
				found = true
				delete(f.auths, k)
			}
		}
		if helper := f.helper(key); helper != "" {
			return runHelper(ctx, helper, "erase", key)
		}
		if !found {
			return fmt.Errorf("not logged in to %s: %w", domain, errdefs.ErrNotFound)
		}
		return nil
	})
}

// Domain returns the registry a user means by s: without scheme and path, and docker.io
// for every name of Docker Hub and for "".
func Domain(s string) string {
	s = strings.TrimPrefix(strings.TrimPrefix(s, "https://"), "http://")
	s, _, _ = strings.Cut(s, "/")
	switch s {
	case "", hubAuth, hubHost:
		return hubDomain
	}
	return s
}

// credentialKey is the name of domain in credential stores.
func credentialKey(domain string) string {
	if domain == hubDomain {
		return authn.DefaultAuthKey
	}
	return domain
}

// checkCredential asks the registry whether cred is right, and for an identity token.
func (c *Client) checkCredential(ctx context.Context, domain string, cred Credential) (identity string, err error) {
	addr := domain
	if domain == hubDomain {
		addr = hubHost
	}
	h := c.newHost(domain, addr, true)
	h.auth.config = &authn.AuthConfig{Username: cred.Username, Password: cred.Secret}
	h.auth.offline = true
	resp, err := h.do(ctx, request{method: http.MethodGet, path: "/v2/"})
	if err != nil {
		if e := (*Error)(nil); errors.As(err, &e) {
			e.login = true
		}
		return "", err
	}
	resp.Body.Close()
	return h.auth.refresh, nil
}
