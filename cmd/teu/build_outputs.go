//go:build !front && !porter

package main

import (
	"encoding/csv"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/teu-dev/teu/build"
)

// fields parses NAME=VALUE,NAME=VALUE, a line of CSV, with the names in known. A known name that
// ends in "*" stands for all that begin so; one that ends in "?" may be without a value, which is "true".
func fields(flag, s string, known ...string) (map[string]string, error) {
	parts, err := csv.NewReader(strings.NewReader(s)).Read()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", flag, s, err)
	}
	m := map[string]string{}
	for _, part := range parts {
		name, value, ok := strings.Cut(part, "=")
		lower := strings.ToLower(strings.TrimSpace(name))
		switch {
		case slices.Contains(known, lower) && ok:
		case slices.Contains(known, lower+"?"):
			if !ok {
				value = "true"
			}
		case ok && slices.ContainsFunc(known, func(k string) bool {
			prefix, star := strings.CutSuffix(k, "*")
			return star && strings.HasPrefix(lower, prefix)
		}):
			lower = strings.TrimSpace(name) // of annotations, whose case counts
		default:
			return nil, fmt.Errorf("%s %s: %q is none of %s", flag, s, part, strings.Join(known, ", "))
		}
		m[lower] = value
	}
	return m, nil
}

// parseOutputs parses -o as buildx does.
func (f *buildFlags) parseOutputs(a *app, o *build.Options) error {
	for _, s := range f.outputs {
		switch {
		case s == "": // as buildx: an unset variable of a script
			continue
		case s == "-":
			o.Outputs = append(o.Outputs, build.Output{Type: "tar", Writer: a.ui.Out})
			continue
		case !strings.Contains(s, ",") && !strings.HasPrefix(s, "type="):
			o.Outputs = append(o.Outputs, build.Output{Type: "local", Dest: s})
			continue
		}
		v, err := fields("--output", s, outputSettings()...)
		if err != nil {
			return err
		}
		if err := f.parseOutput(a, o, v); err != nil {
			return fmt.Errorf("--output %s: %w", s, err)
		}
	}
	written := func(out build.Output) bool { return out.Type == "tar" || out.Type == "local" }
	if f.iidFile != "" && slices.ContainsFunc(o.Outputs, written) {
		return errors.New("local and tar exporters are incompatible with image ID file")
	}
	if f.archives(o) > 1 {
		return fmt.Errorf("only one --output can go to standard output")
	}
	return nil
}

func (f *buildFlags) archives(o *build.Options) (n int) {
	for _, out := range o.Outputs {
		if out.Writer != nil && (out.Dest == "" || out.Dest == "-") {
			n++
		}
	}
	return n
}

// outputSettings are what BuildKit's exporters take. Those that say how it makes what is always so here are
// not looked at.
func outputSettings() []string {
	return []string{"type", "dest", "name", "push?", "load?", "store?", "unpack?", "tar?", "context",
		"compression", "compression-level", "force-compression?", "oci-mediatypes?", "rewrite-timestamp?", "source-date-epoch",
		"name-canonical?", "dangling-name-prefix", "push-by-digest?", "registry.insecure?", "attestation-inline?",
		"oci-artifact?", "prefer-nondist-layers?", "attestation-prefix", "platform-split", "mode", "src", "annotation*"}
}

func (f *buildFlags) parseOutput(a *app, o *build.Options, v map[string]string) error {
	for _, known := range outputSettings() {
		name, isBool := strings.CutSuffix(known, "?")
		if text, ok := v[name]; ok && isBool {
			if _, err := strconv.ParseBool(text); err != nil {
				return fmt.Errorf("non-bool value specified for %s: %s", name, text)
			}
		}
	}
	out := build.Output{Type: v["type"], Dest: v["dest"]}
	switch out.Type {
	case "registry":
		out.Type, v["push"] = "image", "true"
	case "docker":
		if out.Dest == "" {
			out.Type, o.Load = "image", true // as docker build does: into the store
		}
	case "image", "oci", "cacheonly":
	case "tar", "local":
		if out.Type == "local" && (out.Dest == "" || out.Dest == "-") {
			return errors.New("dest is required for local output")
		}
		if split, ok := v["platform-split"]; ok {
			b, err := strconv.ParseBool(split)
			if err != nil {
				return fmt.Errorf("non-bool value for platform-split: %s", split)
			}
			out.Split = &b
		}
		if src, ok := v["src"]; ok && src == "" {
			return errors.New("src without a value; leave it away for the whole filesystem")
		}
		out.Source, out.StatementPrefix = v["src"], v["attestation-prefix"]
		if out.Type == "local" {
			if err := f.mirror(&out, v["mode"]); err != nil {
				return err
			}
		}
	case "":
		return fmt.Errorf("no type")
	default:
		return fmt.Errorf("type %q is none of image, registry, oci, docker, tar, local and cacheonly", out.Type)
	}
	if err := o.SetImage(&out, v); err != nil {
		return err
	}
	if v["name"] != "" {
		out.Names = strings.Split(v["name"], ",")
	}
	out.Push = out.Type == "image" && build.Yes(v["push"])
	if tar, ok := v["tar"]; ok && !build.Yes(tar) {
		if out.Type != "oci" && out.Type != "docker" || out.Dest == "" {
			return fmt.Errorf("tar=false is for type=oci or docker and dest=DIRECTORY")
		}
		out.Dir = true
	}
	if slices.Contains([]string{"oci", "docker", "tar"}, out.Type) && (out.Dest == "" || out.Dest == "-") {
		if a.ui.OutTerminal() {
			return fmt.Errorf("an archive on a terminal; give dest=FILE")
		}
		out.Writer = a.ui.Out
	}
	o.Outputs = append(o.Outputs, out)
	return nil
}

// localDelete is what buildx wants allowed before it empties a directory that is not below the current one.
const localDelete = "buildx.local.delete"

// mirror sets the mode of an output to a directory.
func (f *buildFlags) mirror(out *build.Output, mode string) error {
	switch strings.ToLower(strings.TrimSpace(mode)) {
	case "", "copy":
		return nil
	case "delete":
	default:
		return fmt.Errorf("invalid local exporter mode %q", mode)
	}
	out.Mirror = true
	below, err := belowHere(out.Dest)
	if err != nil {
		return err
	}
	if !below && !f.mayDelete {
		return fmt.Errorf("local output mode=delete for destination %q requires --allow=%s", out.Dest, localDelete)
	}
	return nil
}

// belowHere says whether dir, which need not be there, is below the current directory, and not it itself.
func belowHere(dir string) (bool, error) {
	here, err := os.Getwd()
	if err != nil {
		return false, err
	}
	if here, err = filepath.EvalSymlinks(here); err != nil {
		return false, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	rest := ""
	real, err := filepath.EvalSymlinks(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != "/" {
		if _, err := os.Lstat(dir); err == nil {
			return false, nil // a link to nowhere
		}
		dir, rest = filepath.Dir(dir), filepath.Join(filepath.Base(dir), rest)
		real, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return false, err
	}
	rel, err := filepath.Rel(here, filepath.Join(real, rest))
	return err == nil && rel != "." && filepath.IsLocal(rel), nil
}
