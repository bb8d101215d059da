package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

var basic = authn.AuthConfig{Username: "u", Password: "p"}

// tokenServer guards inner with docker's token flow.
type tokenServer struct {
	inner http.Handler
	self  string // host:port

	mu      sync.Mutex
	issued  []string // "user scopes" of every token given
	valid   map[string]string
	private bool // pulling needs the user
	refresh string
	next    int
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	if q.URL.Path == "/token" {
		s.token(w, q)
		return
	}
	s.mu.Lock()
	scopes, ok := s.valid[strings.TrimPrefix(q.Header.Get("Authorization"), "Bearer ")]
	s.mu.Unlock()
	repo := strings.Split(strings.TrimPrefix(q.URL.Path, "/v2/"), "/")[0]
	action := "pull"
	if q.Method != http.MethodGet && q.Method != http.MethodHead {
		action = "pull,push"
	}
	need := "repository:" + repo + ":" + action
	if repo == "" {
		need = ""
	}
	if ok && (need == "" || strings.Contains(scopes, strings.TrimSuffix(need, ",push"))) {
		if from := q.URL.Query().Get("from"); action == "pull" || strings.Contains(scopes, need) && strings.Contains(scopes, from+":pull") {
			s.inner.ServeHTTP(w, q)
			return
		}
	}
	scope := ""
	if need != "" {
		scope = fmt.Sprintf(`,scope="%s"`, need)
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="stand in"%s`, s.self, scope))
	w.WriteHeader(http.StatusUnauthorized)
}

func (s *tokenServer) token(w http.ResponseWriter, q *http.Request) {
	q.ParseForm()
	user, pass, _ := q.BasicAuth()
	s.mu.Lock()
	defer s.mu.Unlock()
	known := user == "u" && pass == "p" || q.Form.Get("refresh_token") != "" && q.Form.Get("refresh_token") == s.refresh
	if user != "" && !known || q.Form.Get("service") != "stand in" {
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"details":"incorrect username or password"}`)
		return
	}
	scopes := strings.Join(q.Form["scope"], " ")
	if !known {
		scopes = strings.ReplaceAll(scopes, ",push", "")
		if s.private {
			scopes = ""
		}
	}
	s.next++
	value := fmt.Sprintf("token-%d", s.next)
	s.valid[value] = scopes
	s.issued = append(s.issued, user+" "+scopes)
	offline := ""
	if q.Form.Get("offline_token") == "true" && s.refresh != "" {
		offline = fmt.Sprintf(`,"refresh_token":"%s"`, s.refresh)
	}
	fmt.Fprintf(w, `{"token":"%s","expires_in":300%s}`, value, offline)
}

func newTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{inner: plain(), valid: map[string]string{}}
	s.self = server(t, s)
	return s
}

func TestTokens(t *testing.T) {
	ctx := t.Context()
	s := newTokenServer(t)
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	r := repository(t, c, s.self+"/app")
	desc, data := blob(10, 200<<10)
	if err := r.Push(ctx, desc, onlyReader{bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := fetch(ctx, r, desc); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if diff := cmp.Diff([]string{"u repository:app:pull,push"}, s.issued); diff != "" {
		t.Errorf("tokens: %s", diff)
	}
	// The registry restarts and forgets, or the token runs out.
	s.mu.Lock()
	clear(s.valid)
	s.mu.Unlock()
	if _, err := fetch(ctx, r, desc); err != nil {
		t.Errorf("after the token became invalid: %v", err)
	}
	c.now = func() time.Time { return time.Now().Add(time.Hour) }
	if _, err := fetch(ctx, r, desc); err != nil {
		t.Errorf("after the token expired: %v", err)
	}
	if len(s.issued) != 3 {
		t.Errorf("tokens: %q", s.issued)
	}
	// A second repository needs no challenge any more, only its token.
	r2 := repository(t, c, s.self+"/other")
	if _, err := r2.Exists(ctx, desc); err != nil {
		t.Error(err)
	}
}

// A registry that refuses the token while a layer is being sent gets the layer once more, with another token.
func TestTokenEndsInAnUpload(t *testing.T) {
	desc, data := blob(18, 4<<20)
	for _, whole := range []bool{false, true} {
		s := newTokenServer(t)
		inner, refused := s.inner, false
		s.inner = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			if q.Method != http.MethodPatch || refused {
				inner.ServeHTTP(w, q)
				return
			}
			refused = true
			s.mu.Lock()
			clear(s.valid)
			s.mu.Unlock()
			if whole {
				_, _ = io.Copy(io.Discard, q.Body)
			}
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token",service="stand in",scope="repository:app:pull,push"`, s.self))
			w.WriteHeader(http.StatusUnauthorized)
		})
		c, _ := newTestClient(Options{Keychain: keychain{basic}})
		r := repository(t, c, s.self+"/app")
		r.Source = memory(data)
		if err := r.Push(t.Context(), desc, onlyReader{bytes.NewReader(data)}); err != nil {
			t.Errorf("after the registry read all of it (%v): %v", whole, err)
			continue
		}
		if got, err := fetch(t.Context(), r, desc); err != nil || !bytes.Equal(got, data) {
			t.Errorf("got %d bytes, %v", len(got), err)
		}
	}
}

