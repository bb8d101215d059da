package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"
)

// measureLogs takes how fast a container can print into its log, and how fast that is read.
func measureLogs(ctx context.Context, b *bench) error {
	if err := b.busyboxImage(ctx); err != nil {
		return err
	}
	defer b.must(ctx, b.teu, "system", "reset", "--force")
	docker, stop := b.dockerRunner(ctx)
	defer stop()
	write := figure{title: "Log of one container that prints as fast as it can", unit: "MB per second", more: true,
		note: "`yes` with lines of 64 bytes for 3 s; growth of the json-file log. The container shares the two cores."}
	read := figure{title: "`logs` of 1 GB", unit: "MB per second", more: true, note: "Of the log's file, to /dev/null; of what a slow tool has written in 30 s."}
	for _, r := range []runner{{name: "teu", args: []string{b.teu}}, docker} {
		in, out := result{tool: r.name}, result{tool: r.name}
		if err := b.flood(ctx, r, &in, &out); err != nil {
			in.failed, out.failed = err.Error(), err.Error()
		}
		write.results, read.results = append(write.results, in), append(read.results, out)
	}
	b.report.add(write)
	b.report.add(read)
	return nil
}

// flood lets a container print and reads what it said, with a log of 1 GB at least.
func (b *bench) flood(ctx context.Context, r runner, in, out *result) error {
	line := strings.Repeat("a", 63)
	start := r.command("none", "-d", "--name", "flood", "--log-opt", "max-size=100g", "busybox", "yes", line)
	if err := b.must(ctx, start[0], start[1:]...); err != nil {
		return err
	}
	call := func(args ...string) []string { return append(r.args[:len(r.args):len(r.args)], args...) }
	remove := call("rm", "-f", "flood")
	defer b.must(ctx, remove[0], remove[1:]...)
	inspect := call("inspect", "-f", "{{.LogPath}}", "flood")
	path, err := b.command(ctx, inspect[0], inspect[1:]...).Output()
	if err != nil {
		return err
	}
	size := func() int64 {
		st, err := os.Stat(strings.TrimSpace(string(path)))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	for round := 0; round < 3 || size() < 1e9 && round < 10; round++ {
		before, from := size(), time.Now()
		time.Sleep(3 * time.Second)
		if round < 3 {
			in.values = append(in.values, float64(size()-before)/1e6/time.Since(from).Seconds())
		}
	}
	kill := call("kill", "flood")
	if err := b.must(ctx, kill[0], kill[1:]...); err != nil {
		return err
	}
	for range 3 {
		logs := call("logs", "flood")
		from := time.Now()
		if err := b.command(ctx, logs[0], logs[1:]...).Run(); err != nil {
			return fmt.Errorf("logs: %w", err)
		}
		out.values = append(out.values, float64(size())/1e6/time.Since(from).Seconds())
	}
	return nil
}
