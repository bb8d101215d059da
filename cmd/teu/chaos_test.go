package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestChaos kills processes of teu with SIGKILL at random moments, while containers come, talk
// and go: commands, keepers, holders, the daemon, probes of health checks, and what keepers
// execute. Every line that a container says is in its log once, and every exit code is told.
// TEU_SOAK=1 kills a thousand.
func TestChaos(t *testing.T) {
	kills, lives := 25, 2
	if os.Getenv("TEU_SOAK") != "" {
		kills, lives = 1000, 4
	}
	c := &chaos{site: newSite(t), wanted: int64(kills), killed: map[string]int{}}
	c.startDaemon()
	var all sync.WaitGroup
	all.Go(c.killer)
	for i := range lives {
		for name, life := range map[string]func(*chaos, string){
			"talks": (*chaos).talks, "shows": (*chaos).shows, "restarts": (*chaos).restarts, "served": (*chaos).served,
		} {
			all.Go(func() {
				for n := 0; !c.over(); n++ {
					life(c, fmt.Sprintf("%s-%d-%d", name, i, n))
				}
			})
		}
	}
	all.Wait()
	c.stopDaemon()
	c.empty()
	t.Logf("%d lives with %d lines; killed: %v", c.lives.Load(), c.lines.Load(), c.killed)
}

// A chaos is a store whose commands are killed.
type chaos struct {
	*site
	wanted       int64
	kills        atomic.Int64
	lives, lines atomic.Int64
	killed       map[string]int // how many of each kind; the killer's
	mu           sync.Mutex     // guards daemon
	daemon       *exec.Cmd
}

// over says that enough were killed, or that something is wrong.
func (c *chaos) over() bool { return c.t.Failed() || c.kills.Load() >= c.wanted }

// errKilled is what becomes of a command that was killed.
var errKilled = errors.New("killed")

// try runs a command and returns what it printed and its exit code, or errKilled.
func (c *chaos) try(args ...string) (out string, code int, err error) {
	var stdout, stderr bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	// A container's processes that hold the pipes are not waited for.
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Run()
	if cmd.ProcessState == nil {
		return "", -1, err
	}
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		return stdout.String(), -1, errKilled
	}
	if code = cmd.ProcessState.ExitCode(); code != 0 && stderr.Len() > 0 {
		return stdout.String(), code, errors.New(strings.TrimSpace(stderr.String()))
	}
	return stdout.String(), code, nil
}

// insist runs a command again until nobody has killed it.
func (c *chaos) insist(args ...string) (out string, code int) {
	for range 1000 {
		out, code, err := c.try(args...)
		if err == nil {
			return out, code
		}
		if !errors.Is(err, errKilled) {
			c.t.Errorf("teu %s: %d: %v", strings.Join(args, " "), code, err)
			return out, code
		}
	}
	c.t.Errorf("teu %s is killed again and again", strings.Join(args, " "))
	return "", -1
}

// appear makes a container with a command that was killed, or whose keeper was, as often as
// it takes: in the end it is there and was started.
func (c *chaos) appear(name string, args ...string) {
	for range 200 {
		_, _, err := c.try(args...)
		if err == nil {
			return
		}
		if !errors.Is(err, errKilled) && !strings.Contains(err.Error(), "keeper") && !strings.Contains(err.Error(), "already in use") {
			c.t.Errorf("teu %s: %v", strings.Join(args, " "), err)
			return
		}
		if c.status(name) == "created" {
			_, _, err := c.try("start", name)
			if err != nil && !errors.Is(err, errKilled) && !strings.Contains(err.Error(), "keeper") {
				c.t.Errorf("teu start %s: %v", name, err)
				return
			}
		}
		if s := c.status(name); s != "" && s != "created" {
			return
		}
	}
	c.t.Errorf("%s does not start", name)
}

// initGone says whether a container's first process has ended. Its keeper learns of that later
// than of the processes which ended with it.
func (c *chaos) initGone(name string) bool {
	pid, _ := strconv.Atoi(c.state(name, "Pid"))
	return pid == 0 || commandOf(pid) == nil
}

// status is what inspect says, or empty if there is no such container.
func (c *chaos) status(name string) string { return c.state(name, "Status") }

// state is one field of a container's state, or empty if there is no such container.
func (c *chaos) state(name, field string) string {
	for range 1000 {
		out, _, err := c.try("inspect", "--type", "container", "-f", "{{.State."+field+"}}", name)
		switch {
		case err == nil:
			return strings.TrimSpace(out)
		case strings.Contains(err.Error(), "No such container"):
			return ""
		case !errors.Is(err, errKilled):
			c.t.Errorf("inspect %s: %v", name, err)
			return ""
		}
	}
	return ""
}

