//go:build !front && !porter

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner/network"
)

// buildFlags are the flags of `teu build`, as they were given.
type buildFlags struct {
	file, target, network, shmSize, cgroupParent string
	iidFile, metadataFile, progress, call        string
	tags, args, labels, contexts, noCacheOf      []string
	platforms, secrets, ssh, addHosts, ulimits   []string
	outputs, annotations, allow                  []string
	cacheFrom, cacheTo                           []string
	noCache, pull, push, load, quiet, why        bool
	reproducible                                 bool
	policies                                     []string

	mayDelete bool // of --allow

	squash  bool
	limits  limits
	attests attests
	format  string // of the answer to --call
	ignore  bool   // the status of the answer
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
	s.StringArrayVar(&f.labels, "label", nil, "NAME=VALUE or NAME, a label of the image")
	s.StringArrayVar(&f.annotations, "annotation", nil, "[LEVEL:]NAME=VALUE, an annotation of the manifest, or of LEVEL: index, manifest-descriptor or index-descriptor")
	s.StringSliceVar(&f.platforms, "platform", defaultPlatform(), "platform to build for, such as linux/arm64 (default the host's)")
	s.BoolVar(&f.noCache, "no-cache", false, "run every step again")
	s.StringSliceVar(&f.noCacheOf, "no-cache-filter", nil, "stages whose steps are run again")
	s.BoolVar(&f.pull, "pull", false, "ask registries for base images even if they are here")
	s.BoolVar(&f.push, "push", false, "push the image under its names")
	s.StringArrayVarP(&f.outputs, "output", "o", nil, "DIRECTORY, - or type=local|tar|oci|docker|image,dest=PATH instead of the local store")
	s.StringArrayVar(&f.secrets, "secret", nil, "id=ID,src=FILE or id=ID,env=NAME")
	s.StringArrayVar(&f.ssh, "ssh", nil, "default, ID=SOCKET of an SSH agent, or ID=KEY[,KEY] (files)")
	s.StringArrayVar(&f.addHosts, "add-host", nil, "HOST:ADDRESS for /etc/hosts of the steps, or HOST:host-gateway")
	s.StringVar(&f.network, "network", "default", "network of the steps: default, host or none")
	s.StringArrayVar(&f.allow, "allow", nil, "what steps may ask for: network.host, security.insecure, device or device=NAME; or buildx.local.delete, for -o with mode=delete")
	s.StringVar(&f.shmSize, "shm-size", "", "size of /dev/shm of the steps")
	s.StringArrayVar(&f.ulimits, "ulimit", nil, "NAME=SOFT[:HARD], a limit of the steps")
	check(s, "shm-size", checkSize)
	check(s, "ulimit", checkUlimit)
	s.StringVar(&f.cgroupParent, "cgroup-parent", "", "cgroup that the steps' cgroups are made in")
	s.StringVar(&f.iidFile, "iidfile", "", "write the image ID to this file")
	s.StringVar(&f.metadataFile, "metadata-file", "", "write digests and names to this file, as JSON")
	s.BoolVarP(&f.quiet, "quiet", "q", false, "print only the image ID")
	s.StringVar(&f.progress, "progress", envOr("BUILDKIT_PROGRESS", "auto"), "auto, tty, plain, json, rawjson (as docker buildx) or quiet")
	s.StringVar(&f.call, "call", "build", "build, or answer: check, outline or targets, with ,format=json behind")
	s.BoolFunc("check", "short for --call check", func(text string) error { // the later of the two counts, as in buildx
		yes, err := strconv.ParseBool(text)
		if yes {
			f.call = "check"
		}
		return err
	})
	s.StringArrayVar(&f.cacheFrom, "cache-from", nil, "IMAGE or type=registry,ref=REF or type=local,src=DIR: use what others built")
	s.StringArrayVar(&f.cacheTo, "cache-to", nil, "type=registry,ref=REF, type=local,dest=DIR or type=inline: keep for others what is built")
	s.BoolVar(&f.load, "load", false, "keep the image here even if it is pushed and parts of it had to be fetched")
	s.BoolVar(&f.why, "why", false, "say for each step that ran what changed since the last build")
	s.BoolVar(&f.reproducible, "reproducible", false, "make the same image wherever and whenever it is built: no time in it is later than SOURCE_DATE_EPOCH, or 1970")
	f.registerCompatible(cmd)
}

func runBuild(ctx context.Context, a *app, f buildFlags, dir string) (err error) {
	o, err := f.options(a, dir)
	if err != nil {
		return &usageError{command: "teu build", err: err}
	}
	if err := f.inputs(ctx, a.ui.In, &o); err != nil {
		return err
	}
	// What an earlier build wrote is not to be taken for ours, should it fail. A device such as /dev/null has written nothing.
	if fi, err := os.Lstat(f.iidFile); err == nil && fi.Mode().IsRegular() {
		if err := os.Remove(f.iidFile); err != nil {
			return err
		}
	}
	mode := f.progress
	if f.quiet {
		mode = "quiet"
	}
	printer, err := a.ui.BuildPrinter(mode)
	if err != nil {
		return &usageError{command: "teu build", err: err}
	}
	var remarks []dockerfile.Warning
	o.Events, o.Warn = printer.Event, func(w dockerfile.Warning) {
		remarks = append(remarks, w)
		printer.Warn(w)
	}
	builder, err := a.builder()
	if err != nil {
		return err
	}
	if err := addRepository(ctx, &o); err != nil {
		return err
	}
	warnOfRego(a.ui, o)
	res, err := builder.Build(ctx, o)
	printer.Close()
	if f.why {
		a.ui.Why(res.Why)
	}
	if err != nil {
		var e *build.Error
		if errors.As(err, &e) && !errors.Is(err, context.Canceled) {
			a.ui.BuildError(e)
		}
		return err
	}
	a.holdBudget(ctx)
	return f.report(a, res, remarks)
}