func TestMount(t *testing.T) {
	ctx := t.Context()
	s := newTokenServer(t)
	inner := s.inner
	s.inner = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Query().Get("from") == "base" {
			w.WriteHeader(http.StatusCreated)
			return
		}
		inner.ServeHTTP(w, q)
	})
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	desc, data := blob(11, 200<<10)
	if err := repository(t, c, s.self+"/base").Push(ctx, desc, onlyReader{bytes.NewReader(data)}); err != nil {
		t.Fatal(err)
	}
	r := repository(t, c, s.self+"/app")
	r.MountFrom = mountFrom("app", "missing", "base")
	if err := r.Push(ctx, desc, failingReader{}); err != nil {
		t.Fatalf("bytes were sent instead of mounted: %v", err)
	}
	if diff := cmp.Diff("u repository:app:pull,push repository:base:pull", s.issued[len(s.issued)-1]); diff != "" {
		t.Error(diff)
	}
	// Nothing to mount: the blob is sent.
	r.MountFrom = mountFrom("missing")
	other, otherData := blob(12, 200<<10)
	if err := r.Push(ctx, other, onlyReader{bytes.NewReader(otherData)}); err != nil {
		t.Error(err)
	}
}

func TestAnonymousDenied(t *testing.T) {
	s := newTokenServer(t)
	s.private = true
	c, _ := newTestClient(Options{})
	_, err := repository(t, c, s.self+"/app").Resolve(t.Context(), "latest")
	if !errdefs.IsUnauthorized(err) {
		t.Errorf("got %v", err)
	}
}

func TestWrongPassword(t *testing.T) {
	s := newTokenServer(t)
	c, _ := newTestClient(Options{Keychain: keychain{authn.AuthConfig{Username: "u", Password: "wrong"}}})
	_, err := repository(t, c, s.self+"/app").Resolve(t.Context(), "latest")
	if !errdefs.IsUnauthorized(err) || !strings.Contains(err.Error(), "incorrect username or password") {
		t.Errorf("got %v", err)
	}
}

func TestIdentityToken(t *testing.T) {
	s := newTokenServer(t)
	s.private, s.refresh = true, "identity"
	c, _ := newTestClient(Options{Keychain: keychain{authn.AuthConfig{Username: "<token>", IdentityToken: "identity"}}})
	desc, data := blob(13, 100)
	if err := repository(t, c, s.self+"/app").Push(t.Context(), desc, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
}

// TestTokenServers: what a token server may answer, and how often it is asked.
func TestTokenServers(t *testing.T) {
	desc, data := blob(15, 100)
	var elsewhere string // another server, which gives a token to anybody but who shows a password
	for name, tt := range map[string]struct {
		answer http.HandlerFunc
		text   string // of the error; "": none
		asked  int
	}{
		"created": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusCreated)
			fmt.Fprint(w, `{"token":"good"}`)
		}, "", 1},
		"redirect here": {func(w http.ResponseWriter, q *http.Request) {
			if _, _, known := q.BasicAuth(); !known {
				w.WriteHeader(http.StatusUnauthorized)
			} else if q.URL.Path == "/token" {
				http.Redirect(w, q, "/token/?"+q.URL.RawQuery, http.StatusMovedPermanently)
			} else {
				fmt.Fprint(w, `{"token":"good"}`)
			}
		}, "", 2},
		"redirect elsewhere": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "http://"+elsewhere+"/token", http.StatusFound)
		}, "", 1},
		"redirect to itself": {func(w http.ResponseWriter, q *http.Request) {
			http.Redirect(w, q, "/token", http.StatusFound)
		}, "302", maxRedirects + 1},
		"fails": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
		}, "500", maxAttempts},
		"no token to send": {func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, `{"token":"good\nX-Evil: 1"}`)
		}, "gave no token", 1},
	} {
		t.Run(name, func(t *testing.T) {
			elsewhere = server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				if q.Header.Get("Authorization") == "" {
					fmt.Fprint(w, `{"token":"good"}`)
				}
			}))
			asked := 0
			host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
				switch {
				case strings.HasPrefix(q.URL.Path, "/token"):
					asked++
					tt.answer(w, q)
				case q.Header.Get("Authorization") == "Bearer good":
					w.Write(data)
				default:
					w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s/token"`, q.Host))
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			c, _ := newTestClient(Options{Keychain: keychain{basic}})
			_, err := fetch(t.Context(), repository(t, c, host+"/app"), desc)
			if tt.text == "" && err != nil || tt.text != "" && (err == nil || !strings.Contains(err.Error(), tt.text)) {
				t.Errorf("got %v, want %q", err, tt.text)
			}
			if asked != tt.asked {
				t.Errorf("asked %d times, want %d", asked, tt.asked)
			}
		})
	}
}

