package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// accountsServer is a registry with accounts: ann, who is in the group dev, bob, and a robot.
func accountsServer(t *testing.T) (c *client, robot string) {
	t.Helper()
	o := testStorage(t)
	o.Accounts, o.AllowDelete = true, true
	err := EditAccounts(t.Context(), o, func(a *Accounts) (err error) {
		for _, name := range []string{"ann", "bob", "eve"} {
			if err := a.SetPassword(name, name+"'s password"); err != nil {
				return err
			}
		}
		ann := a.Users["ann"]
		ann.Groups = []string{"dev"}
		a.Users["ann"] = ann
		if robot, err = a.AddRobot("ci", nil, time.Time{}); err != nil {
			return err
		}
		a.Rules = []AccessRule{
			{"team/**", "@dev", []Action{actionPull, actionPush, actionDelete}},
			{"team/app", "ci", []Action{actionPull, actionPush}},
			{"public/*", "anonymous", []Action{actionPull}},
			{"public/*", "ann", []Action{actionPull, actionPush}},
			{"shared", "*", []Action{actionPull}},
			{"*", "eve", []Action{actionPull, actionPush}},
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return serveOptions(t, o), robot
}

// as returns a client that shows a header.
func (c *client) as(authorization string) *client {
	h := *c.http
	h.Transport = headerTransport{authorization}
	return &client{c.t, c.base, &h}
}

type headerTransport struct{ authorization string }

func (h headerTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	if h.authorization != "" {
		r.Header.Set("Authorization", h.authorization)
	}
	return http.DefaultTransport.RoundTrip(r)
}

func basic(user, password string) string {
	r, _ := http.NewRequest("GET", "http://x", nil)
	r.SetBasicAuth(user, password)
	return r.Header.Get("Authorization")
}

// token gets a token as docker does, for what a challenge asks for.
func (c *client) token(user, password, scope string) string {
	c.t.Helper()
	who := c
	if user != "" {
		who = c.as(basic(user, password))
	}
	a := c.want(who.do("GET", tokenPath+"?service=x&scope="+url.QueryEscape(scope), nil), 200, "")
	var doc struct {
		Token     string `json:"token"`
		ExpiresIn int    `json:"expires_in"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || doc.Token == "" || doc.ExpiresIn < 60 {
		c.t.Fatalf("got %s (%v)", a.body, err)
	}
	return doc.Token
}

// TestAccounts: the rules, by passwords, keys and tokens.
func TestAccounts(t *testing.T) {
	c, robot := accountsServer(t)
	ann := c.as(basic("ann", "ann's password"))
	for _, repo := range []string{"team/app", "team/a/b", "public/x"} {
		ann.tagged(repo, "v1")
	}
	annToken := c.token("ann", "ann's password", "repository:team/app:pull,push,delete")
	clients := map[string]*client{
		"anonymous": c, "anonymous token": c.as("Bearer " + c.token("", "", "repository:public/x:pull repository:team/app:pull")),
		"ann": ann, "ann's token": c.as("Bearer " + annToken),
		"bob": c.as(basic("bob", "bob's password")), "bob's token": c.as("Bearer " + c.token("bob", "bob's password", "repository:team/app:pull,push")),
		"ci": c.as(basic("ci", robot)), "ci's token": c.as("Bearer " + c.token("ci", robot, "repository:team/app:pull,push,delete")),
	}
	tests := []struct {
		request string
		status  map[string]int // 0: anybody else
	}{
		{"GET /v2/", map[string]int{"anonymous": 401, "": 200}},
		{"GET /v2/public/x/manifests/v1", map[string]int{"ann's token": 401, "bob's token": 401, "ci's token": 401, "": 200}},
		{"GET /v2/team/app/manifests/v1", map[string]int{"anonymous": 401, "anonymous token": 401, "bob": 403, "bob's token": 401, "": 200}},
		{"GET /v2/team/none/manifests/v1", map[string]int{"ann": 404, "ann's token": 401, "anonymous": 401, "anonymous token": 401, "bob": 403, "bob's token": 401, "ci": 403, "ci's token": 401}},
		{"GET /v2/secret/none/manifests/v1", map[string]int{"bob": 403, "ann": 403, "ci": 403, "": 401}},
		{"POST /v2/team/app/blobs/uploads/", map[string]int{"anonymous": 401, "anonymous token": 401, "bob": 403, "bob's token": 401, "": 202}},
		{"POST /v2/public/x/blobs/uploads/", map[string]int{"ann": 202, "bob": 403, "ci": 403, "": 401}},
		{"GET /v2/public/x/blobs/uploads/id", map[string]int{"ann": 404, "bob": 403, "ci": 403, "": 401}}, // who may pull may not see what is pushed
		{"DELETE /v2/team/app/manifests/none", map[string]int{"ann": 404, "ann's token": 404, "bob": 403, "ci": 403, "": 401}},
		{"GET /v2/nothing", map[string]int{"anonymous": 401, "": 404}},
	}
	for _, test := range tests {
		method, path, _ := strings.Cut(test.request, " ")
		for name, who := range clients {
			want, ok := test.status[name]
			if !ok {
				want = test.status[""]
			}
			if a := who.do(method, path, nil); a.status != want {
				t.Errorf("%s by %s: got %d %s, want %d", test.request, name, a.status, a.body, want)
			}
		}
	}
	for name, want := range map[string][]string{"ann": {"public/x", "team/a/b", "team/app"}, "bob": {"public/x"}, "ci": {"public/x", "team/app"}} {
		if got := pages(clients[name], "/v2/_catalog?n=1"); !slices.Equal(got, want) {
			t.Errorf("catalog of %s: got %v, want %v", name, got, want)
		}
	}
}

// TestAccountsCatalog: a token leads to the list of repositories if it was given for that, as at distribution's registry,
// and who has one sees what he may pull.
func TestAccountsCatalog(t *testing.T) {
	c, robot := accountsServer(t)
	c.as(basic("ann", "ann's password")).tagged("team/app", "v1")
	c.as(basic("ann", "ann's password")).tagged("public/x", "v1")
	for _, scope := range []string{"", "repository:team/app:pull", "registry:catalog:pull", "registry:other:*", "repository:catalog:*"} {
		a := c.want(c.as("Bearer "+c.token("ann", "ann's password", scope)).do("GET", "/v2/_catalog", nil), 401, codeUnauthorized)
		if got := a.header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,scope="registry:catalog:*",error="insufficient_scope"`) {
			t.Errorf("%q: got %s", scope, got)
		}
	}
	for _, test := range []struct {
		user, password string
		want           []string
	}{{"ann", "ann's password", []string{"public/x", "team/app"}}, {"ci", robot, []string{"public/x", "team/app"}}, {"bob", "bob's password", []string{"public/x"}}, {"", "", []string{"public/x"}}} {
		token := c.token(test.user, test.password, "repository:public/x:pull registry:catalog:*")
		if got := pages(c.as("Bearer "+token), "/v2/_catalog?n=1"); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %v, want %v", test.user, got, test.want)
		}
		if token := c.token(test.user, test.password, "registry:catalog:*"); c.as("Bearer "+token).do("GET", "/v2/public/x/manifests/v1", nil).status != 401 {
			t.Errorf("%q: the catalog's token opens repositories", test.user)
		}
	}
}

// TestAccountsChallenge: what a client is told to ask for, which is the same whether the
// repository is there or not.
func TestAccountsChallenge(t *testing.T) {
	c, _ := accountsServer(t)
	c.as(basic("ann", "ann's password")).tagged("team/app", "v1")
	host := strings.TrimPrefix(c.base, "http://")
	for request, want := range map[string]string{
		"GET /v2/": "", "GET /v2/_catalog": `,scope="registry:catalog:*"`,
		"GET /v2/team/app/manifests/v1":                        `,scope="repository:team/app:pull"`,
		"GET /v2/team/none/manifests/v1":                       `,scope="repository:team/none:pull"`,
		"POST /v2/team/app/blobs/uploads/":                     `,scope="repository:team/app:pull,push"`,
		"POST /v2/team/app/blobs/uploads/?mount=x&from=team/b": `,scope="repository:team/app:pull,push repository:team/b:pull"`,
		"PUT /v2/team/app/manifests/v1":                        `,scope="repository:team/app:pull,push"`,
		"DELETE /v2/team/app/manifests/v1":                     `,scope="repository:team/app:delete"`,
		"DELETE /v2/team/app/blobs/uploads/x":                  `,scope="repository:team/app:pull,push"`,
	} {
		method, path, _ := strings.Cut(request, " ")
		a := c.want(c.do(method, path, nil), 401, codeUnauthorized)
		if got, want := a.header.Get("WWW-Authenticate"), `Bearer realm="http://`+host+`/auth/token",service="`+host+`"`+want; got != want {
			t.Errorf("%s: got %s, want %s", request, got, want)
		}
		if !strings.Contains(string(a.body), `"detail":[`) {
			t.Errorf("%s: docker would not show the message of %s", request, a.body)
		}
	}
	a := c.as("Bearer x").do("GET", "/v2/team/app/manifests/v1", nil)
	if got := a.header.Get("WWW-Authenticate"); a.status != 401 || !strings.HasSuffix(got, `,error="invalid_token"`) {
		t.Errorf("got %d %s", a.status, got)
	}
}

// TestAccountsMount: a blob is mounted only from where one may pull.
func TestAccountsMount(t *testing.T) {
	c, robot := accountsServer(t)
	ann, ci := c.as(basic("ann", "ann's password")), c.as(basic("ci", robot))
	d := ann.blob("team/secret", []byte("secret")).Digest.String()
	for _, from := range []string{"&from=team/secret", ""} {
		ci.want(ci.do("POST", "/v2/team/app/blobs/uploads/?mount="+d+from, nil), 202, "")
	}
	// Who may pull from all names of one component may not pull from all.
	eve := c.as(basic("eve", "eve's password"))
	for _, from := range []string{"&from=team/secret", "&from=", ""} {
		eve.want(eve.do("POST", "/v2/hers/blobs/uploads/?mount="+d+from, nil), 202, "")
	}
	mount := "/v2/team/app/blobs/uploads/?mount=" + d + "&from=team/secret"
	ann.want(ann.do("POST", mount, nil), 201, "")

	// A token for the target alone is not enough, and its owner is told what is.
	scopes := "repository:team/app:pull,push repository:team/secret:pull"
	narrow := c.as("Bearer " + c.token("ann", "ann's password", "repository:team/app:pull,push"))
	a := narrow.want(narrow.do("POST", mount, nil), 401, codeUnauthorized)
	if got := a.header.Get("WWW-Authenticate"); !strings.HasSuffix(got, `,scope="`+scopes+`",error="insufficient_scope"`) {
		t.Errorf("got %s", got)
	}
	wide := c.as("Bearer " + c.token("ann", "ann's password", scopes))
	wide.want(wide.do("POST", mount, nil), 201, "")
	// Whom no token would help begins an upload, as if the blob were not there.
	bot := c.as("Bearer " + c.token("ci", robot, scopes))
	bot.want(bot.do("POST", mount, nil), 202, "")
}

// TestAccountsChange: what is taken away is away, tokens or not, and passwords that are wrong
// say nothing about who there is.
func TestAccountsChange(t *testing.T) {
	o := Options{Root: t.TempDir(), Accounts: true}
	edit := func(f func(a *Accounts)) {
		t.Helper()
		if err := EditAccounts(t.Context(), o, func(a *Accounts) error { f(a); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	var key string
	edit(func(a *Accounts) {
		if err := a.SetPassword("ann", "x"); err != nil {
			t.Error(err)
		}
		key, _ = a.AddRobot("ci", nil, time.Now().Add(time.Hour))
		a.Rules = []AccessRule{{"**", "*", []Action{actionPull}}}
	})
	g, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	c := serveRegistry(t, g)
	forget := func() { g.door.accounts.expire() }
	path := "/v2/a/manifests/none"
	old := c.as("Bearer " + c.token("ann", "x", "repository:a:pull"))
	oldRobot := c.as("Bearer " + c.token("ci", key, "repository:a:pull"))
	old.want(old.do("GET", path, nil), 404, codeManifestUnknown)
	oldRobot.want(oldRobot.do("GET", path, nil), 404, codeManifestUnknown)
	edit(func(a *Accounts) {
		if err := a.SetPassword("ann", "another"); err != nil {
			t.Error(err)
		}
		delete(a.Users, "ci")
		key, _ = a.AddRobot("ci", nil, time.Now().Add(time.Hour))
	})
	forget()
	old.want(old.do("GET", path, nil), 401, codeUnauthorized)
	oldRobot.want(oldRobot.do("GET", path, nil), 401, codeUnauthorized)
	edit(func(a *Accounts) {
		if err := a.SetPassword("ann", "x"); err != nil {
			t.Error(err)
		}
	})
	forget()
	token := c.as("Bearer " + c.token("ann", "x", "repository:a:pull"))
	token.want(token.do("GET", path, nil), 404, codeManifestUnknown)
	for _, wrong := range []string{basic("ann", "y"), basic("eve", "x"), basic("ci", "x"), basic("ann", key), "Basic x", "Bearer", "x"} {
		c.want(c.as(wrong).do("GET", path, nil), 401, codeUnauthorized)
		if strings.HasPrefix(wrong, "Basic ") && wrong != "Basic x" {
			c.want(c.as(wrong).do("GET", tokenPath, nil), 401, codeUnauthorized)
		}
	}
	form := url.Values{"grant_type": {"password"}, "username": {"ann"}, "password": {"x"}, "scope": {"repository:a:pull"}}
	a := c.want(c.do("POST", tokenPath, strings.NewReader(form.Encode()), "Content-Type", "application/x-www-form-urlencoded"), 200, "")
	if !strings.Contains(string(a.body), `"access_token"`) {
		t.Errorf("got %s", a.body)
	}
	c.want(c.do("POST", tokenPath, strings.NewReader("grant_type=refresh_token")), 400, codeUnsupported)
	c.want(c.do("PUT", tokenPath, nil), 405, codeUnsupported)

	edit(func(a *Accounts) { a.Rules = nil })
	forget()
	c.want(token.do("GET", path, nil), 401, codeUnauthorized)
	edit(func(a *Accounts) {
		delete(a.Users, "ann")
		ci := a.Users["ci"]
		ci.Expires = time.Now().Add(-time.Second)
		a.Users["ci"] = ci
		a.Rules = []AccessRule{{"**", "*", []Action{actionPull}}}
	})
	forget()
	c.want(token.do("GET", path, nil), 401, codeUnauthorized)
	c.want(c.as(basic("ci", key)).do("GET", path, nil), 401, codeUnauthorized)
}

// TestToken: only what was signed here, and not for longer than it says.
func TestToken(t *testing.T) {
	key := []byte("key")
	now := time.Unix(1000, 0)
	good, err := claims{tokenIssuer, "ann", 1001, 1000, "", nil}.sign(key)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := parseToken(key, good, now); err != nil || c.Subject != "ann" {
		t.Fatalf("got %+v %v", c, err)
	}
	parts := strings.Split(good, ".")
	none := "eyJhbGciOiJub25lIn0." + parts[1] + "."
	other, _ := claims{"somebody", "ann", 1001, 1000, "", nil}.sign(key)
	unsigned, _ := claims{tokenIssuer, "ann", 1001, 1000, "", nil}.sign(nil)
	for name, test := range map[string]struct {
		token string
		key   []byte
		now   time.Time
	}{
		"by a registry that has no key": {unsigned, nil, now},
		"over":                          {good, key, time.Unix(1001, 0)}, "other key": {good, []byte("x"), now}, "no key": {good, nil, now},
		"no signature": {none, key, now}, "empty": {"", key, now}, "dots": {"..", key, now}, "other issuer": {other, key, now},
		"changed": {parts[0] + "." + parts[1] + "x." + parts[2], key, now}, "long": {strings.Repeat("x", maxToken+1), key, now},
	} {
		if c, err := parseToken(test.key, test.token, test.now); err == nil {
			t.Errorf("%s: got %+v", name, c)
		}
	}
	largest := claims{tokenIssuer, strings.Repeat("u", 64), 1001, 1000, "", nil}
	for range maxScopes {
		largest.Access = append(largest.Access, tokenAccess{"repository", strings.Repeat("r", maxName), []string{"pull", "push", "delete"}})
	}
	if token, err := largest.sign(key); err != nil {
		t.Error(err)
	} else if c, err := parseToken(key, token, now); err != nil || len(c.Access) != maxScopes {
		t.Errorf("a token of %d bytes is refused by its maker: %v", len(token), err)
	}
	many := strings.Repeat("repository:a:pull ", 2*maxScopes)
	if n := len(parseScopes([]string{many, many})); n != maxScopes {
		t.Errorf("a token has %d scopes", n)
	}
}

// FuzzGlob compares the matcher with a regular expression.
func FuzzGlob(f *testing.F) {
	for _, s := range [][2]string{{"team/**", "team/a/b"}, {"*", "a/b"}, {"a*b/**c", "axb/x/c"}, {"**/x*", "a/b/xy"}, {"a/*/b", "a/b"}, {"***", "a"}, {"*a**b*", "xa/b"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, glob, name string) {
		if len(glob) > 30 || len(name) > 60 {
			return
		}
		glob, name = strings.Map(ascii, glob), strings.Map(ascii, name)
		e := regexp.QuoteMeta(glob)
		e = strings.ReplaceAll(e, `\*\*`, "\x00")
		e = strings.ReplaceAll(strings.ReplaceAll(e, `\*`, "[^/]*"), "\x00", ".*")
		if got, want := matchGlob(glob, name), regexp.MustCompile(`^(?s:`+e+`)$`).MatchString(name); got != want {
			t.Errorf("matchGlob(%q, %q): got %t, want %t", glob, name, got, want)
		}
	})
}

// ascii maps everything to letters, slashes and stars.
func ascii(r rune) rune {
	if r == '*' || r == '/' {
		return r
	}
	return 'a' + (r%3+3)%3
}

// TestDocuments: one of two who change a document at once has to look again.
func TestDocuments(t *testing.T) {
	s, err := openStorage(testStorage(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, _, err := s.Document(ctx, "x"); !errdefs.IsNotFound(err) {
		t.Fatalf("got %v", err)
	}
	if err := s.PutDocument(ctx, "x", "", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutDocument(ctx, "x", "", []byte("2")); !errdefs.IsAborted(err) {
		t.Errorf("got %v, want aborted", err)
	}
	body, version, err := s.Document(ctx, "x")
	if err != nil || string(body) != "1" {
		t.Fatalf("got %q %v", body, err)
	}
	if err := s.PutDocument(ctx, "x", version, []byte("3")); err != nil {
		t.Fatal(err)
	}
	if err := s.PutDocument(ctx, "x", version, []byte("4")); !errdefs.IsAborted(err) {
		t.Errorf("got %v, want aborted", err)
	}
	if body, _, _ := s.Document(ctx, "x"); string(body) != "3" {
		t.Errorf("got %q", body)
	}
}

// brokenDocuments are documents that cannot be read, or make no sense, when a test says so.
type brokenDocuments struct {
	body  string
	err   error
	reads int
}

func (b *brokenDocuments) Document(context.Context, string) ([]byte, string, error) {
	b.reads++
	return []byte(b.body), b.body, b.err
}

func (b *brokenDocuments) PutDocument(context.Context, string, string, []byte) error {
	return errdefs.ErrNotImplemented
}

// TestDocumentCache: a document that cannot be read, or is half-written, is what it was for a
// minute, and nobody asks for it again at each request.
func TestDocumentCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &brokenDocuments{body: `[{"repositories": "a", "immutable": true}]`}
		c := newRulesCache(s)
		want := func(n int, ok bool) {
			t.Helper()
			if rs, err := c.get(t.Context()); len(rs) != n || ok != (err == nil) {
				t.Errorf("got %+v %v, want %d rules", rs, err, n)
			}
		}
		want(1, true)
		for name, broken := range map[string]brokenDocuments{
			"cannot be read": {err: errors.New("no answer")},
			"half-written":   {body: `[{"repositories": "a", "immu`},
		} {
			t.Log(name)
			good := s.body
			s.body, s.err = broken.body, broken.err
			time.Sleep(2 * documentFor)
			s.reads = 0
			for range 100 {
				want(1, true)
			}
			if s.reads != 1 {
				t.Errorf("read %d times", s.reads)
			}
			time.Sleep(documentStale)
			want(1, false)
			s.body, s.err = good, nil
			time.Sleep(documentFor)
			want(1, true)
		}
	})
}

// TestDocumentsAreBounded: what could not be read again is not written.
func TestDocumentsAreBounded(t *testing.T) {
	o := testStorage(t)
	rs := Rules{}
	for range 18_000 {
		rs = append(rs, Rule{Repositories: "team/app", Tags: "v*", Immutable: true})
	}
	if err := SetRules(t.Context(), o, rs); err != nil {
		t.Fatal(err)
	}
	if got, err := ReadRules(t.Context(), o); err != nil || len(got) != len(rs) {
		t.Errorf("got %d rules: %v", len(got), err)
	}
	if err := SetRules(t.Context(), o, slices.Concat(rs, rs, rs, rs)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if got, err := ReadRules(t.Context(), o); err != nil || len(got) != len(rs) {
		t.Errorf("got %d rules: %v", len(got), err)
	}
	if rs, err := DecodeRules(strings.NewReader(`[] [{"repositories":"**","immutable":true}]`)); err == nil {
		t.Errorf("the second list was dropped: got %+v", rs)
	}
}
