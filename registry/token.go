package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	clientID       = "teu"
	maxTokenAnswer = 1 << 20 // bytes
)

// tokenAnswer is the JSON of a token server (distribution, "Token Authentication
// Specification" and "OAuth2 Token Authentication").
type tokenAnswer struct {
	Token        string `json:"token"`
	AccessToken  string `json:"access_token"`
	RefreshToken string `json:"refresh_token"`
	ExpiresIn    any    `json:"expires_in"` // seconds; some servers write a text
}

// fetchToken asks the server that the challenge names for a token with scopes.
func (a *authorizer) fetchToken(ctx context.Context, cfg authn.AuthConfig, scopes []string) (bearer, error) {
	answer, err := a.exchange(ctx, cfg, scopes)
	if err != nil {
		return bearer{}, err
	}
	a.refresh = answer.RefreshToken
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return bearer{}, fmt.Errorf("the token server of %s gave no token: %w", a.host.name, errdefs.ErrUnavailable)
	}
	// The specification's default is 60 seconds. Stop early, an upload takes a while to begin.
	seconds, _ := strconv.ParseFloat(fmt.Sprint(answer.ExpiresIn), 64)
	life := time.Minute
	if seconds > 60 {
		life = time.Duration(min(seconds, 1<<24)) * time.Second
	}
	return bearer{value: value, expires: a.host.client.now().Add(life - life/6)}, nil
}

func (a *authorizer) exchange(ctx context.Context, cfg authn.AuthConfig, scopes []string) (tokenAnswer, error) {
	realm, err := a.realm()
	if err != nil {
		return tokenAnswer{}, err
	}
	server := a.host
	if realm.Host != server.addr {
		server = server.client.foreign(realm)
	}
	_, body, err := a.host.client.document(ctx, maxTokenAnswer, func() (*http.Response, error) {
		return a.host.client.repeat(ctx, true, func() (*http.Response, error) {
			req, err := a.tokenRequest(ctx, realm, cfg, scopes)
			if err != nil {
				return nil, err
			}
			return a.ask(server, req)
		})
	})
	if err != nil {
		return tokenAnswer{}, &tokenError{realm.Host, err}
	}
	var answer tokenAnswer
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&answer); err != nil {
		return tokenAnswer{}, fmt.Errorf("reading the token of %s: %w", realm.Host, err)
	}
	return answer, nil
}

// ask sends req to the token server and where that redirects, which gets the password only if it is the
// same server.
func (a *authorizer) ask(server *host, req *http.Request) (*http.Response, error) {
	for hop := 0; ; hop++ {
		resp, err := server.client.roundTrip(server, req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode/100 == 2 {
			return resp, nil
		}
		if !isRedirect(resp.StatusCode) || hop == maxRedirects {
			return nil, newError(a.host, resp)
		}
		resp.Body.Close()
		next, err := redirectTarget(request{method: req.Method}, req.URL, resp.Header.Get("Location"), server.client.insecure)
		if err != nil {
			return nil, fmt.Errorf("redirected by %s: %w", server.name, err)
		}
		again := req.Clone(req.Context())
		again.URL, again.Host = next, ""
		if next.Host != req.URL.Host || next.Scheme != req.URL.Scheme {
			again.Header.Del("Authorization")
			server = server.client.foreign(next)
		}
		req = again
	}
}

// tokenError is what a token server said at last: it has been asked as often as is any use.
type tokenError struct {
	server string
	err    error
}

func (e *tokenError) Error() string { return "asking " + e.server + " for a token: " + e.err.Error() }

// Unwrap returns the cause.
func (e *tokenError) Unwrap() error { return e.err }

// tokenRequest builds the request: OAuth2's POST for an identity token, the older GET
// with the password otherwise, as docker does.
func (a *authorizer) tokenRequest(ctx context.Context, realm *url.URL, cfg authn.AuthConfig, scopes []string) (*http.Request, error) {
	service := a.challenge.params["service"]
	if cfg.IdentityToken != "" {
		form := url.Values{
			"grant_type":    {"refresh_token"},
			"client_id":     {clientID},
			"refresh_token": {cfg.IdentityToken},
			"service":       {service},
			"scope":         {strings.Join(scopes, " ")},
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
		if err == nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		return req, err
	}
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	q["scope"] = scopes
	if a.offline {
		q.Set("offline_token", "true")
		q.Set("client_id", clientID)
	}
	if cfg.Username != "" {
		q.Set("account", cfg.Username)
	}
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err == nil {
		if h := basicHeader(cfg); h != "" {
			req.Header.Set("Authorization", h)
		}
	}
	return req, err
}

// realm returns the address of the token server. It gets the user's password, so it
// must be as safe as the registry itself.
func (a *authorizer) realm() (*url.URL, error) {
	u, err := url.Parse(a.challenge.params["realm"])
	if err != nil || u.Host == "" {
		return nil, fmt.Errorf("%s names no usable token server: %w", a.host.name, errdefs.ErrInvalidArgument)
	}
	plainAllowed := u.Scheme == "http" && (a.host.lax || a.host.client.insecure.contains(u.Host))
	if u.Scheme != "https" && !plainAllowed {
		return nil, fmt.Errorf("%s sends us to the token server %s without TLS: %w", a.host.name, u.Host, errdefs.ErrPermissionDenied)
	}
	if LinkLocal(u) {
		return nil, fmt.Errorf("%s sends us to the link-local address %s: %w", a.host.name, u.Host, errdefs.ErrPermissionDenied)
	}
	return u, nil
}

// LinkLocal reports whether u names an address where clouds serve machine secrets; nothing
// that a server should send us to lives there.
func LinkLocal(u *url.URL) bool {
	ip, err := netip.ParseAddr(u.Hostname())
	ip = ip.Unmap()
	return err == nil && (ip.IsLinkLocalUnicast() || ip.IsUnspecified())
}
