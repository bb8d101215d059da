package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// measureOCI compares teu as an OCI runtime with crun and runc: the whole of a run, and
// create, start and delete each, of a bundle with docker's seccomp profile.
func measureOCI(ctx context.Context, b *bench) error {
	if _, err := b.busyboxTar(); err != nil {
		return err
	}
	bundle, err := b.confinedBundle()
	if err != nil {
		return err
	}
	type runtime struct {
		name string
		args []string
	}
	runtimes := []runtime{{"teu oci", []string{b.teu, "oci"}}, {"crun", []string{"crun"}}, {"runc", []string{"runc"}}}
	call := func(r runtime, args ...string) []string {
		return append(append(r.args[:len(r.args):len(r.args)], "--root", filepath.Join(b.dir, "oci-"+filepath.Base(r.args[0]))), args...)
	}
	do := func(args []string) error { return b.quiet(ctx, args) }
	var run, create, start, remove []contender
	for _, r := range runtimes {
		id := "bench-" + filepath.Base(r.args[0]) // runc and crun have one place for control groups
		run = append(run, contender{name: r.name, args: call(r, "run", "--bundle", bundle, id)})
		gone := func() error { return do(call(r, "delete", "--force", id)) }
		made := func() error {
			if err := gone(); err != nil {
				return err
			}
			return do(call(r, "create", "--bundle", bundle, id))
		}
		ended := func() error {
			if err := made(); err != nil {
				return err
			}
			if err := do(call(r, "start", id)); err != nil {
				return err
			}
			return b.stopped(ctx, call(r, "state", id))
		}
		create = append(create, contender{name: r.name, prepare: gone, args: call(r, "create", "--bundle", bundle, id), quiet: true})
		start = append(start, contender{name: r.name, prepare: made, args: call(r, "start", id), quiet: true})
		remove = append(remove, contender{name: r.name, prepare: ended, args: call(r, "delete", id)})
	}
	note := "A bundle with docker's seccomp profile, `true` as its command and a control group; the whole process."
	for _, f := range []struct {
		title      string
		contenders []contender
	}{{"OCI runtime: `run`", run}, {"OCI runtime: `create`", create}, {"OCI runtime: `start`", start}, {"OCI runtime: `delete`", remove}} {
		b.report.add(figure{title: f.title, unit: "ms", note: note, results: b.race(ctx, 2, b.rounds, f.contenders)})
		note = ""
	}
	return nil
}

// stopped waits until a runtime says so.
func (b *bench) stopped(ctx context.Context, state []string) error {
	for range 100 {
		out, err := b.command(ctx, state[0], state[1:]...).Output()
		if err != nil || strings.Contains(string(out), "stopped") {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s: it does not stop", strings.Join(state, " "))
}

// confinedBundle is runc's template with docker's seccomp profile.
func (b *bench) confinedBundle() (string, error) {
	if _, _, err := b.bundles(); err != nil {
		return "", err
	}
	dir := filepath.Join(b.dir, "bundle")
	file := filepath.Join(dir, "config.json")
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var s specs.Spec
	if err := json.Unmarshal(text, &s); err != nil {
		return "", err
	}
	s.Version = "1.0.2" // what Debian's crun knows
	if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(&s); err != nil {
		return "", err
	}
	if text, err = json.Marshal(&s); err != nil {
		return "", err
	}
	return dir, os.WriteFile(file, text, 0o644)
}

// quiet runs a command whose output may stay open behind it.
func (b *bench) quiet(ctx context.Context, args []string) error {
	if err := b.command(ctx, args[0], args[1:]...).Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return nil
}
