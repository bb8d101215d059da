package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// measureRun takes the time of a whole `run --rm busybox true`, image there.
func measureRun(ctx context.Context, b *bench) error {
	tar, err := b.busyboxTar()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(b.dir, "ctx/Dockerfile"), "FROM scratch\nADD busybox.tar /\n"); err != nil {
		return err
	}
	if err := os.Link(tar, filepath.Join(b.dir, "ctx/busybox.tar")); err != nil {
		return err
	}
	if err := b.must(ctx, b.teu, "build", "-q", "-t", "busybox", filepath.Join(b.dir, "ctx")); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	args := b.podman("import", "-q", tar, "busybox")
	if err := b.must(ctx, args[0], args[1:]...); err != nil {
		return err
	}
	crun, runc, err := b.bundles()
	if err != nil {
		return err
	}
	floor := contender{name: "floor: unshare, chroot", args: []string{"unshare", "-mpuin", "--fork", "chroot", filepath.Join(b.dir, "busybox"), "/bin/true"}}
	b.report.add(figure{
		title: "`run --rm --network none busybox true`", unit: "ms",
		note: "The whole command, image there. crun and runc run a bare bundle: no image, no record, no log.",
		results: b.race(ctx, 1, b.rounds, []contender{
			{name: "teu", args: []string{b.teu, "run", "--rm", "--network", "none", "busybox", "true"}},
			{name: "podman", args: b.podman("run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none", "busybox", "true")},
			{name: "crun run (bundle)", args: crun}, {name: "runc run (bundle)", args: runc}, floor,
		}),
	})
	b.report.add(figure{
		title: "`run --rm busybox true` on the bridge", unit: "ms",
		results: b.race(ctx, 1, b.rounds, []contender{
			{name: "teu", args: []string{b.teu, "run", "--rm", "busybox", "true"}},
			{name: "podman", args: b.podman("run", "--rm", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "bridge", "busybox", "true")},
			{name: "crun run (bundle, no network)", args: crun}, floor,
		}),
	})
	return nil
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
