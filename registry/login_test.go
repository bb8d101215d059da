package registry

import (
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// basicServer demands the credential u:p and otherwise is a registry.
func basicServer(t *testing.T) string { return server(t, basicHandler()) }

func basicHandler() http.Handler {
	inner := plain()
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if user, pass, _ := q.BasicAuth(); user != "u" || pass != "p" {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inner.ServeHTTP(w, q)
	})
}

// dockerConfig makes text docker's config.json for the test.
func dockerConfig(t *testing.T, text string) (path string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("HOME", dir)
	path = filepath.Join(dir, "config.json")
	if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

func readJSON(t *testing.T, path string) map[string]any {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLoginAndLogout(t *testing.T) {
	ctx := t.Context()
	host := basicServer(t)
	path := dockerConfig(t, `{"auths":{"other":{"auth":"eDp5"}},"HttpHeaders":{"A":"b"},"future":{"x":[1,2]}}`)
	c, _ := newTestClient(Options{Keychain: authn.DefaultKeychain})
	desc, _ := blob(30, 10)

	if _, err := c.Login(ctx, host, Credential{Username: "u", Secret: "wrong"}); !errdefs.IsUnauthorized(err) {
		t.Fatalf("wrong password: %v", err)
	} else if hint := err.(interface{ Hint() string }).Hint(); hint != "" {
		t.Errorf("whoever logs in is told to %s", hint)
	}
	if len(readJSON(t, path)["auths"].(map[string]any)) != 1 {
		t.Error("a refused login was stored")
	}
	got, err := c.Login(ctx, "http://"+host+"/v2/", Credential{Username: "u", Secret: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(LoginResult{Path: path}, got); diff != "" {
		t.Error(diff)
	}
	want := map[string]any{
		"auths":       map[string]any{"other": map[string]any{"auth": "eDp5"}, host: map[string]any{"auth": "dTpw"}},
		"HttpHeaders": map[string]any{"A": "b"},
		"future":      map[string]any{"x": []any{1., 2.}},
	}
	if diff := cmp.Diff(want, readJSON(t, path)); diff != "" {
		t.Error(diff)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	fresh, _ := newTestClient(Options{Keychain: authn.DefaultKeychain})
	if user, err := fresh.LoginStored(ctx, host); user != "u" || err != nil {
		t.Errorf("with what is stored: %q, %v", user, err)
	}
	if user, err := fresh.LoginStored(ctx, "other"); err == nil {
		t.Errorf("at a registry that is not there: %q", user)
	}
	if _, err := fresh.LoginStored(ctx, "third.example"); !errdefs.IsNotFound(err) {
		t.Errorf("with nothing stored: %v", err)
	}
	if _, err := repository(t, fresh, host+"/app").Exists(ctx, desc); err != nil {
		t.Errorf("after the login: %v", err)
	}

	if err := c.Logout(ctx, host); err != nil {
		t.Fatal(err)
	}
	delete(want["auths"].(map[string]any), host)
	if diff := cmp.Diff(want, readJSON(t, path)); diff != "" {
		t.Error(diff)
	}
	if err := c.Logout(ctx, host); !errdefs.IsNotFound(err) {
		t.Errorf("second logout: %v", err)
	}
}

// The directory of a registry says whom to trust with the password, too.
func TestLoginWithCertificates(t *testing.T) {
	s := httptest.NewTLSServer(basicHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	own, _ := pemOf(t, s)
	other, err := os.ReadFile("testdata/other-ca.pem")
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimPrefix(s.URL, "https://")
	for ca, trusted := range map[string]bool{own: true, string(other): false} {
		path := dockerConfig(t, "")
		c, _ := newTestClient(Options{HostDirs: hostDir(t, map[string]string{host + "/ca.crt": ca})})
		_, err := c.Login(t.Context(), host, Credential{Username: "u", Secret: "p"})
		if _, stat := os.Stat(path); (err == nil) != trusted || (stat == nil) != trusted {
			t.Errorf("logged in: %v, stored: %v, want %v", err, stat, trusted)
		}
	}
}

func TestLoginKeepsSymlink(t *testing.T) {
	path := dockerConfig(t, "")
	real := filepath.Join(t.TempDir(), "real.json")
	if err := os.WriteFile(real, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(real, path); err != nil {
		t.Fatal(err)
	}
	c, _ := newTestClient(Options{})
	if _, err := c.Login(t.Context(), basicServer(t), Credential{Username: "u", Secret: "p"}); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(path); err != nil || target != real {
		t.Errorf("the link is gone: %v", err)
	}
	if len(readJSON(t, real)["auths"].(map[string]any)) != 1 {
		t.Error("not stored")
	}
}

func TestLoginStoresIdentityToken(t *testing.T) {
	ctx := t.Context()
	path := dockerConfig(t, "")
	s := newTokenServer(t)
	s.private, s.refresh = true, "identity"
	c, _ := newTestClient(Options{})
	if _, err := c.Login(ctx, s.self, Credential{Username: "u", Secret: "p"}); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"auths": map[string]any{s.self: map[string]any{"auth": "dTo=", "identitytoken": "identity"}}}
	if diff := cmp.Diff(want, readJSON(t, path)); diff != "" {
		t.Error(diff)
	}
	fresh, _ := newTestClient(Options{Keychain: authn.DefaultKeychain})
	desc, data := blob(31, 10)
	if err := repository(t, fresh, s.self+"/app").Push(ctx, desc, strings.NewReader(string(data))); err != nil {
		t.Errorf("with the identity token: %v", err)
	}
}

// helperScript is a credential helper that keeps one secret in a file.
const helperScript = `#!/bin/sh
case $1 in
store) cat >"$SECRET" ;;
get) if [ -e "$SECRET" ]; then cat "$SECRET"; else echo credentials not found in native keychain; exit 1; fi ;;
erase) cat >/dev/null; rm "$SECRET" ;;
esac
`

func TestLoginWithHelper(t *testing.T) {
	ctx := t.Context()
	host := basicServer(t)
	path := dockerConfig(t, `{"credsStore":"nosuch","credHelpers":{"`+host+`":"teutest"}}`)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-teutest"), []byte(helperScript), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	secret := filepath.Join(dir, "secret")
	t.Setenv("SECRET", secret)
	c, _ := newTestClient(Options{})
	got, err := c.Login(ctx, host, Credential{Username: "u", Secret: "p"})
	if err != nil || got.Helper != "teutest" {
		t.Fatal(got, err)
	}
	if diff := cmp.Diff(map[string]any{"ServerURL": host, "Username": "u", "Secret": "p"}, readJSON(t, secret)); diff != "" {
		t.Error(diff)
	}
	if b, _ := os.ReadFile(path); strings.Contains(string(b), "dTpw") {
		t.Error("the secret is in the file too")
	}
	fresh, _ := newTestClient(Options{Keychain: authn.DefaultKeychain})
	desc, _ := blob(32, 10)
	if _, err := repository(t, fresh, host+"/app").Exists(ctx, desc); err != nil {
		t.Errorf("with the helper: %v", err)
	}
	if err := c.Logout(ctx, host); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(secret); err == nil {
		t.Error("the helper still has it")
	}
	// A helper that is not installed is said, and keeps nobody from public images.
	if _, err := c.Login(ctx, basicServer(t), Credential{Username: "u", Secret: "p"}); err == nil || !strings.Contains(err.Error(), "docker-credential-nosuch") {
		t.Errorf("missing helper: %v", err)
	}
	public := newTokenServer(t)
	fresh, _ = newTestClient(Options{Keychain: authn.DefaultKeychain})
	if _, err := repository(t, fresh, public.self+"/app").Exists(ctx, desc); err != nil {
		t.Errorf("public image with a missing helper: %v", err)
	}
}

func TestDomain(t *testing.T) {
	for s, want := range map[string]string{
		"": "docker.io", "docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "registry-1.docker.io": "docker.io",
		"https://ghcr.io/": "ghcr.io", "localhost:5000": "localhost:5000",
	} {
		if got := Domain(s); got != want {
			t.Errorf("Domain(%q) = %q", s, got)
		}
	}
	if got := credentialKey("docker.io"); got != "https://index.docker.io/v1/" {
		t.Errorf("key of Docker Hub: %q", got)
	}
}
