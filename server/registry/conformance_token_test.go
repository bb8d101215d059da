package registry

import (
	"bytes"
	"io"
	"net/http"
	"regexp"
)

// tokenTransport gets tokens for ann as the challenges tell it, and keeps them.
type tokenTransport struct {
	c      *client
	tokens map[string]string // by repository and action
}

func (t *tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, err
		}
	}
	rt, _ := parseRoute(r.URL.Path)
	action, _ := needs(r, rt)
	key := rt.repo + " " + string(action)
	resp, err := t.send(r, body, t.tokens[key])
	if err != nil || resp.StatusCode != http.StatusUnauthorized {
		return resp, err
	}
	resp.Body.Close()
	var scope string
	if m := regexp.MustCompile(`scope="([^"]*)"`).FindStringSubmatch(resp.Header.Get("WWW-Authenticate")); m != nil {
		scope = m[1]
	}
	t.tokens[key] = t.c.token("ann", "x", scope)
	return t.send(r, body, t.tokens[key])
}

func (t *tokenTransport) send(r *http.Request, body []byte, token string) (*http.Response, error) {
	r = r.Clone(r.Context())
	if r.Body != nil {
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return http.DefaultTransport.RoundTrip(r)
}