// Some registries say "not found" to strangers instead of asking who they are.
func TestHiddenFromStrangers(t *testing.T) {
	desc, data := blob(14, 100)
	host := server(t, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _, known := q.BasicAuth()
		switch {
		case known:
			w.Write(data)
		case q.URL.Path == "/v2/":
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	if _, err := fetch(t.Context(), repository(t, c, host+"/app"), desc); err != nil {
		t.Error(err)
	}
	stranger, _ := newTestClient(Options{})
	if _, err := fetch(t.Context(), repository(t, stranger, host+"/app"), desc); !errdefs.IsNotFound(err) {
		t.Errorf("stranger: %v", err)
	}
}

// A registry must not make us send the user's password in the clear or to odd places.
func TestRealms(t *testing.T) {
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	for realm, allowed := range map[string]bool{
		"https://auth.example/token": true, "https://10.0.0.6/token": true,
		"http://auth.example/token": false, "https://169.254.169.254/token": false, "/token": false, "ftp://auth.example/": false,
	} {
		h := c.host("registry.example")
		h.auth.challenge = &challenge{scheme: "bearer", params: map[string]string{"realm": realm}}
		if _, err := h.auth.realm(); (err == nil) != allowed {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

func TestParseChallenges(t *testing.T) {
	for _, tt := range []struct {
		header string
		want   []challenge
	}{
		{`Bearer realm="https://a/token",service="s",scope="repository:x:pull,push"`, []challenge{{"bearer", map[string]string{
			"realm": "https://a/token", "service": "s", "scope": "repository:x:pull,push"}}}},
		{`Basic realm="a \"b\"", Bearer realm=x`, []challenge{{"basic", map[string]string{"realm": `a "b"`}}, {"bearer", map[string]string{"realm": "x"}}}},
		{`BASIC`, []challenge{{"basic", map[string]string{}}}},
		{`Bearer realm="unclosed`, []challenge{{"bearer", map[string]string{"realm": "unclosed"}}}},
		{`=,="`, nil},
		{`Bearer realm=https://a/token?x=y , service=s`, []challenge{{"bearer", map[string]string{"realm": "https://a/token?x=y", "service": "s"}}}},
	} {
		got := parseChallenges(http.Header{"Www-Authenticate": {tt.header}})
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(challenge{})); diff != "" {
			t.Errorf("%s: %s", tt.header, diff)
		}
	}
}

func FuzzParseChallenges(f *testing.F) {
	f.Add(`Bearer realm="https://a/token",service="s"`)
	f.Add(`Basic realm="a\"", x = y, Digest`)
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseChallenges(http.Header{"Www-Authenticate": {s}}) {
			if c.scheme == "" || c.params == nil {
				t.Errorf("%q gave %v", s, c)
			}
		}
	})
}

// The header of a basic login goes with the first request after the challenge, and the
// host asks once.
func TestBasicIsRemembered(t *testing.T) {
	var mu sync.Mutex
	var seen []bool
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		_, _, ok := q.BasicAuth()
		mu.Lock()
		seen = append(seen, ok)
		mu.Unlock()
		if !ok {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
		}
	}))
	t.Cleanup(s.Close)
	c, _ := newTestClient(Options{Keychain: keychain{basic}})
	r := repository(t, c, strings.TrimPrefix(s.URL, "http://")+"/app")
	desc, _ := blob(15, 10)
	for range 3 {
		if _, err := r.Exists(t.Context(), desc); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]bool{false, true, true, true}, seen); diff != "" {
		t.Error(diff)
	}
}
