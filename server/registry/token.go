package registry

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Tokens are JSON web tokens (RFC 7519) with HS256, as distribution's "Token Authentication
// Specification" describes their access. They only narrow what the accounts allow: rules are
// asked at every request, so that a change counts at once.

// claims is what a token says. An empty subject has not logged in.
type claims struct {
	Issuer  string        `json:"iss"`
	Subject string        `json:"sub"`
	Expires int64         `json:"exp"`
	Issued  int64         `json:"iat"`
	Account string        `json:"account,omitempty"` // User.mark of the subject
	Access  []tokenAccess `json:"access"`
}

type tokenAccess struct {
	Type    string   `json:"type"`
	Name    string   `json:"name"`
	Actions []string `json:"actions"`
}

const (
	tokenIssuer = "teu registry"
	tokenLife   = 5 * time.Minute
	// tokenHeader is {"alg":"HS256","typ":"JWT"}: there is no other, so nobody can ask for it.
	tokenHeader = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9"
	// maxToken has room for maxScopes of the longest names. A header may have twice as much.
	maxToken = 32 << 10
	// maxScopes is how many scopes one token may have.
	maxScopes = 64
)

func (c claims) sign(key []byte) (string, error) {
	b, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := tokenHeader + "." + base64.RawURLEncoding.EncodeToString(b)
	return text + "." + base64.RawURLEncoding.EncodeToString(tokenMAC(key, text)), nil
}

func tokenMAC(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

var errToken = errors.New("not a token of this registry, or its time is over")

// parseToken checks a token.
func parseToken(key []byte, token string, now time.Time) (c claims, err error) {
	i := strings.LastIndexByte(token, '.')
	if i < 0 || len(token) > maxToken || len(key) == 0 {
		return c, errToken
	}
	mac, err := base64.RawURLEncoding.DecodeString(token[i+1:])
	if err != nil || !hmac.Equal(mac, tokenMAC(key, token[:i])) {
		return c, errToken
	}
	header, body, _ := strings.Cut(token[:i], ".")
	b, err := base64.RawURLEncoding.DecodeString(body)
	if err != nil || header != tokenHeader || json.Unmarshal(b, &c) != nil || c.Issuer != tokenIssuer || now.Unix() >= c.Expires {
		return claims{}, errToken
	}
	return c, nil
}

// allows reports whether the token was given for an action.
func (c claims) allows(a Action, repo string) bool {
	return slices.ContainsFunc(c.Access, func(x tokenAccess) bool {
		return x.Type == "repository" && x.Name == repo && slices.Contains(x.Actions, string(a))
	})
}

// parseScopes reads "repository:NAME:pull,push registry:catalog:*". What is neither is
// ignored, as the specification wants it.
func parseScopes(scopes []string) (list []tokenAccess) {
	for _, group := range scopes {
		for scope := range strings.SplitSeq(group, " ") {
			kind, rest, _ := strings.Cut(scope, ":")
			i := strings.LastIndexByte(rest, ':') // a name may have a port in it, for others
			if i < 0 || len(list) == maxScopes {
				continue
			}
			kind, _, _ = strings.Cut(kind, "(")
			list = append(list, tokenAccess{kind, rest[:i], strings.Split(rest[i+1:], ",")})
		}
	}
	return list
}

// catalog reports whether the token was given for the list of repositories.
func (c claims) catalog() bool { return slices.ContainsFunc(c.Access, tokenAccess.catalog) }

// catalog reports whether x is "registry:catalog:*", as distribution's "Token Scope Documentation" writes it.
func (x tokenAccess) catalog() bool {
	return x.Type == "registry" && x.Name == "catalog" && slices.Contains(x.Actions, "*")
}

// grant narrows what was asked for to what the accounts allow. Everybody has a catalog, of what he may pull.
func (c *Accounts) grant(name string, asked []tokenAccess) []tokenAccess {
	granted := []tokenAccess{}
	for _, x := range asked {
		if x.catalog() {
			granted = append(granted, tokenAccess{x.Type, x.Name, []string{"*"}})
			continue
		}
		if x.Type != "repository" || !validName(x.Name) {
			continue
		}
		var actions []string
		for _, a := range []Action{actionPull, actionPush, actionDelete} {
			if (slices.Contains(x.Actions, string(a)) || slices.Contains(x.Actions, "*")) && c.allows(name, a, x.Name) {
				actions = append(actions, string(a))
			}
		}
		if len(actions) > 0 {
			granted = append(granted, tokenAccess{x.Type, x.Name, actions})
		}
	}
	return granted
}

// tokenPath is where tokens are had. No repository is called so.
const tokenPath = "/auth/token"

// serveToken serves GET tokenPath as distribution's specification has it, and POST, its OAuth
// 2.0 form, for passwords.
func (g *Registry) serveToken(w http.ResponseWriter, r *http.Request) error {
	d := g.door
	q := r.URL.Query()
	user, password, given := r.BasicAuth()
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		r.Body = http.MaxBytesReader(w, r.Body, maxToken)
		if err := r.ParseForm(); err != nil {
			return &apiError{http.StatusBadRequest, codeUnsupported, "not a form", nil}
		}
		q = r.PostForm
		if q.Get("grant_type") != "password" {
			return &apiError{http.StatusBadRequest, codeUnsupported, "the only grant_type is password", nil}
		}
		user, password, given = q.Get("username"), q.Get("password"), true
	default:
		w.Header().Set("Allow", "GET, POST")
		return &apiError{http.StatusMethodNotAllowed, codeUnsupported, "tokens are had by GET or POST", nil}
	}
	if cert := clientName(r); !given && cert != "" {
		user = cert
	} else if given {
		ok, err := d.checkAccount(w, r, user, password)
		if err != nil {
			return err
		}
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="teu registry"`)
			return &apiError{http.StatusUnauthorized, codeUnauthorized, "wrong user or password", nil}
		}
	}
	return g.writeToken(w, r, user, q)
}

func (g *Registry) writeToken(w http.ResponseWriter, r *http.Request, user string, q url.Values) error {
	c, err := g.door.accounts.get(r.Context())
	if err != nil {
		return err
	}
	if len(c.Key) == 0 {
		return &apiError{http.StatusUnauthorized, codeUnauthorized, "nobody has an account here", nil}
	}
	now := time.Now()
	token, err := claims{tokenIssuer, user, now.Add(tokenLife).Unix(), now.Unix(), c.mark(user), c.grant(user, parseScopes(q["scope"]))}.sign(c.Key)
	if err != nil {
		return err
	}
	w.Header().Set("Cache-Control", "no-store")
	return writeJSON(w, "application/json", map[string]any{
		"token": token, "access_token": token, "expires_in": int(tokenLife.Seconds()),
		"issued_at": now.UTC().Format(time.RFC3339), "scope": strings.Join(q["scope"], " "),
	})
}
