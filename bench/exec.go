package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// engine is a tool that runs containers of the image busybox.
type engine struct {
	name   string
	args   []string // before a command such as run
	limits []string // options of run that this host asks for
}

// engines makes the image in each. docker is a daemon of its own.
func (b *bench) engines(ctx context.Context) (list []engine, stop func(), err error) {
	tar, err := b.busyboxTar()
	if err != nil {
		return nil, nil, err
	}
	if stop, err = b.dockerd(ctx); err != nil {
		return nil, nil, err
	}
	list = []engine{
		{"teu", []string{b.teu}, nil},
		{"podman", b.podman(), []string{"--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"}},
		{"docker", []string{"docker"}, nil},
	}
	for _, e := range list {
		args := e.call("import", tar, "busybox")
		if err := b.must(ctx, args[0], args[1:]...); err != nil {
			stop()
			return nil, nil, err
		}
	}
	return list, stop, nil
}

func (e engine) call(args ...string) []string {
	return append(e.args[:len(e.args):len(e.args)], args...)
}

// idle is the command line that starts a container which does nothing.
func (e engine) idle(name, network string) []string {
	args := append([]string{"run", "-d", "--name", name, "--network", network}, e.limits...)
	return e.call(append(args, "busybox", "busybox", "sleep", "1000")...)
}

// remove removes idle containers.
func (b *bench) remove(ctx context.Context, e engine, names []string) error {
	return b.quiet(ctx, e.call(append([]string{"rm", "-f"}, names...)...))
}

// execNeighbours is how many containers share what an engine's processes can share.
const execNeighbours = 10

// measureExec enters a running container, and weighs what stays with idle ones.
func measureExec(ctx context.Context, b *bench) error {
	engines, stop, err := b.engines(ctx)
	if err != nil {
		return err
	}
	defer stop()
	var plain, tty []contender
	memory := figure{title: "Memory of the supervisor of an idle container", unit: "MB",
		note: fmt.Sprintf("Proportional set size of the parent of its first process, %d containers being there.", execNeighbours)}
	inside := ""
	for _, e := range engines {
		var names []string
		for n := range execNeighbours {
			names = append(names, fmt.Sprintf("bench%d", n))
			if err := b.quiet(ctx, e.idle(names[n], "none")); err != nil {
				return err
			}
		}
		defer b.remove(context.WithoutCancel(ctx), e, names)
		time.Sleep(time.Second)
		r := result{tool: e.name}
		for _, name := range names {
			pid, mb, err := b.supervisor(ctx, e, name)
			if err != nil {
				return err
			}
			if inside == "" {
				inside = strconv.Itoa(pid) // of teu, which is first
			}
			r.values = append(r.values, mb)
		}
		memory.results = append(memory.results, r)
		plain = append(plain, contender{name: e.name, args: e.call("exec", "bench0", "true")})
		tty = append(tty, contender{name: e.name, args: e.call("exec", "-t", "bench0", "true")})
	}
	plain = append(plain, contender{name: "floor: nsenter", args: []string{"nsenter", "-t", inside, "-m", "-u", "-i", "-n", "-p", "true"}})
	b.report.add(figure{title: "`exec bench true` in a running container", unit: "ms", results: b.race(ctx, 2, b.rounds, plain)})
	b.report.add(figure{title: "`exec -t bench true` in a running container", unit: "ms", results: b.race(ctx, 2, b.rounds, tty)})
	b.report.add(memory)
	return nil
}

// supervisor is the first process of a container and the memory of its parent, in MB.
func (b *bench) supervisor(ctx context.Context, e engine, name string) (pid int, mb float64, err error) {
	args := e.call("inspect", "--format", "{{.State.Pid}}", name)
	out, err := b.command(ctx, args[0], args[1:]...).Output()
	if err != nil {
		return 0, 0, fmt.Errorf("%s inspect: %w", e.name, err)
	}
	if pid, err = strconv.Atoi(strings.TrimSpace(string(out))); err != nil {
		return 0, 0, err
	}
	parent, err := field(fmt.Sprintf("/proc/%d/status", pid), "PPid:")
	if err != nil {
		return 0, 0, err
	}
	kb, err := field(filepath.Join("/proc", strconv.Itoa(parent), "smaps_rollup"), "Pss:")
	return pid, float64(kb) / 1024, err
}

// field is the number behind a name in a file of lines.
func field(file, name string) (int, error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == name {
			return strconv.Atoi(words[1])
		}
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// storm is how many containers are started at once, after one by itself.
const storm = 50

// measureStorm starts many containers at once.
func measureStorm(ctx context.Context, b *bench) error {
	engines, stop, err := b.engines(ctx)
	if err != nil {
		return err
	}
	defer stop()
	for _, network := range []string{"none", "bridge"} {
		f := figure{title: fmt.Sprintf("%d × `run -d --network %s` at once", storm, network), unit: "s"}
		racers := engines
		if network == "bridge" { // docker's daemon has none here
			racers = slices.DeleteFunc(slices.Clone(engines), func(e engine) bool { return e.name == "docker" })
		}
		f.results = make([]result, len(racers))
		for round := range 1 + max(1, b.rounds/6) {
			for i, e := range racers {
				r, warmup := &f.results[i], round == 0
				r.tool = e.name
				if r.failed != "" {
					continue
				}
				n := storm
				if warmup {
					n = 1
				}
				took, err := b.storm(ctx, e, network, n)
				if err != nil {
					r.failed, r.values = "failed: "+err.Error(), nil
				} else if !warmup {
					r.values = append(r.values, took.Seconds())
				}
			}
		}
		b.report.add(f)
	}
	return nil
}

// storm starts n containers at once, takes the time until all run, and removes them.
func (b *bench) storm(ctx context.Context, e engine, network string, n int) (time.Duration, error) {
	var all errgroup.Group
	var names []string
	start := time.Now()
	for i := range n {
		name := fmt.Sprintf("storm%d", i)
		names = append(names, name)
		all.Go(func() error { return b.quiet(ctx, e.idle(name, network)) })
	}
	err := all.Wait()
	took := time.Since(start)
	if err2 := b.remove(context.WithoutCancel(ctx), e, names); err == nil {
		err = err2
	}
	return took, err
}
