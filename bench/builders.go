package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// builders are what a subject about builds is raced with: the daemons, a registry of distribution's on
// loopback, and in it the base image REGISTRY/base.
type builders struct {
	b        *bench
	registry string
	socket   string           // of buildkitd
	missing  map[string]error // daemons that did not start, by tool
	pids     map[string]int   // of daemons, by tool
	stops    []func()
}

// withBuilders makes a subject of figures that want the builders running.
func withBuilders(measure func(context.Context, *builders) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		s, err := b.startBuilders(ctx)
		if err != nil {
			return err
		}
		defer s.stop()
		return measure(ctx, s)
	}
}

// startBuilders starts them. One that does not start is a failed row of the report.
func (b *bench) startBuilders(ctx context.Context) (*builders, error) {
	s := &builders{b: b, missing: map[string]error{}, pids: map[string]int{}, socket: "unix://" + filepath.Join(b.dir, "buildkitd.sock")}
	registry, stop, err := b.distribution(ctx)
	if err != nil {
		return nil, err
	}
	s.registry, s.stops = registry, append(s.stops, stop)
	s.keep("buildkit", func() (func(), error) { return s.buildkitd(ctx) })
	s.keep("docker", func() (func(), error) { return b.dockerd(ctx) })
	if err := s.makeBase(ctx); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// keep starts the daemon of a tool, or remembers why it did not start.
func (s *builders) keep(tool string, start func() (func(), error)) {
	stop, err := start()
	if err != nil {
		s.missing[tool] = err
		return
	}
	s.stops = append(s.stops, stop)
	s.pids[tool] = s.b.daemonPID
}

func (s *builders) buildkitd(ctx context.Context) (func(), error) {
	buildctl := filepath.Join(s.b.peers, "buildctl")
	ready := func() error { return s.b.must(ctx, buildctl, "--addr", s.socket, "debug", "workers") }
	return s.b.daemon(ctx, ready, filepath.Join(s.b.peers, "buildkitd"), "--addr", s.socket, "--root", filepath.Join(s.b.dir, "buildkit"), "--oci-worker-net", "host")
}

func (s *builders) stop() {
	for i := len(s.stops) - 1; i >= 0; i-- {
		s.stops[i]()
	}
}

// makeBase pushes REGISTRY/base: busybox.
func (s *builders) makeBase(ctx context.Context) error {
	tar, err := s.b.busyboxTar()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.b.dir, "base")
	if err := writeFile(filepath.Join(dir, "Dockerfile"), "FROM scratch\nADD busybox.tar /\n"); err != nil {
		return err
	}
	if err := os.Link(tar, filepath.Join(dir, "busybox.tar")); err != nil {
		return err
	}
	return s.b.must(ctx, s.b.teu, "build", "-q", "-t", s.registry+"/base", "--push", dir)
}

// A buildRace is a build that every tool makes.
type buildRace struct {
	dir      string
	push     bool
	noCache  bool
	plain    bool         // buildctl makes no image, as it would compress the layers for it
	network  string       // "host" or, as docker can here, "none"; "": every tool's own
	prepare  func() error // before each build; may be nil
	teu      []string     // more flags
	buildkit []string
}

// contenders are the tools; teu first.
func (s *builders) contenders(r buildRace) []contender {
	return []contender{s.teuBuild(r), s.buildctl(r), s.dockerBuild(r), s.buildah(r)}
}

func (s *builders) teuBuild(r buildRace) contender {
	args := []string{s.b.teu, "build", "-q", "-t", s.registry + "/teu"}
	if r.push {
		args = append(args, "--push")
	}
	if r.noCache {
		args = append(args, "--no-cache")
	}
	if r.network == "host" {
		args = append(args, "--network", "host")
	}
	return contender{name: "teu build", prepare: r.prepare, args: append(append(args, r.teu...), r.dir)}
}

func (s *builders) buildctl(r buildRace) contender {
	args := []string{filepath.Join(s.b.peers, "buildctl"), "--addr", s.socket, "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + r.dir, "--local", "dockerfile=" + r.dir}
	output := "type=image,name=" + s.registry + "/buildkit"
	if r.push {
		output += ",push=true,registry.insecure=true"
	}
	if !r.plain {
		args = append(args, "--output", output)
	}
	if r.noCache {
		args = append(args, "--no-cache")
	}
	return s.checked("buildkit", contender{name: "buildctl build", prepare: r.prepare, args: append(args, r.buildkit...)})
}

func (s *builders) dockerBuild(r buildRace) contender {
	network := r.network
	if network == "" {
		network = "none" // dockerd has no bridge here
	}
	image := s.registry + "/docker"
	script := fmt.Sprintf("DOCKER_BUILDKIT=0 docker build -q --network %s -t %s", network, image)
	if r.noCache {
		script += " --no-cache"
	}
	script += " " + r.dir
	if r.push {
		script += " && docker push -q " + image
	}
	return s.checked("docker", contender{name: "docker build", prepare: r.prepare, args: []string{"sh", "-c", script}})
}

// buildah is podman build as well. It takes seconds, so a few rounds are enough.
func (s *builders) buildah(r buildRace) contender {
	at := func(name string) string { return filepath.Join(s.b.dir, name) }
	tool := fmt.Sprintf("buildah --root %s --runroot %s --storage-driver overlay", at("buildah"), at("buildah-run"))
	image := s.registry + "/buildah"
	script := tool + " build -q --layers --isolation chroot --tls-verify=false -t " + image
	if r.noCache {
		script += " --no-cache"
	}
	script += " " + r.dir
	if r.push {
		script += " && " + tool + " push -q --tls-verify=false " + image
	}
	return contender{name: "buildah build", prepare: r.prepare, args: []string{"sh", "-c", script}, most: 2, noMemory: true}
}

// checked is c, or a contender that says why the daemon of the tool did not start.
func (s *builders) checked(tool string, c contender) contender {
	if err := s.missing[tool]; err != nil {
		return contender{name: c.name, prepare: func() error { return err }, args: []string{"false"}}
	}
	c.daemon = s.pids[tool]
	return c
}

// race takes the times of the builds, and in one more round each their memory.
func (s *builders) race(ctx context.Context, title, note string, warmups, rounds int, contenders []contender) {
	results := s.b.race(ctx, warmups, rounds, contenders)
	s.b.report.add(figure{title: title, unit: "ms", note: note, results: results})
	var peaks []result
	for i, c := range contenders {
		if c.noMemory {
			continue
		}
		r := result{tool: c.name, failed: results[i].failed}
		if r.failed == "" {
			peak, err := s.b.peakMemory(ctx, c)
			if r.values = []float64{peak}; err != nil {
				r.failed, r.values = "failed: "+err.Error(), nil
			}
		}
		peaks = append(peaks, r)
	}
	s.b.report.add(figure{
		title: "Peak memory: " + title, unit: "MB",
		note: "Of all processes of the tool together, its daemon included, without pages of files and without what the RUNs themselves run.", results: peaks,
	})
}
