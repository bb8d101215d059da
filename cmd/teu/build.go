package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/docker/go-units"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/runner/network"
)

// buildFlags are the flags of `teu build`, as they were given.
type buildFlags struct {
	file, target, network, shmSize, cgroupParent string
	iidFile, metadataFile, progress, call        string
	tags, args, labels, contexts, noCacheOf      []string
	platforms, secrets, ssh, addHosts, ulimits   []string
	outputs, annotations, allow                  []string
	noCache, pull, push, quiet, check            bool
}

func newBuildCommand(a *app) *cobra.Command {
	var f buildFlags
	cmd := &cobra.Command{
		Use:   "build [OPTIONS] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Example: `  teu build -t registry.example/app .
  teu build -t registry.example/app --push --secret id=token,env=TOKEN .
  teu build --target binaries -o out .
  teu build -t tools - < Dockerfile`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runBuild(cmd.Context(), a, f, args[0])
		},
	}
	f.register(cmd)
	return cmd
}

func (f *buildFlags) register(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVarP(&f.file, "file", "f", "", "path of the Dockerfile (default CONTEXT/Dockerfile), - for standard input")
	s.StringArrayVarP(&f.tags, "tag", "t", nil, "name of the image; may be repeated")
	s.StringVar(&f.target, "target", "", "stage to build")
	s.StringArrayVar(&f.args, "build-arg", nil, "NAME=VALUE, or NAME to take it from the environment")
	s.StringArrayVar(&f.contexts, "build-context", nil, "another context, NAME=DIRECTORY or NAME=docker-image://IMAGE")
	s.StringArrayVar(&f.labels, "label", nil, "NAME=VALUE, a label of the image")
	s.StringArrayVar(&f.annotations, "annotation", nil, "NAME=VALUE, an annotation of the manifest")
	s.StringSliceVar(&f.platforms, "platform", nil, "platform to build for, such as linux/arm64 (default the host's)")
	s.BoolVar(&f.noCache, "no-cache", false, "run every step again")
	s.StringSliceVar(&f.noCacheOf, "no-cache-filter", nil, "stages whose steps are run again")
	s.BoolVar(&f.pull, "pull", false, "ask registries for base images even if they are here")
	s.BoolVar(&f.push, "push", false, "push the image under its names")
	s.StringArrayVarP(&f.outputs, "output", "o", nil, "DIRECTORY, - or type=local|tar|oci|docker|image,dest=PATH instead of the local store")
	s.StringArrayVar(&f.secrets, "secret", nil, "id=ID,src=FILE or id=ID,env=NAME")
	s.StringArrayVar(&f.ssh, "ssh", nil, "default or ID=SOCKET of an SSH agent")
	s.StringArrayVar(&f.addHosts, "add-host", nil, "HOST:ADDRESS for /etc/hosts of the steps")
	s.StringVar(&f.network, "network", "default", "network of the steps: default, host or none")
	s.StringSliceVar(&f.allow, "allow", nil, "what steps may ask for: network.host, security.insecure")
	s.StringVar(&f.shmSize, "shm-size", "", "size of /dev/shm of the steps")
	s.StringArrayVar(&f.ulimits, "ulimit", nil, "NAME=SOFT[:HARD], a limit of the steps")
	s.StringVar(&f.cgroupParent, "cgroup-parent", "", "cgroup that the steps' cgroups are made in")
	s.StringVar(&f.iidFile, "iidfile", "", "write the image ID to this file")
	s.StringVar(&f.metadataFile, "metadata-file", "", "write digests and names to this file, as JSON")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print only the image ID")
	s.StringVar(&f.progress, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "auto, tty, plain, json or quiet")
	s.StringVar(&f.call, "call", "build", "build, or answer: check, outline or targets")
	s.BoolVar(&f.check, "check", false, "short for --call check")
	f.registerCompatible(cmd)
}

// registerCompatible takes flags of docker that ask for what is done anyway.
func (f *buildFlags) registerCompatible(cmd *cobra.Command) {
	s := cmd.Flags()
	s.Bool("load", true, "")
	s.Bool("rm", true, "")
	s.Bool("force-rm", false, "")
	for _, name := range []string{"load", "rm", "force-rm"} {
		s.MarkHidden(name)
	}
}

func runBuild(ctx context.Context, a *app, f buildFlags, dir string) (err error) {
	o, err := f.options(a, dir)
	if err != nil {
		return &usageError{command: "teu build", err: err}
	}
	if err := f.stdin(a.ui.In, &o); err != nil {
		return err
	}
	mode := f.progress
	if f.quiet {
		mode = "quiet"
	}
	printer, err := a.ui.BuildPrinter(mode)
	if err != nil {
		return &usageError{command: "teu build", err: err}
	}
	o.Events, o.Warn = printer.Event, printer.Warn
	builder, err := a.builder()
	if err != nil {
		return err
	}
	res, err := builder.Build(ctx, o)
	printer.Close()
	if err != nil {
		var e *build.Error
		if errors.As(err, &e) && !errors.Is(err, context.Canceled) {
			a.ui.BuildError(e)
		}
		return err
	}
	return f.report(a, res)
}

// report writes what the user asked to know of the result.
func (f *buildFlags) report(a *app, res build.Result) error {
	if res.Answer != nil {
		text := res.Answer["result.txt"]
		if f.call == "check" && len(text) == 0 {
			text = []byte("Check complete, no warnings found.\n")
		}
		_, err := a.ui.Out.Write(text)
		return err
	}
	id := res.Config.String()
	if f.iidFile != "" && id != "" {
		if err := os.WriteFile(f.iidFile, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if f.metadataFile != "" {
		if err := writeMetadata(f.metadataFile, res); err != nil {
			return err
		}
	}
	if f.quiet && id != "" {
		a.ui.Println(id)
	}
	return nil
}

// writeMetadata writes what buildx writes to --metadata-file.
func writeMetadata(path string, res build.Result) error {
	m := map[string]any{}
	if res.Target.Digest != "" {
		m["containerimage.digest"] = res.Target.Digest
		m["containerimage.descriptor"] = res.Target
		m["containerimage.config.digest"] = res.Config
	}
	if len(res.Names) > 0 {
		m["image.name"] = strings.Join(res.Names, ",")
	}
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// options translates the flags.
func (f *buildFlags) options(a *app, dir string) (build.Options, error) {
	o := build.Options{
		Context: dir, Dockerfile: f.file, Target: f.target, Tags: f.tags,
		NoCache: f.noCache, NoCacheOf: f.noCacheOf, Pull: f.pull, Push: f.push,
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

func parsePlatform(s string) (ocispec.Platform, error) {
	parts := strings.Split(strings.ToLower(s), "/")
	p := ocispec.Platform{OS: "linux", Architecture: parts[0]}
	switch {
	case len(parts) > 3 || s == "":
		return p, fmt.Errorf("--platform %q: want OS/ARCHITECTURE[/VARIANT]", s)
	case len(parts) > 1:
		p.OS, p.Architecture = parts[0], parts[1]
	}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	switch p.Architecture {
	case "x86_64", "x86-64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	}
	return p, nil
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
		v, err := fields("--output", s, "type", "dest", "name", "push")
		if err != nil {
			return err
		}
		out := build.Output{Type: v["type"], Dest: v["dest"], Writer: a.ui.Out}
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

// stdin reads what the user said is on standard input: the Dockerfile, or the context as a tar.
func (f *buildFlags) stdin(in io.Reader, o *build.Options) error {
	switch {
	case f.file == "-" && o.Context == "-":
		return &usageError{command: "teu build", err: errors.New("standard input cannot be both Dockerfile and context")}
	case f.file == "-":
		text, err := readDockerfile(in)
		o.Dockerfile, o.DockerfileText = "", text
		return err
	case o.Context == "-":
		r := bufio.NewReaderSize(in, 512)
		head, err := r.Peek(512)
		if err != nil && err != io.EOF {
			return fmt.Errorf("reading standard input: %w", err)
		}
		if isArchive(head) {
			o.Context, o.ContextTar = "", r
			return nil
		}
		text, err := readDockerfile(r)
		o.Context, o.DockerfileText = "", text
		return err
	}
	if o.Dockerfile != "" && !strings.Contains(o.Context, "://") && !filepath.IsAbs(o.Dockerfile) {
		abs, err := filepath.Abs(o.Dockerfile)
		o.Dockerfile = abs
		return err
	}
	return nil
}

func readDockerfile(r io.Reader) ([]byte, error) {
	const limit = 16 << 20
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading the Dockerfile: %w", err)
	}
	if len(text) > limit {
		return nil, fmt.Errorf("the Dockerfile is larger than %d bytes", limit)
	}
	return text, nil
}

// isArchive knows a tar, plain or compressed, by its first bytes.
func isArchive(head []byte) bool {
	for _, magic := range []string{"\x1f\x8b", "BZh", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= 262 && bytes.HasPrefix(head[257:], []byte("ustar"))
}

// builder returns the builder on the store.
func (a *app) builder() (*build.Builder, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	return &build.Builder{
		Store: store, Registry: a.registry(),
		Executor: &op.Containers{Keeper: a.keeper, Network: network.New(a.runRoot)},
	}, nil
}
