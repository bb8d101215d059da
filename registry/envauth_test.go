package registry

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
)

// TestAuthVariable: the environment of a CI job has the credentials, with a config.json and without.
func TestAuthVariable(t *testing.T) {
	host := basicServer(t)
	desc, _ := blob(31, 10)
	for name, file := range map[string]string{
		"no config.json":       "",
		"without credentials":  "{}",
		"with another account": `{"auths": {"` + host + `": {"auth": "eDp5"}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			dockerConfig(t, file)
			t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
			t.Setenv("DOCKER_AUTH_CONFIG", `{"auths": {"https://`+host+`/v2/": {"auth": "dTpw"}}, "credHelpers": {}}`)
			c, _ := newTestClient(Options{Keychain: New(Options{}).options.Keychain})
			if _, err := repository(t, c, host+"/app").Exists(t.Context(), desc); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("no JSON", func(t *testing.T) {
		dockerConfig(t, `{"auths": {"`+host+`": {"auth": "dTpw"}}}`)
		t.Setenv("DOCKER_AUTH_CONFIG", "{")
		c, _ := newTestClient(Options{Keychain: New(Options{}).options.Keychain})
		if _, err := repository(t, c, host+"/app").Exists(t.Context(), desc); err != nil {
			t.Error("config.json is not looked at:", err)
		}
		dockerConfig(t, "")
		c, _ = newTestClient(Options{Keychain: New(Options{}).options.Keychain})
		if _, err := repository(t, c, host+"/app").Exists(t.Context(), desc); err == nil || !strings.Contains(err.Error()+hint(err), "DOCKER_AUTH_CONFIG") {
			t.Errorf("it is not told why: %v", err)
		}
	})
}

func hint(err error) string {
	if h, ok := err.(interface{ Hint() string }); ok {
		return h.Hint()
	}
	return ""
}

func TestCredentialIn(t *testing.T) {
	const text = `{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOng="}, "r.example:5000": {"username": "u", "password": "p"}, "https://s.example": {"auth": "czp4"}}}`
	for registry, want := range map[string]string{"index.docker.io": "hub", "r.example:5000": "u", "s.example": "s", "r.example": "", "example": ""} {
		c, err := credentialIn(text, registry)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if c != nil {
			a, err := authn.FromConfig(*c).Authorization()
			if err != nil {
				t.Fatal(err)
			}
			got = a.Username
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", registry, diff)
		}
	}
}
