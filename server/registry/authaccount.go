package registry

import (
	"net/http"
	"strings"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// admitAccount lets in who may do what the request is about. Who may not is told the same
// whether the repository is there or not.
func (d *door) admitAccount(w http.ResponseWriter, r *http.Request, rt route) (visitor, error) {
	c, err := d.accounts.get(r.Context())
	if err != nil {
		return visitor{}, err
	}
	v := visitor{rules: c, name: clientName(r)}
	if u, ok := c.Users[v.name]; !ok || u.expired() {
		v.name = ""
	}
	loggedIn := v.name != ""
	switch scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " "); {
	case scheme == "":
	case strings.EqualFold(scheme, "Bearer"):
		t, err := parseToken(c.Key, strings.TrimSpace(rest), time.Now())
		if u, ok := c.Users[t.Subject]; err != nil || t.Subject != "" && (!ok || u.expired() || t.Account != c.mark(t.Subject)) {
			return v, d.challenge(w, r, rt, "invalid_token")
		}
		v.name, v.token, v.bearer, loggedIn = t.Subject, &t, true, true
	default:
		user, password, ok := r.BasicAuth()
		if ok {
			ok, err = d.checkAccount(w, r, user, password)
		}
		if err != nil {
			return visitor{name: user}, err
		}
		if !ok {
			return visitor{name: user}, d.challenge(w, r, rt, "")
		}
		v.name, loggedIn = user, true
	}
	action, repo := needs(r, rt)
	switch {
	case rt.kind == routeCatalog && v.bearer && !v.token.catalog():
		return v, d.challenge(w, r, rt, "insufficient_scope")
	case repo == "" && loggedIn, repo != "" && v.may(action, repo):
		return v, nil
	case loggedIn && !v.bearer:
		return v, &apiError{http.StatusForbidden, codeDenied, "requested access to the resource is denied", askedFor(r, rt)}
	case v.bearer:
		return v, d.challenge(w, r, rt, "insufficient_scope")
	}
	return v, d.challenge(w, r, rt, "")
}

// needs returns what a request is about, an empty repo if it is about none.
func needs(r *http.Request, rt route) (a Action, repo string) {
	switch {
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		a = actionPull
		if rt.kind == routeUpload {
			a = actionPush
		}
	case r.Method == http.MethodDelete && rt.kind != routeUpload:
		a = actionDelete
	default:
		a = actionPush
	}
	return a, rt.repo
}

// access is what a request needs, as distribution writes it.
type access struct{ Type, Class, Name, Action string }

// askedFor is the detail of a refusal. The clients that use distribution's library (docker, podman, skopeo) show
// the message only if there is one: "unauthorized: authentication required", which scripts look for.
func askedFor(r *http.Request, rt route) []access {
	list := []access{}
	a, repo := needs(r, rt)
	if repo == "" {
		return list
	}
	if a == actionPush {
		list = append(list, access{"repository", "", repo, string(actionPull)})
	}
	return append(list, access{"repository", "", repo, string(a)})
}

// mountSource returns the repository a request would mount a blob from, "" if none.
func mountSource(r *http.Request, rt route) string {
	if rt.kind != routeUploads || r.Method != http.MethodPost {
		return ""
	}
	q := r.URL.Query()
	if from := q.Get("from"); q.Get("mount") != "" && validName(from) {
		return from
	}
	return ""
}

// base returns the scheme and host by which the client of r came.
func (d *door) base(r *http.Request) string {
	if d.external != "" {
		return d.external
	}
	// Whoever sends this header to get another scheme only misleads himself.
	if r.TLS != nil || r.Header.Get("X-Forwarded-Proto") == "https" {
		return "https://" + r.Host
	}
	return "http://" + r.Host
}

// challenge is the answer that tells a client where to get a token, and for what.
func (d *door) challenge(w http.ResponseWriter, r *http.Request, rt route, why string) error {
	base := d.base(r)
	realm, service := base+tokenPath, base[strings.Index(base, "//")+2:]
	if strings.ContainsAny(base, "\"\\") {
		realm, service = tokenPath, "" // no host is called so
	}
	s := `Bearer realm="` + realm + `",service="` + service + `"`
	if a, repo := needs(r, rt); repo != "" {
		actions := string(a)
		if a == actionPush {
			actions = "pull,push"
		}
		s += `,scope="repository:` + repo + `:` + actions
		if from := mountSource(r, rt); from != "" && from != repo {
			s += ` repository:` + from + `:pull`
		}
		s += `"`
	} else if rt.kind == routeCatalog {
		s += `,scope="registry:catalog:*"`
	}
	if why != "" {
		s += `,error="` + why + `"`
	}
	w.Header().Set("WWW-Authenticate", s)
	return &apiError{http.StatusUnauthorized, codeUnauthorized, "authentication required", askedFor(r, rt)}
}

// checkAccount tells whether the password, or key, is the user's. It is an error to ask too often.
func (d *door) checkAccount(w http.ResponseWriter, r *http.Request, name, password string) (bool, error) {
	c, err := d.accounts.get(r.Context())
	if err != nil {
		d.log.Error("nobody can log in", "error", err)
		return false, nil
	}
	u, known := c.Users[name]
	if u.Robot() {
		return u.checkKey(password) && !u.expired(), nil
	}
	hash := []byte(u.Password)
	if u.Password == "" || !known {
		known = false
		for _, other := range c.Users { // takes as long, so that answers do not tell who exists
			if other.Password != "" {
				hash = []byte(other.Password)
				break
			}
		}
	}
	ok, err := d.compareHash(w, r, name, password, hash, known)
	return ok && !u.expired(), err
}

// compareHash is bcrypt, remembered. Who goes away while he waits for it costs nothing. What has
// to be compared is limited by address, or else a right guess would be answered when wrong ones
// are not any more.
func (d *door) compareHash(w http.ResponseWriter, r *http.Request, user, password string, hash []byte, known bool) (bool, error) {
	d.mu.Lock()
	key := d.answerKey(user, password, hash)
	good, bad := d.good[key], d.bad[key]
	d.mu.Unlock()
	if good || bad {
		return good, nil
	}
	if err := d.limit.take(w, "login from "+clientAddress(r)); err != nil {
		return false, err
	}
	// The clients of one job come at once with one password: one of them waits for
	// bcrypt, the others for him, or if he leaves one of them does it.
	for ctx := r.Context(); ctx.Err() == nil; {
		compared := d.compare.DoChan(string(key[:]), func() (any, error) {
			select {
			case d.slots <- struct{}{}:
			case <-ctx.Done():
				return false, ctx.Err()
			}
			defer func() { <-d.slots }()
			ok := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil && known
			d.remember(key, ok)
			return ok, nil
		})
		select {
		case c := <-compared:
			if c.Err == nil {
				return c.Val.(bool), nil
			}
		case <-ctx.Done():
		}
	}
	return false, nil
}
