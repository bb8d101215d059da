package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A proxyConfig is what docker's config.json says of the proxies of containers and builds.
type proxyConfig struct {
	HTTPProxy  string `json:"httpProxy"`
	HTTPSProxy string `json:"httpsProxy"`
	NoProxy    string `json:"noProxy"`
	FTPProxy   string `json:"ftpProxy"`
	AllProxy   string `json:"allProxy"`
}

// proxyVariables returns the NAME=VALUE, in capital and small letters, that docker's config.json wants in
// every container and build ("Use a proxy server with the Docker CLI" of its manual), but for the names
// of given, a list of NAME or NAME=VALUE.
func proxyVariables(given []string) []string {
	taken := map[string]bool{}
	for _, kv := range given {
		name, _, _ := strings.Cut(kv, "=")
		taken[name] = true
	}
	c := readProxies()
	var list []string
	for name, value := range map[string]string{
		"HTTP_PROXY": c.HTTPProxy, "HTTPS_PROXY": c.HTTPSProxy, "NO_PROXY": c.NoProxy, "FTP_PROXY": c.FTPProxy, "ALL_PROXY": c.AllProxy,
	} {
		for _, name := range []string{name, strings.ToLower(name)} {
			if value != "" && !taken[name] {
				list = append(list, name+"="+value)
			}
		}
	}
	slices.Sort(list)
	return list
}

// readProxies reads the proxies of the docker that teu stands for, or else those of any. A file that cannot be
// read has none: whoever needs what else it says, the registry client, says what is wrong with it.
func readProxies() proxyConfig {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return proxyConfig{} // not those of whatever directory this one is
		}
		dir = filepath.Join(home, ".docker")
	}
	f, err := os.Open(filepath.Join(dir, "config.json"))
	if err != nil {
		return proxyConfig{}
	}
	defer f.Close()
	const limit = 8 << 20 // as in registry
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return proxyConfig{}
	}
	var config struct {
		Proxies map[string]proxyConfig `json:"proxies"`
	}
	if err := json.Unmarshal(b, &config); err != nil {
		return proxyConfig{}
	}
	if c, ok := config.Proxies[envOr("DOCKER_HOST", "unix:///var/run/docker.sock")]; ok {
		return c
	}
	return config.Proxies["default"]
}
