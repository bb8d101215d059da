package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
)

// runner is a tool that runs containers.
type runner struct {
	name   string
	args   []string // before the command
	run    []string // after `run`
	remove []string // after `rm -f`
}

// measureRun takes the time of a whole `run --rm busybox true`, image there, and of
// starting and removing what stays.
func measureRun(ctx context.Context, b *bench) error {
	if err := b.busyboxImage(ctx); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	runners := []runner{{name: "teu", args: []string{b.teu}}}
	podman, err := b.podmanRunner(ctx)
	if err != nil {
		return err
	}
	docker, stopDocker := b.dockerRunner(ctx)
	defer stopDocker()
	nerdctl, stopContainerd := b.nerdctlRunner(ctx)
	defer stopContainerd()
	runners = append(runners, podman, docker, nerdctl)
	crun, runc, err := b.bundles()
	if err != nil {
		return err
	}
	floor := contender{name: "floor: unshare, chroot", args: []string{"unshare", "-mpuin", "--fork", "chroot", filepath.Join(b.dir, "busybox"), "/bin/true"}}
	for _, network := range []string{"none", "host", "bridge"} {
		list := make([]contender, 0, len(runners)+3)
		for _, r := range runners {
			list = append(list, contender{name: r.name, args: r.command(network, "--rm", "busybox", "true")})
		}
		if network == "none" {
			list = append(list, contender{name: "crun run (bundle)", args: crun}, contender{name: "runc run (bundle)", args: runc}, floor)
		}
		b.report.add(figure{
			title: fmt.Sprintf("`run --rm --network %s busybox true`", network), unit: "ms",
			note:    "The whole command, image there, daemons warm. crun and runc run a bare bundle: no image, no record, no log.",
			results: b.race(ctx, 1, b.rounds, list),
		})
	}
	b.measureDetached(ctx, runners)
	return nil
}

// measureDetached takes the time of `run -d` and of `rm -f`.
func (b *bench) measureDetached(ctx context.Context, runners []runner) {
	rounds := max(1, b.rounds/2)
	for _, network := range []string{"none", "bridge"} {
		var starts, removals []contender
		for _, r := range runners {
			start := r.command(network, "-d", "--name", "bench", "busybox", "sleep", "1000")
			remove := append(r.args[:len(r.args):len(r.args)], "rm", "-f")
			remove = append(append(remove, r.remove...), "bench")
			started := false
			starts = append(starts, contender{name: r.name, args: start, prepare: func() error {
				if !started {
					started = true
					return nil
				}
				return b.must(ctx, remove[0], remove[1:]...)
			}})
			first := true
			removals = append(removals, contender{name: r.name, args: remove, prepare: func() error {
				if first { // the last of starts is there
					first = false
					return nil
				}
				return b.must(ctx, start[0], start[1:]...)
			}})
		}
		b.report.add(figure{title: fmt.Sprintf("`run -d --network %s busybox sleep 1000`", network), unit: "ms", results: b.race(ctx, 1, rounds, starts)})
		b.report.add(figure{title: "`rm -f` of it", unit: "ms", results: b.race(ctx, 1, rounds, removals)})
	}
}

// command is `run` in a network with some arguments.
func (r runner) command(network string, args ...string) []string {
	line := append(r.args[:len(r.args):len(r.args)], "run")
	line = append(append(line, r.run...), "--network", network)
	return append(line, args...)
}

func (b *bench) podmanRunner(ctx context.Context) (runner, error) {
	r := runner{name: "podman", args: b.podman(), run: []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}, remove: []string{"--time", "0"}}
	args := b.podman("import", "-q", filepath.Join(b.dir, "busybox.tar"), "busybox")
	return r, b.must(ctx, args[0], args[1:]...)
}

// broken is a tool that cannot be measured here; its line of the report says why.
func broken(name string, err error) (runner, func()) {
	return runner{name: name, args: []string{"sh", "-c", `echo "$0" >&2; exit 1`, err.Error()}}, func() {}
}

func (b *bench) dockerRunner(ctx context.Context) (runner, func()) {
	stop, err := b.dockerd(ctx, ownNetwork()...)
	if err == nil {
		err = b.must(ctx, "docker", "import", filepath.Join(b.dir, "busybox.tar"), "busybox")
	}
	if err != nil {
		return broken("docker", err)
	}
	return runner{name: "docker", args: []string{"docker"}}, stop
}

func (b *bench) nerdctlRunner(ctx context.Context) (runner, func()) {
	nerdctl, stop, err := b.containerd(ctx, ownNetwork()...)
	archive := filepath.Join(b.dir, "busybox-image.tar")
	if err == nil {
		err = b.must(ctx, b.teu, "save", "-o", archive, "busybox")
	}
	if err == nil {
		load := append(nerdctl[:len(nerdctl):len(nerdctl)], "load", "-i", archive)
		err = b.must(ctx, load[0], load[1:]...)
	}
	if err != nil {
		return broken("nerdctl", err)
	}
	return runner{name: "nerdctl", args: nerdctl}, stop
}

// bundles makes an OCI bundle for the low-level runtimes, by runc's own template.
func (b *bench) bundles() (crun, runc []string, err error) {
	bundle := filepath.Join(b.dir, "bundle")
	script := `set -e; mkdir -p "$1"; cp -a "$2" "$1/rootfs"; cd "$1"; runc spec
sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"true"/' config.json`
	if out, err := exec.Command("sh", "-c", script, "sh", bundle, filepath.Join(b.dir, "busybox")).CombinedOutput(); err != nil {
		return nil, nil, fmt.Errorf("making a bundle: %w: %s", err, out)
	}
	crun = []string{"crun", "--root", filepath.Join(b.dir, "crun"), "run", "--bundle", bundle, "bench"}
	runc = []string{"runc", "--root", filepath.Join(b.dir, "runc"), "run", "--bundle", bundle, "bench"}
	return crun, runc, nil
}
