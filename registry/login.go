package registry

import "context"

// Credential is what a user logs in with.
type Credential struct {
	Username string
	Secret   string // password or personal access token
}

// LoginOptions change how Login works.
type LoginOptions struct {
	// ConfigDir is the directory of docker's config.json; empty means DOCKER_CONFIG or ~/.docker.
	ConfigDir string
}

// LoginResult says what Login did.
type LoginResult struct {
	Path   string // the file written, or the configuration that named the helper
	Helper string // the credential helper that took the secret; empty: it is in the file
}

// Login checks the credential with the registry of domain ("" or docker.io is Docker
// Hub) and stores it where docker looks for it: in the configured credential helper, or
// else in config.json, mode 0600. Fields of the file that teu does not know are kept.
func (c *Client) Login(ctx context.Context, domain string, cred Credential, o LoginOptions) (LoginResult, error) {
	return LoginResult{}, errTODO
}

// Logout removes the credential of domain. It is an errdefs.ErrNotFound if there was none.
func (c *Client) Logout(ctx context.Context, domain string, o LoginOptions) error { return errTODO }
