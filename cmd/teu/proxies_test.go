package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestProxyVariables(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("DOCKER_HOST", "")
	cases := map[string]struct {
		config string
		given  []string
		want   []string
	}{
		"no file":  {},
		"not JSON": {config: "{"},
		"others":   {config: `{"auths": {}, "proxies": {"tcp://elsewhere:1": {"httpProxy": "http://p"}}}`},
		"all": {
			config: `{"proxies": {"default": {"httpProxy": "http://p:1", "httpsProxy": "http://s", "noProxy": "a,b", "ftpProxy": "f", "allProxy": "all"}}}`,
			want: []string{
				"ALL_PROXY=all", "FTP_PROXY=f", "HTTPS_PROXY=http://s", "HTTP_PROXY=http://p:1", "NO_PROXY=a,b",
				"all_proxy=all", "ftp_proxy=f", "http_proxy=http://p:1", "https_proxy=http://s", "no_proxy=a,b",
			},
		},
		"what is given stays": {
			config: `{"proxies": {"default": {"httpProxy": "p", "noProxy": "n"}}}`, given: []string{"HTTP_PROXY=mine", "no_proxy"},
			want: []string{"NO_PROXY=n", "http_proxy=p"},
		},
		"of this docker": {
			config: `{"proxies": {"default": {"httpProxy": "p"}, "unix:///var/run/docker.sock": {"ftpProxy": "f"}}}`,
			want:   []string{"FTP_PROXY=f", "ftp_proxy=f"},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, "config.json")
			if err := os.RemoveAll(path); err != nil {
				t.Fatal(err)
			}
			if c.config != "" {
				if err := os.WriteFile(path, []byte(c.config), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if diff := cmp.Diff(c.want, proxyVariables(c.given)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestProxiesWithoutHome: without HOME, a .docker in the current directory is nobody's configuration.
func TestProxiesWithoutHome(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("DOCKER_CONFIG", "")
	t.Setenv("HOME", "")
	if err := os.Mkdir(".docker", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(".docker/config.json", []byte(`{"proxies": {"default": {"httpProxy": "http://p"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := proxyVariables(nil); len(got) > 0 {
		t.Errorf("got %v", got)
	}
}
