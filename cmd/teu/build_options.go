//go:build !front

package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/docker/go-units"

	"github.com/teu-dev/teu/build"
)

// options translates the flags.
func (f *buildFlags) options(a *app, dir string) (build.Options, error) {
	o := build.Options{
		Context: dir, Dockerfile: f.file, Target: f.target, Tags: f.tags,
		Load: f.load, NoCache: f.noCache, NoCacheOf: f.noCacheOf, Pull: f.pull, Push: f.push,
		Network: f.network, Ulimits: f.ulimits, CgroupParent: f.cgroupParent, Entitlements: f.allow,
	}
	if f.network == "host" {
		o.Entitlements = append(o.Entitlements, "network.host") // asking for it is allowing it
	}
	if f.check {
		f.call = "check"
	}
	var err error
	if o.Question, err = question(f.call); err != nil {
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
	if o.Labels, err = pairs("--label", f.labels, nil); err != nil {
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

func question(call string) (string, error) {
	switch call {
	case "build", "":
		return "", nil
	case "check":
		return "frontend.lint", nil
	case "outline", "targets":
		return "frontend." + call, nil
	}
	return "", fmt.Errorf("--call is build, check, outline or targets, not %q", call)
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

// fields parses NAME=VALUE,NAME=VALUE with the names in known.
func fields(flag, s string, known ...string) (map[string]string, error) {
	m := map[string]string{}
	for part := range strings.SplitSeq(s, ",") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(strings.TrimSpace(name))
		found := false
		for _, k := range known {
			found = found || k == name
		}
		if !ok || !found {
			return nil, fmt.Errorf("%s %s: %q is none of %s", flag, s, part, strings.Join(known, ", "))
		}
		m[name] = value
	}
	return m, nil
}

// parseSecrets parses --secret as buildx does: without src and env, the environment variable
// or else the file that is called as the secret is.
func parseSecrets(list []string) (map[string]build.Secret, error) {
	m := map[string]build.Secret{}
	for _, s := range list {
		v, err := fields("--secret", s, "type", "id", "src", "source", "env")
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

func parseSSH(list []string) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		id, socket, _ := strings.Cut(s, "=")
		if socket == "" {
			socket = os.Getenv("SSH_AUTH_SOCK")
		}
		if id == "" || socket == "" {
			return nil, fmt.Errorf("--ssh %s: want ID=SOCKET, or SSH_AUTH_SOCK in the environment", s)
		}
		m[id] = socket
	}
	return m, nil
}

// parseOutputs parses -o as buildx does.
func (f *buildFlags) parseOutputs(a *app, o *build.Options) error {
	for _, s := range f.outputs {
		switch {
		case s == "-":
			o.Outputs = append(o.Outputs, build.Output{Type: "tar", Writer: a.ui.Out})
			continue
		case !strings.Contains(s, "="):
			o.Outputs = append(o.Outputs, build.Output{Type: "local", Dest: s})
			continue
		}
		v, err := fields("--output", s, "type", "dest", "name", "push", "compression", "rewrite-timestamp", "oci-mediatypes", "compression-level", "tar", "store", "unpack")
		if err != nil {
			return err
		}
		out := build.Output{Type: v["type"], Dest: v["dest"], Writer: a.ui.Out}
		if c := v["compression"]; c != "" {
			if o.Compression != "" && o.Compression != c {
				return fmt.Errorf("--output %s: an image has one compression, not %s and %s", s, o.Compression, c)
			}
			o.Compression = c
		}
		if v["name"] != "" {
			o.Tags = append(o.Tags, v["name"])
		}
		if out.Type == "registry" {
			out.Type, v["push"] = "image", "true"
		}
		if v["push"] == "true" {
			o.Push = true
		}
		if out.Writer == a.ui.Out && out.Dest == "" && a.ui.OutTerminal() && out.Type != "image" {
			return fmt.Errorf("--output %s: an archive on a terminal; give dest=FILE", s)
		}
		o.Outputs = append(o.Outputs, out)
	}
	return nil
}