// warnOfRego says that rules for the sources of a build are not kept: buildx reads them from beside the Dockerfile.
func warnOfRego(u *ui.UI, o build.Options) {
	if o.ContextTar != nil || o.DockerfileText != nil || o.Context == "" {
		return
	}
	file := o.DockerfilePath() + ".rego"
	if _, err := os.Stat(file); err == nil {
		u.Warnf("%s is not looked at, whatever it forbids: buildx evaluates such rules, and can build with `teu serve engine`", file)
	}
}

// report writes what the user asked to know of the result.
func (f *buildFlags) report(a *app, res build.Result, remarks []dockerfile.Warning) error {
	if res.Answer != nil {
		if f.metadataFile != "" {
			if err := writeAnswer(f.metadataFile, res.Answer); err != nil {
				return err
			}
		}
		return f.answer(a, res)
	}
	id := res.Config.String()
	if res.Index {
		id = res.Target.Digest.String()
	}
	if f.iidFile != "" && id != "" {
		if err := os.WriteFile(f.iidFile, []byte(id), 0o644); err != nil {
			return err
		}
	}
	if f.metadataFile != "" {
		if err := writeMetadata(f.metadataFile, res, remarks); err != nil {
			return err
		}
	}
	if f.quiet && id != "" {
		a.ui.Println(id)
	}
	return nil
}

// answer prints the answer to --call. A check that finds something fails, as docker's does.
func (f *buildFlags) answer(a *app, res build.Result) error {
	var lint struct {
		Warnings []json.RawMessage `json:"warnings"`
	}
	answer := res.Answer
	text := answer["result.txt"]
	if f.format == "json" {
		text = append(bytes.TrimRight(answer["result.json"], "\n"), '\n')
	}
	isCheck := strings.HasPrefix(f.call, "check") || strings.HasPrefix(f.call, "lint")
	if isCheck {
		if err := json.Unmarshal(answer["result.json"], &lint); err != nil {
			return fmt.Errorf("the answer of the check: %w", err)
		}
		if f.format != "json" && (res.Wrong == nil || len(lint.Warnings) > 0) {
			text = append([]byte(found(len(lint.Warnings))), text...)
			if res.Wrong != nil {
				text = append(text, '\n') // as buildx, before the error
			}
		}
	}
	if _, err := a.ui.Out.Write(text); err != nil {
		return err
	}
	if res.Wrong != nil {
		var e *build.Error
		if errors.As(res.Wrong, &e) {
			a.ui.BuildError(e)
		}
		return res.Wrong
	}
	if n, err := strconv.Atoi(string(answer["result.statuscode"])); err == nil && n != 0 && !f.ignore {
		return &exitError{code: n}
	}
	return nil
}

// found is what buildx says above the warnings of a check.
func found(n int) string {
	switch n {
	case 0:
		return "Check complete, no warnings found.\n"
	case 1:
		return "Check complete, 1 warning has been found!\n"
	}
	return fmt.Sprintf("Check complete, %d warnings have been found!\n", n)
}

// writeMetadata writes what buildx writes to --metadata-file.
func writeMetadata(path string, res build.Result, remarks []dockerfile.Warning) error {
	m := map[string]any{}
	if res.Target.Digest != "" {
		m["containerimage.digest"] = res.Target.Digest
		m["containerimage.descriptor"] = res.Target
		if !res.Index {
			m["containerimage.config.digest"] = res.Config
		}
	}
	if len(res.Names) > 0 {
		m["image.name"] = strings.Join(res.Names, ",")
	}
	if build.Yes(os.Getenv("BUILDX_METADATA_WARNINGS")) && len(remarks) > 0 {
		m["buildx.build.warnings"] = ui.RawWarnings(remarks)
	}
	return writeJSON(path, m)
}

// writeAnswer writes what buildx writes to --metadata-file with --call.
func writeAnswer(path string, answer map[string][]byte) error {
	m := map[string]any{}
	for name, b := range answer {
		m[name] = string(b)
		if name == "result.json" && json.Valid(b) {
			m[name] = json.RawMessage(b)
		}
	}
	return writeJSON(path, m)
}

func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// stepNetwork is the network of the commands of builds.
func (a *app) stepNetwork() *network.Manager {
	m := network.New(a.runRoot)
	m.Self = []string{a.self.path, "--root", a.root, "--run-root", a.runRoot}
	return m
}

// builder returns the builder on the store.
func (a *app) builder() (*build.Builder, error) { return a.builderWith(a.registry()) }

// builderWith returns a builder that reaches registries by client.
func (a *app) builderWith(client *registry.Client) (*build.Builder, error) {
	store, err := a.store()
	if err != nil {
		return nil, err
	}
	size, err := a.config.cacheSize()
	if err != nil {
		return nil, err
	}
	return &build.Builder{
		Store: store, Registry: client, CacheSize: size, Tell: a.tellImage,
		Executor: &op.Containers{Keeper: a.keeper, Network: a.stepNetwork(), AppArmor: a.engine().AppArmor},
		CDIDirs:  a.cdiDirs(),
	}, nil
}
