//go:build !front

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/docker/go-units"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
)

// options translates the flags.
func (f *buildFlags) options(a *app, dir string) (build.Options, error) {
	o := build.Options{
		Context: dir, Dockerfile: f.file, Target: f.target, Tags: f.tags,
		Load: f.load, NoCache: f.noCache, NoCacheOf: f.noCacheOf, Pull: f.pull, Push: f.push,
		Network: f.network, Ulimits: f.ulimits, CgroupParent: f.cgroupParent, Entitlements: allowed(f.allow),
	}
	if f.network == "host" {
		o.Entitlements = append(o.Entitlements, "network.host") // asking for it is allowing it
	}
	if f.check {
		f.call = "check"
	}
	if f.squash {
		return o, fmt.Errorf("--squash is not supported; FROM scratch and COPY --from=STAGE / / makes one layer of a stage")
	}
	if err := f.attests.check(); err != nil {
		return o, err
	}
	if err := f.limits.set(&o); err != nil {
		return o, err
	}
	var err error
	if o.Question, f.format, err = question(f.call); err != nil {
		return o, err
	}
	if o.Args, err = pairs("--build-arg", f.args, os.LookupEnv); err != nil {
		return o, err
	}
	if epoch, ok := os.LookupEnv("SOURCE_DATE_EPOCH"); ok && epoch != "" {
		if _, given := o.Args["SOURCE_DATE_EPOCH"]; !given {
			o.Args["SOURCE_DATE_EPOCH"] = epoch
		}
	}
	if _, given := o.Args["SOURCE_DATE_EPOCH"]; f.reproducible && !given {
		o.Args["SOURCE_DATE_EPOCH"] = "0"
	}
	if o.LogSize, err = logSize(os.Getenv("BUILDKIT_STEP_LOG_MAX_SIZE")); err != nil {
		return o, err
	}
	if o.Labels, err = pairs("--label", f.labels, func(string) (string, bool) { return "", true }); err != nil {
		return o, err
	}
	if o.Annotations, err = pairs("--annotation", f.annotations, nil); err != nil {
		return o, err
	}
	if o.Contexts, err = pairs("--build-context", f.contexts, nil); err != nil {
		return o, err
	}
	if o.AddHosts, err = hosts(f.addHosts); err != nil {
		return o, err
	}
	if f.shmSize != "" {
		if o.ShmSize, err = units.RAMInBytes(f.shmSize); err != nil {
			return o, fmt.Errorf("--shm-size %s: %w", f.shmSize, err)
		}
	}
	for _, p := range f.platforms {
		platform, err := parsePlatform(p)
		if err != nil {
			return o, err
		}
		o.Platforms = append(o.Platforms, platform)
	}
	if o.Secrets, err = parseSecrets(f.secrets); err != nil {
		return o, err
	}
	if o.SSH, err = parseSSH(f.ssh); err != nil {
		return o, err
	}
	if o.CacheFrom, err = parseCache("--cache-from", f.cacheFrom); err != nil {
		return o, err
	}
	if o.CacheTo, err = parseCache("--cache-to", f.cacheTo); err != nil {
		return o, err
	}
	return o, f.parseOutputs(a, &o)
}

// allowed splits lists of entitlements. The comma of a device is its own.
func allowed(list []string) (all []string) {
	for _, text := range list {
		if strings.HasPrefix(text, "device=") {
			all = append(all, text)
			continue
		}
		all = append(all, strings.Split(text, ",")...)
	}
	return all
}

// logSize parses what BuildKit's daemon takes of its environment: bytes, or -1 for no limit.
func logSize(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("BUILDKIT_STEP_LOG_MAX_SIZE=%s is no number of bytes", text)
	}
	return n, nil
}

// question returns what to ask the frontend, and the format of the answer: METHOD[,format=json].
func question(call string) (request, format string, err error) {
	method, rest, _ := strings.Cut(call, ",")
	if rest != "" {
		v, err := fields("--call", rest, "format", "ignorestatus?")
		if err != nil {
			return "", "", err
		}
		format = v["format"]
	}
	if format != "" && format != "json" && format != "text" {
		return "", "", fmt.Errorf("--call %s: the format is text or json", call)
	}
	switch method {
	case "build", "":
		return "", format, nil
	case "check", "lint":
		return "frontend.lint", format, nil
	case "outline", "targets":
		return "frontend." + method, format, nil
	case "subrequests.describe":
		return "frontend.subrequests.describe", format, nil
	}
	return "", "", fmt.Errorf("--call is build, check, outline or targets, not %q", method)
}

// pairs parses NAME=VALUE. With lookup, a NAME alone takes its value there, or is left out.
func pairs(flag string, list []string, lookup func(string) (string, bool)) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("%s %s: no name", flag, s)
		case ok:
			m[name] = value
		case lookup == nil:
			return nil, fmt.Errorf("%s %s: want NAME=VALUE", flag, s)
		default:
			if value, ok := lookup(name); ok {
				m[name] = value
			}
		}
	}
	return m, nil
}

// hosts turns docker's HOST:ADDRESS and HOST=ADDRESS into the latter.
func hosts(list []string) ([]string, error) {
	var out []string
	for _, s := range list {
		i := strings.IndexAny(s, ":=")
		if i < 1 || i == len(s)-1 {
			return nil, fmt.Errorf("--add-host %s: want HOST:ADDRESS", s)
		}
		address := strings.TrimSuffix(strings.TrimPrefix(s[i+1:], "["), "]")
		out = append(out, s[:i]+"="+address)
	}
	return out, nil
}

// parseSecrets parses --secret as buildx does: without src and env, the environment variable
// or else the file that is called as the secret is.
func parseSecrets(list []string) (map[string]build.Secret, error) {
	m := map[string]build.Secret{}
	for _, s := range list {
		v, err := fields("--secret", s, "type", "id", "src", "source", "env", "required?")
		if err != nil {
			return nil, err
		}
		id, env, file := v["id"], v["env"], v["src"]+v["source"]
		if id == "" {
			return nil, fmt.Errorf("--secret %s: no id", s)
		}
		if v["type"] == "env" && env == "" {
			env, file = file, ""
		}
		if env == "" && file == "" {
			if _, ok := os.LookupEnv(id); ok && v["type"] != "file" {
				env = id
			} else {
				file = id
			}
		}
		m[id] = build.Secret{Env: env, File: file}
	}
	return m, nil
}

func parseSSH(list []string) (map[string]op.SSHAgent, error) {
	m := map[string]op.SSHAgent{}
	for _, s := range list {
		id, rest, _ := strings.Cut(s, "=")
		var paths []string
		raw := false
		for path := range strings.SplitSeq(rest, ",") {
			switch {
			case path == "raw=true" || path == "raw=false":
				raw = path == "raw=true"
			case path != "":
				paths = append(paths, path)
			}
		}
		if socket := os.Getenv("SSH_AUTH_SOCK"); paths == nil && socket != "" {
			paths = []string{socket}
		}
		if id == "" || paths == nil {
			return nil, fmt.Errorf("--ssh %s: want ID=SOCKET or ID=KEY, or SSH_AUTH_SOCK in the environment", s)
		}
		if _, taken := m[id]; taken {
			return nil, fmt.Errorf("--ssh %s: %s is given twice", s, id)
		}
		a, err := op.OpenSSHAgent(paths, raw)
		if err != nil {
			return nil, fmt.Errorf("--ssh %s: %w", s, err)
		}
		m[id] = a
	}
	return m, nil
}