// The program of a container says lines, slowly enough to be disturbed, and ends with a code.
func script(lines, code int) string {
	return fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo "line $i"; i=$((i+1)); [ $((i %% 10)) = 0 ] && usleep 5000; done; exit %d`, lines, code)
}

// said holds that text is the lines from 0 to n-1.
func (c *chaos) said(what, text string, n int) {
	got := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	for i, line := range got {
		if line != fmt.Sprint("line ", i) {
			c.t.Errorf("%s: line %d is %q", what, i, line)
			return
		}
	}
	if len(got) != n {
		c.t.Errorf("%s: %d lines, want %d", what, len(got), n)
	}
	c.lines.Add(int64(len(got)))
}

// ends waits for a container and holds what is known of it.
func (c *chaos) ends(name string, lines, code int) {
	if out, _ := c.insist("wait", name); strings.TrimSpace(out) != fmt.Sprint(code) {
		c.t.Errorf("%s ended with %q, want %d", name, out, code)
	}
	out, _ := c.insist("logs", name)
	c.said("logs of "+name, out, lines)
	out, _ = c.insist("inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}", name)
	if strings.TrimSpace(out) != fmt.Sprintf("exited %d", code) {
		c.t.Errorf("%s is %q", name, out)
	}
	c.vanish(name)
	c.lives.Add(1)
}

func (c *chaos) vanish(name string) {
	for range 1000 {
		if _, _, err := c.try("rm", "-f", name); err == nil || strings.Contains(err.Error(), "No such container") {
			return
		} else if !errors.Is(err, errKilled) && !strings.Contains(err.Error(), "is already in progress") {
			c.t.Errorf("rm %s: %v", name, err)
			return
		}
	}
}

// talks is a container in the background, with a network, that is probed and in which
// commands are executed.
func (c *chaos) talks(name string) {
	lines, code := 200+rand.IntN(1500), 1+rand.IntN(100)
	c.appear(name, "run", "-d", "--name", name, "--health-interval", "50ms", "--health-retries", "1000000",
		"--health-cmd", "echo "+c.dir+"; usleep 100000", "busybox", "sh", "-c", script(lines, code))
	for n := range 3 {
		out, code, err := c.try("exec", name, "sh", "-c", fmt.Sprintf("echo said; usleep 3000; exit %d", 20+n))
		switch {
		case code == 137 && c.initGone(name): // it ended with the container
		case errors.Is(err, errKilled), err != nil && (strings.Contains(err.Error(), "is not running") || strings.Contains(err.Error(), "keeper")):
		case err != nil || out != "said\n" || code != 20+n:
			c.t.Errorf("exec in %s: %q, %d, %v", name, out, code, err)
		}
	}
	c.ends(name, lines, code)
}

// shows is a container whose starter looks on, until somebody kills him.
func (c *chaos) shows(name string) {
	lines, code := 100+rand.IntN(700), 1+rand.IntN(100)
	out, got, err := c.try("run", "--name", name, "--network", "none", "busybox", "sh", "-c", script(lines, code))
	switch {
	case err == nil:
		if got != code {
			c.t.Errorf("run of %s ended with %d, want %d", name, got, code)
		}
		c.said("output of "+name, out, lines)
	case errors.Is(err, errKilled):
		if out = out[:strings.LastIndexByte(out, '\n')+1]; out != "" {
			c.said("the first output of "+name, out, strings.Count(out, "\n"))
		}
	case !strings.Contains(err.Error(), "keeper"):
		c.t.Errorf("run of %s: %v", name, err)
		return
	}
	switch c.status(name) {
	case "":
		return // killed before there was anything
	case "created":
		c.appear(name, "start", name)
	}
	c.ends(name, lines, code)
}

// restarts is a container that fails twice and then ends well. Each run that is counted is
// whole in the log.
func (c *chaos) restarts(name string) {
	lines := 50 + rand.IntN(200)
	c.appear(name, "run", "-d", "--name", name, "--network", "none", "--restart", "on-failure", "busybox", "sh", "-c",
		`n=$(cat /n || echo 0) 2>/dev/null; echo $((n+1)) >/n; [ $n -ge 3 ] && code=0 || code=1; `+strings.Replace(script(lines, 0), "exit 0", "echo end; exit $code", 1))
	for s := c.status(name); s == "running" || s == "restarting"; s = c.status(name) {
		c.insist("wait", name) // for one run
	}
	if out, _ := c.insist("wait", name); strings.TrimSpace(out) != "0" {
		c.t.Errorf("%s ended with %q", name, out)
	}
	log, _ := c.insist("logs", name)
	runs := strings.SplitAfter(log, "end\n")
	count, _ := c.insist("inspect", "-f", "{{.RestartCount}}", name)
	if n, err := strconv.Atoi(strings.TrimSpace(count)); err != nil || len(runs) != n+2 || runs[len(runs)-1] != "" {
		c.t.Errorf("%s: %d runs in the log, restarted %q", name, len(runs)-1, count)
	}
	for i, run := range runs[:len(runs)-1] {
		c.said(fmt.Sprintf("run %d of %s", i, name), strings.TrimSuffix(run, "end\n"), lines)
	}
	c.vanish(name)
	c.lives.Add(1)
}

// empty removes everything and holds that nothing is left.
func (c *chaos) empty() {
	out, _ := c.insist("ps", "-a", "--format", "{{.Names}} {{.Status}}")
	if out != "" {
		c.t.Errorf("containers are left:\n%s", out)
	}
	c.insist("system", "prune", "-f")
	for _, dir := range []string{"run/containers", "root/containers", "root/names", "root/snapshots", "run/networks"} {
		entries, _ := os.ReadDir(c.path(dir))
		for _, e := range entries {
			if e.IsDir() && e.Name() != "tmp" && e.Name() != "removed" || e.Type()&os.ModeSymlink != 0 {
				c.t.Errorf("%s/%s is left", dir, e.Name())
			}
		}
	}
}
