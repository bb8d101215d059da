package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	manyContainers = 500 // running, for the listings
	idleContainers = 100 // for memory
)

// measureLive takes what a host with many containers asks for all day, and what it pays
// for having them.
func measureLive(ctx context.Context, b *bench) error {
	if err := b.busyboxImage(ctx); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	if err := b.idle(ctx); err != nil {
		return err
	}
	if err := b.startIdle(ctx, idleContainers, manyContainers, b.teu, "run"); err != nil {
		return err
	}
	title := func(command string) string {
		return fmt.Sprintf("%s of %d running containers", command, manyContainers)
	}
	for _, f := range []struct{ title, command string }{
		{title("`ps`"), "ps"}, {title("`inspect` of one"), "inspect idle250"}, {title("`stats --no-stream`"), "stats --no-stream"},
	} {
		args := append([]string{b.teu}, strings.Fields(f.command)...)
		b.report.add(figure{title: f.title, unit: "ms", results: b.race(ctx, 1, b.rounds, []contender{{name: "teu", args: args}})})
	}
	const rest = 10 * time.Second
	r := result{tool: "teu"}
	for range 3 {
		before := b.keeperCPU()
		time.Sleep(rest)
		r.values = append(r.values, 100*float64(b.keeperCPU()-before)/float64(rest))
	}
	b.report.add(figure{title: fmt.Sprintf("CPU of all processes of teu, %d idle containers", manyContainers), unit: "% of a core",
		note: "Over 10 s; /proc/PID/schedstat.", results: []result{r}})
	return b.removeIdle(ctx, b.teu)
}

// idle takes the memory of everything a tool keeps running for idle containers.
func (b *bench) idle(ctx context.Context) error {
	f := figure{title: fmt.Sprintf("Memory with %d idle containers", idleContainers), unit: "MB",
		note: "Proportional set sizes of all processes of the tool, its daemons too; the containers' own not counted."}
	own := result{tool: "teu"}
	if err := b.startIdle(ctx, 0, idleContainers, b.teu, "run"); err != nil {
		return err
	}
	own.values = []float64{b.pss(b.isKeeper)}
	docker := result{tool: "docker"}
	if err := b.idleDocker(ctx, &docker); err != nil {
		docker.failed = "failed: " + err.Error()
	}
	f.results = []result{own, docker}
	b.report.add(f)
	return nil
}

func (b *bench) idleDocker(ctx context.Context, r *result) error {
	stop, err := b.dockerd(ctx)
	if err != nil {
		return err
	}
	defer stop()
	if err := b.must(ctx, "docker", "import", filepath.Join(b.dir, "busybox.tar"), "busybox"); err != nil {
		return err
	}
	defer b.removeIdle(ctx, "docker")
	if err := b.startIdle(ctx, 0, idleContainers, "docker", "run"); err != nil {
		return err
	}
	r.values = []float64{b.pss(func(p process) bool {
		return strings.Contains(p.cmdline, b.dir) && (strings.HasPrefix(p.name, "dockerd") || strings.HasPrefix(p.name, "containerd"))
	})}
	return nil
}

// startIdle starts containers idleFROM to idleTO-1.
func (b *bench) startIdle(ctx context.Context, from, to int, run ...string) error {
	for i := from; i < to; i++ {
		args := append(run[1:len(run):len(run)], "-d", "--network", "none", "--name", "idle"+strconv.Itoa(i), "busybox", "sleep", "100000")
		if err := b.must(ctx, run[0], args...); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) removeIdle(ctx context.Context, tool string) error {
	out, err := b.command(ctx, tool, "ps", "-aq").Output()
	if err != nil {
		return err
	}
	return b.must(ctx, tool, append([]string{"rm", "-f"}, strings.Fields(string(out))...)...)
}

// process is what /proc says of one.
type process struct {
	dir, name, cmdline string
}

// processes are all of the host that fit.
func processes(fits func(process) bool) (list []process) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		cmdline, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		name, _ := os.ReadFile(filepath.Join(dir, "comm"))
		p := process{dir, strings.TrimSpace(string(name)), strings.ReplaceAll(string(cmdline), "\x00", " ")}
		if fits(p) {
			list = append(list, p)
		}
	}
	return list
}

// isKeeper tells the processes that teu leaves running: keepers, which name a directory of
// its RUNROOT, and their holders, which name nothing.
func (b *bench) isKeeper(p process) bool {
	return strings.HasPrefix(p.cmdline, "teu-keeper hold") || strings.HasPrefix(p.cmdline, "teu-keeper ") && strings.Contains(p.cmdline, b.dir)
}

// pss is the sum of proportional set sizes in MB.
func (b *bench) pss(fits func(process) bool) float64 {
	kb := 0
	for _, p := range processes(fits) {
		rollup, _ := os.ReadFile(filepath.Join(p.dir, "smaps_rollup"))
		for line := range strings.Lines(string(rollup)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == "Pss:" {
				n, _ := strconv.Atoi(f[1])
				kb += n
			}
		}
	}
	return float64(kb) / 1000
}

// keeperCPU is the time all processes that teu keeps running have had a processor.
func (b *bench) keeperCPU() (sum time.Duration) {
	for _, p := range processes(b.isKeeper) {
		tasks, _ := filepath.Glob(filepath.Join(p.dir, "task/*/schedstat"))
		for _, task := range tasks {
			text, _ := os.ReadFile(task)
			if f := strings.Fields(string(text)); len(f) > 0 {
				n, _ := strconv.ParseInt(f[0], 10, 64)
				sum += time.Duration(n)
			}
		}
	}
	return sum
}

// busyboxImage gives teu the image busybox.
func (b *bench) busyboxImage(ctx context.Context) error {
	tar, err := b.busyboxTar()
	if err != nil {
		return err
	}
	if err := writeFile(filepath.Join(b.dir, "ctx/Dockerfile"), "FROM scratch\nADD busybox.tar /\n"); err != nil {
		return err
	}
	if out, err := exec.Command("ln", "-f", tar, filepath.Join(b.dir, "ctx/busybox.tar")).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return b.must(ctx, b.teu, "build", "-q", "-t", "busybox", filepath.Join(b.dir, "ctx"))
}
