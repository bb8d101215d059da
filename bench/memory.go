package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// peakMemory runs c once more and returns the most memory in MB that its processes, its daemon and their
// children had together: anonymous and shared pages, not those of files, which the kernel may drop. What
// runs in a container has what the Dockerfile asked for, whoever its parent is, and does not count.
func (b *bench) peakMemory(ctx context.Context, c contender) (float64, error) {
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := b.command(ctx, c.args[0], c.args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	peak := 0
	for {
		select {
		case err := <-ended:
			if err != nil {
				return 0, fmt.Errorf("%w: %s", err, tail(out.Bytes()))
			}
			return float64(peak) / 1000, nil
		case <-tick.C:
			peak = max(peak, treeMemory(cmd.Process.Pid, c.daemon))
		}
	}
}

// treeMemory returns the kB that the processes below roots have now, those of containers excepted.
func treeMemory(roots ...int) (kb int) {
	host := pidNamespace(os.Getpid())
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(name, "/")[2])
		// The command, which may have spaces, ends with the last parenthesis; state and parent follow.
		fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		if len(fields) > 1 {
			parent, _ := strconv.Atoi(fields[1])
			children[parent] = append(children[parent], pid)
		}
	}
	for len(roots) > 0 {
		pid := roots[0]
		roots = roots[1:]
		if pid > 0 && pidNamespace(pid) == host { // 0 would stand for the whole machine
			roots = append(roots, children[pid]...)
			kb += processMemory(pid)
		}
	}
	return kb
}

// pidNamespace names the PID namespace of a process, of which every container has its own; "" if it has ended.
func pidNamespace(pid int) string {
	name, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", pid))
	return name
}

// processMemory returns RssAnon and RssShmem of a process in kB; 0 if it has ended.
func processMemory(pid int) (kb int) {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if name == "RssAnon" || name == "RssShmem" {
			n, _ := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB"))
			kb += n
		}
	}
	return kb
}
