package main

import (
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/runner"
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
	c := readDockerConfig().proxies()
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

// A dockerConfig is what teu takes from docker's config.json, beside what the registry client does.
type dockerConfig struct {
	Proxies    map[string]proxyConfig `json:"proxies"`
	DetachKeys string                 `json:"detachKeys"`

	PruneFilters []string `json:"pruneFilters"` // NAME=VALUE, for every prune

	// Of listings, where --format is not given.
	PsFormat       string `json:"psFormat"`
	ImagesFormat   string `json:"imagesFormat"`
	NetworksFormat string `json:"networksFormat"`
	VolumesFormat  string `json:"volumesFormat"`
	StatsFormat    string `json:"statsFormat"`
}

// listFormat returns the flag --format of a listing, or what docker's config.json has for it.
func listFormat(flag string, quiet bool, usual func(c dockerConfig) string) string {
	if flag != "" || quiet {
		return flag
	}
	return usual(readDockerConfig())
}

// pruneFilters returns the flags --filter of a prune with those that docker's config.json has for every prune. What is to
// stay by one and to go by the other is as the flag says (docker/cli cli/command, PruneFilters).
func pruneFilters(given []string) []string {
	all := slices.Clip(given)
	for _, usual := range readDockerConfig().PruneFilters {
		name, value, ok := strings.Cut(usual, "=")
		opposite := name + "!"
		if wanted, negated := strings.CutSuffix(name, "!"); negated {
			opposite = wanted
		}
		if ok && !slices.Contains(given, opposite+"="+value) && !slices.Contains(given, usual) {
			all = append(all, usual)
		}
	}
	return all
}

// proxies are those of the docker that teu stands for, or else those of any.
func (c dockerConfig) proxies() proxyConfig {
	if p, ok := c.Proxies[envOr("DOCKER_HOST", "unix:///var/run/docker.sock")]; ok {
		return p
	}
	return c.Proxies["default"]
}

// readDockerConfig reads it.
func readDockerConfig() (c dockerConfig) {
	if b := readDockerFile("config.json"); b == nil || coldjson.Unmarshal(b, &c) != nil {
		return dockerConfig{}
	}
	return c
}

// readDockerFile reads a file of docker's directory. One that cannot be read says nothing: whoever needs what
// else config.json says, the registry client, says what is wrong with it.
func readDockerFile(name string) []byte {
	dir := dockerDir()
	if dir == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return nil
	}
	defer f.Close()
	const limit = 8 << 20 // as in registry
	b, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil
	}
	return b
}

// detachKeys parses the flag --detach-keys. Without it docker's config.json says which they are, for a terminal.
func detachKeys(flag string, tty bool) ([]byte, error) {
	if flag == "" && tty {
		flag = readDockerConfig().DetachKeys
	}
	return runner.ParseDetachKeys(flag)
}
