//go:build !front && !porter

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/docker/go-units"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
)

// options translates the flags.
func (f *buildFlags) options(a *app, dir string) (build.Options, error) {
	o := build.Options{
		Context: dir, Dockerfile: f.file, Target: f.target, Tags: f.tags,
		Load: f.load, NoCache: f.noCache, NoCacheOf: f.noCacheOf, Pull: f.pull, Push: f.push,
		Network: f.network, Ulimits: f.ulimits, CgroupParent: f.cgroupParent}
	var err error
	if o.Entitlements, f.mayDelete, err = allowed(f.allow); err != nil {
		return o, err
	}
	if f.network == "host" {
		o.Entitlements = append(o.Entitlements, "network.host") // asking for it is allowing it
	}
	if f.squash {
		return o, fmt.Errorf("--squash is not supported; FROM scratch and COPY --from=STAGE / / makes one layer of a stage")
	}
	if err := f.attests.set(&o); err != nil {
		return o, err
	}
	if err := f.limits.set(&o); err != nil {
		return o, err
	}
	if err := f.question(&o); err != nil {
		return o, err
	}
	if f.noCache && len(f.noCacheOf) > 0 {
		return o, errors.New("--no-cache and --no-cache-filter cannot be used together")
	}
	if err := refusePolicies(f.policies); err != nil {
		return o, err
	}
	const policy = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"
	if o.Policy, err = sourcePolicy(os.Getenv(policy)); err != nil {
		return o, fmt.Errorf("%s: %w", policy, err)
	}
	if o.Args, err = pairs("--build-arg", f.args, os.LookupEnv); err != nil {
		return o, err
	}
	for _, kv := range proxyVariables(f.args) {
		name, value, _ := strings.Cut(kv, "=")
		o.Args[name] = value
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
	if o.Contexts, err = contextNames(f.contexts); err != nil {
		return o, err
	}
	if err := inlineCache(f, o.Args); err != nil {
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
	if o.Platforms, err = manyPlatforms(f.platforms); err != nil {
		return o, err
	}
	if o.Secrets, err = parseSecrets(f.secrets); err != nil {
		return o, err
	}
	if len(f.ssh) == 0 && build.OverSSH(dir) && os.Getenv("SSH_AUTH_SOCK") != "" {
		f.ssh = []string{"default"} // as buildx does: without it there is no context
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

// allowed splits lists of entitlements. The comma of a device is its own. What is for buildx itself, and
// no step, is buildx.local.delete.
func allowed(list []string) (steps []string, mayDelete bool, err error) {
	for _, text := range list {
		if strings.HasPrefix(text, "device=") {
			steps = append(steps, text)
			continue
		}
		for one := range strings.SplitSeq(text, ",") {
			name, _, valued := strings.Cut(one, "=")
			switch {
			case name != localDelete:
				steps = append(steps, one)
			case valued:
				return nil, false, fmt.Errorf("%s does not accept a value", localDelete)
			default:
				mayDelete = true
			}
		}
	}
	return steps, mayDelete, nil
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

// question sets what to ask the frontend and how to print the answer: METHOD[,format=json][,ignorestatus=true].
func (f *buildFlags) question(o *build.Options) error {
	method, settings := "", []string{}
	for part := range strings.SplitSeq(f.call, ",") {
		switch {
		case strings.Contains(part, "="):
			settings = append(settings, part)
		case method == "":
			method = part
		default:
			return fmt.Errorf("--call %s: %q and %q are two methods", f.call, method, part)
		}
	}
	if len(settings) > 0 {
		v, err := fields("--call", strings.Join(settings, ","), "format", "ignorestatus")
		if err != nil {
			return err
		}
		f.format, f.ignore = v["format"], build.Yes(v["ignorestatus"])
	}
	if f.format != "" && f.format != "json" && f.format != "text" {
		return fmt.Errorf("--call %s: the format is text or json", f.call)
	}
	switch method {
	case "build", "":
	case "check", "lint":
		f.call, o.Question = "check", "frontend.lint"
	case "outline", "targets", "subrequests.describe":
		o.Question = "frontend." + method
	default:
		return fmt.Errorf("--call is build, check, outline or targets, not %q", method)
	}
	return nil
}

// refusePolicies refuses rules of what a build may use: that nobody keeps them must not go unnoticed.
func refusePolicies(flags []string) error {
	for _, s := range flags {
		v, err := fields("--policy", s, "filename", "reset?", "disabled?", "strict?", "log-level")
		if err != nil {
			return err
		}
		if !build.Yes(v["disabled"]) {
			return fmt.Errorf("--policy %s: policies are not enforced; leave the flag away, or say disabled=true", s)
		}
	}
	return nil
}

// sourcePolicy reads the rules about sources in the file that buildx's variable names; nil: there are none.
func sourcePolicy(file string) (build.Policy, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return build.ReadPolicy(f)
}

// contextNames parses --build-context. A name may be that of an image in FROM, and is called as buildx calls it.
func contextNames(list []string) (map[string]string, error) {
	given, err := pairs("--build-context", list, nil)
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for name, value := range given {
		named, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return nil, fmt.Errorf("--build-context %s: invalid context name: %w", name, err)
		}
		m[strings.TrimSuffix(reference.FamiliarString(named), ":latest")] = value
	}
	return m, nil
}

// inlineCache takes the build argument by which older tools ask for --cache-to type=inline.
func inlineCache(f *buildFlags, args map[string]string) error {
	if build.Yes(args["BUILDKIT_INLINE_CACHE"]) {
		f.cacheTo = append(f.cacheTo, "type=inline")
	}
	if syntax, ok := args["BUILDKIT_SYNTAX"]; ok && strings.TrimSpace(syntax) == "" {
		return errors.New("empty BUILDKIT_SYNTAX build-arg is invalid, use --build-arg BUILDKIT_SYNTAX without '=' for optional behavior")
	}
	return nil
}

// defaultPlatform is the platform that docker's environment asks for.
func defaultPlatform() []string {
	if p := os.Getenv("DOCKER_DEFAULT_PLATFORM"); p != "" {
		return []string{p}
	}
	return nil
}

// pairs parses NAME=VALUE. With lookup, a NAME alone takes its value there, or is left out.
func pairs(flag string, list []string, lookup func(string) (string, bool)) (map[string]string, error) {
	m := map[string]string{}
	for _, s := range list {
		name, value, ok := strings.Cut(s, "=")
		switch {
		case name == "":
			return nil, fmt.Errorf("invalid key-value pair %q: empty key", s)
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

// hosts turns docker's HOST:ADDRESS and HOST=ADDRESS, of which there may be several with commas between
// them, into the latter. After a comma an address alone is another one of the same host.
func hosts(list []string) ([]string, error) {
	var out []string
	for _, s := range list {
		last := ""
		for part := range strings.SplitSeq(s, ",") {
			host, address, ok := strings.Cut(part, "=")
			if !ok {
				host, address, ok = strings.Cut(part, ":")
			}
			if net.ParseIP(part) != nil || !ok {
				host, address = last, part
			}
			if inner, ok := strings.CutPrefix(address, "["); ok {
				address = strings.TrimSuffix(inner, "]")
			}
			if host == "" || net.ParseIP(address) == nil && address != build.HostGateway {
				return nil, fmt.Errorf("--add-host %s: invalid host %s, want HOST:ADDRESS", s, part)
			}
			last = host
			out = append(out, host+"="+address)
		}
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
		if kind := v["type"]; kind != "" && kind != "env" && kind != "file" {
			return nil, fmt.Errorf("--secret %s: unsupported secret type %q", s, kind)
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
		if file != "" {
			if _, err := os.Stat(file); err != nil {
				return nil, fmt.Errorf("--secret %s: %w", s, err)
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
