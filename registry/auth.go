package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// scope is what a request needs to be allowed.
type scope struct {
	repository string
	push       bool
	from       string // a repository to mount blobs from
}

// strings returns the scope as token servers want it.
func (s scope) strings() []string {
	if s.repository == "" {
		return nil
	}
	actions := "pull"
	if s.push {
		actions = "pull,push"
	}
	list := []string{"repository:" + s.repository + ":" + actions}
	if s.from != "" && s.from != s.repository {
		list = append(list, "repository:"+s.from+":pull")
	}
	return list
}

// authorizer finds the Authorization header for the requests to one host. It begins
// without one, learns from the host's challenge how to authenticate, and remembers.
type authorizer struct {
	host        *host
	credentials bool // false: a host we were redirected to gets none

	mu        lock
	challenge *challenge // nil until the host gave one
	pinged    bool       // shouldPing has said what it has to say
	asked     chan found // by credential; nil until then
	config    *authn.AuthConfig
	configErr error
	tokens    map[string]bearer // by scopes
	offline   bool              // ask for an identity token too
	refresh   string            // the identity token got
}

// bearer is a token and when to stop using it.
type bearer struct {
	value   string
	expires time.Time
}

func newAuthorizer(h *host, credentials bool) *authorizer {
	return &authorizer{host: h, credentials: credentials, mu: newLock(), tokens: make(map[string]bearer)}
}

// header returns the Authorization header for s, "" for none.
func (a *authorizer) header(ctx context.Context, s scope) (string, error) {
	if err := a.mu.acquire(ctx); err != nil {
		return "", err
	}
	defer a.mu.release()
	return a.headerLocked(ctx, s, nil)
}

func (a *authorizer) headerLocked(ctx context.Context, s scope, extra []string) (string, error) {
	if a.challenge == nil {
		return "", nil
	}
	cfg := a.credential(ctx)
	if a.challenge.scheme == "basic" {
		return basicHeader(cfg), nil
	}
	if cfg.RegistryToken != "" {
		return "Bearer " + cfg.RegistryToken, nil
	}
	now := a.host.client.now()
	pushing := s
	pushing.push = true
	for _, key := range []scope{s, pushing} {
		if t, ok := a.tokens[strings.Join(key.strings(), " ")]; ok && now.Before(t.expires) {
			return "Bearer " + t.value, nil
		}
	}
	scopes := s.strings()
	for _, e := range extra {
		if !slices.Contains(scopes, e) {
			scopes = append(scopes, e)
		}
	}
	t, err := a.fetchToken(ctx, cfg, scopes)
	if err != nil {
		return "", err
	}
	a.keep(strings.Join(s.strings(), " "), t)
	return "Bearer " + t.value, nil
}

// maxTokens is how many tokens of a host are kept.
const maxTokens = 256

// keep remembers a token. If there are many those that have expired go, and else any.
func (a *authorizer) keep(scopes string, t bearer) {
	if len(a.tokens) >= maxTokens {
		now := a.host.client.now()
		maps.DeleteFunc(a.tokens, func(_ string, old bearer) bool { return !now.Before(old.expires) })
	}
	for old := range a.tokens {
		if len(a.tokens) < maxTokens {
			break
		}
		delete(a.tokens, old)
	}
	a.tokens[scopes] = t
}

func basicHeader(cfg authn.AuthConfig) string {
	if cfg.Username == "" && cfg.Password == "" {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(cfg.Username+":"+cfg.Password))
}

// challenged takes in the 401 answer to a request that carried used, and returns the
// header to try instead: used again when there is no better one.
func (a *authorizer) challenged(ctx context.Context, resp *http.Response, s scope, used string) (string, error) {
	best := chooseChallenge(parseChallenges(resp.Header))
	if best == nil {
		return used, nil
	}
	if err := a.mu.acquire(ctx); err != nil {
		return "", err
	}
	defer a.mu.release()
	a.challenge = best
	var extra []string
	if wanted := best.params["scope"]; wanted != "" {
		extra = strings.Fields(wanted)
	}
	// Forget the tokens that did not help, unless another request has got a new one meanwhile.
	for key, t := range a.tokens {
		if "Bearer "+t.value == used {
			delete(a.tokens, key)
		}
	}
	return a.headerLocked(ctx, s, extra)
}

// chooseChallenge prefers tokens to passwords.
func chooseChallenge(list []challenge) *challenge {
	var best *challenge
	for _, c := range list {
		switch {
		case c.scheme == "bearer" && c.params["realm"] != "":
			return &c
		case c.scheme == "basic":
			best = &c
		}
	}
	return best
}

// credential asks the keychain once. A broken credential helper must not keep anybody
// from public images, so its error is only shown if the registry denies.
func (a *authorizer) credential(ctx context.Context) authn.AuthConfig {
	if a.config != nil {
		return *a.config
	}
	if !a.credentials {
		a.config = &authn.AuthConfig{}
		return *a.config
	}
	if a.asked == nil {
		a.asked = make(chan found, 1)
		go func() { a.asked <- a.host.find(context.WithoutCancel(ctx)) }()
	}
	select {
	case f := <-a.asked:
		a.config = &f.config
		if f.err != nil {
			a.configErr = fmt.Errorf("reading credentials: %w", f.err)
		}
		return *a.config
	case <-ctx.Done():
		return authn.AuthConfig{} // for a request that ends here
	}
}

// found is what a keychain has for a host.
type found struct {
	config authn.AuthConfig
	err    error
}

// find asks the keychain for the credential of h. It ends when a credential helper does, which nothing tells to.
func (h *host) find(ctx context.Context) found {
	a, err := authn.Resolve(ctx, h.client.options.Keychain, keychainResource(h.name))
	if err != nil {
		return found{err: err}
	}
	config, err := authn.Authorization(ctx, a)
	if err != nil || config == nil {
		return found{err: err}
	}
	return found{config: *config}
}

// explain adds to a denial what is known about our credentials.
func (a *authorizer) explain(ctx context.Context, err error) error {
	var e *Error
	if !errors.As(err, &e) || (e.Status != http.StatusUnauthorized && e.Status != http.StatusForbidden) {
		return err
	}
	if a.mu.acquire(ctx) != nil {
		return err
	}
	defer a.mu.release()
	e.tokens = a.challenge != nil && a.challenge.scheme == "bearer"
	switch {
	case a.configErr != nil:
		e.credentials = printable(a.configErr.Error())
	case a.config != nil && a.config.Username != "":
		e.credentials = "you are logged in as " + printable(a.config.Username)
	}
	return err
}

// shouldPing says, once, whether asking the host for a challenge may help: the user has
// a credential and the host has not asked for it.
func (a *authorizer) shouldPing(ctx context.Context) bool {
	if !a.credentials || a.mu.acquire(ctx) != nil {
		return false
	}
	defer a.mu.release()
	if a.pinged || a.challenge != nil {
		return false
	}
	a.pinged = true
	return a.credential(ctx) != authn.AuthConfig{}
}

// keychainResource is a host as credential files name it.
type keychainResource string

// RegistryStr implements authn.Resource.
func (k keychainResource) RegistryStr() string {
	if k == hubDomain {
		return hubAuth
	}
	return string(k)
}

func (k keychainResource) String() string { return k.RegistryStr() }
