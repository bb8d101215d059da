package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

const contextFiles = 10000

// measureBuild takes the time of a build in which nothing changed.
func measureBuild(ctx context.Context, b *bench) error {
	tar, err := b.busyboxTar()
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "ctx")
	for i := range contextFiles {
		if err := writeFile(filepath.Join(dir, fmt.Sprintf("src/d%02d/f%04d", i/100, i)), fmt.Sprintf("file %d\n", i)); err != nil {
			return err
		}
	}
	if err := os.Link(tar, filepath.Join(dir, "busybox.tar")); err != nil {
		return err
	}
	dockerfile := "FROM scratch AS base\nADD busybox.tar /\nFROM base\nCOPY src /src\nRUN true\n"
	if err := writeFile(filepath.Join(dir, "Dockerfile"), dockerfile); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	contenders := []contender{
		{name: "teu build", args: []string{b.teu, "build", "-q", "-t", "app", dir}},
		{name: "podman build", args: b.podman("build", "-q", "--layers", "--isolation", "chroot", "-t", "app", dir)},
	}
	socket := "unix://" + filepath.Join(b.dir, "buildkitd.sock")
	ready := func() error {
		return b.must(ctx, filepath.Join(b.peers, "buildctl"), "--addr", socket, "debug", "workers")
	}
	stop, err := b.daemon(ctx, ready, filepath.Join(b.peers, "buildkitd"), "--addr", socket, "--root", filepath.Join(b.dir, "buildkit"), "--oci-worker-net", "host")
	failed := func(name string, err error) contender {
		return contender{name: name, prepare: func() error { return err }, args: []string{"false"}}
	}
	if err == nil {
		defer stop()
		contenders = append(contenders, contender{name: "buildctl build", args: []string{filepath.Join(b.peers, "buildctl"), "--addr", socket, "build",
			"--progress", "plain", "--frontend", "dockerfile.v0", "--local", "context=" + dir, "--local", "dockerfile=" + dir}})
	} else {
		contenders = append(contenders, failed("buildctl build", err))
	}
	stopDocker, err := b.dockerd(ctx)
	if err == nil {
		defer stopDocker()
		contenders = append(contenders, contender{name: "docker build", args: []string{"env", "DOCKER_BUILDKIT=0", "docker", "build", "-q", "--network", "none", "-t", "app", dir}})
	} else {
		contenders = append(contenders, failed("docker build", err))
	}
	b.report.add(figure{
		title: "Build, nothing changed, context of 10,000 files", unit: "ms",
		note:    "`FROM base`, `COPY src /src`, `RUN true`; the client's whole process, daemons warm. buildctl exports no image. docker uses its classic builder.",
		results: b.race(ctx, 1, b.rounds, contenders),
	})
	return nil
}
