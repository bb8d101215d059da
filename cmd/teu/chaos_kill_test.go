package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// killer kills processes until it is over: a kind is chosen, then one of its kind.
func (c *chaos) killer() {
	for idle := 0; !c.over(); {
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		kinds := c.processes()
		if len(kinds) == 0 {
			if idle++; idle > 2000 {
				c.t.Error("there is nobody to kill")
			}
			continue
		}
		idle = 0
		names := slices.Sorted(maps.Keys(kinds))
		kind := names[rand.IntN(len(names))]
		pid := kinds[kind][rand.IntN(len(kinds[kind]))]
		keeper := 0
		if kind == "holder" {
			keeper = parentOf(pid)
		}
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			c.killed[kind]++
			c.kills.Add(1)
		}
		if keeper > 0 {
			c.awaitHolder(pid, keeper)
		}
	}
}

// awaitHolder returns when a keeper has another holder, or its container has ended: a
// keeper and its holder that are killed at one moment take with them what only they knew.
func (c *chaos) awaitHolder(old, keeper int) {
	for range 2000 {
		if commandOf(keeper) == nil {
			return
		}
		for _, pid := range childrenOf(keeper) {
			if pid != old && isHolder(commandOf(pid)) {
				return
			}
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Errorf("keeper %d does without a holder", keeper)
}

// processes are those of the store by kind. The containers' own are none of them.
func (c *chaos) processes() map[string][]int {
	found := map[string][]int{}
	all, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range all {
		pid, _ := strconv.Atoi(filepath.Base(p))
		if pid == os.Getpid() {
			continue
		}
		args := commandOf(pid)
		environ, _ := os.ReadFile(filepath.Join(p, "environ"))
		if kind := c.kindOf(pid, args, environ); kind != "" {
			found[kind] = append(found[kind], pid)
		}
	}
	return found
}

func (c *chaos) kindOf(pid int, args []string, environ []byte) string {
	mine := strings.Contains(strings.Join(args, " "), c.dir)
	switch {
	case len(args) < 2:
	case isHolder(args):
		if parent := commandOf(parentOf(pid)); slices.Contains(parent, "teu-keeper") && strings.Contains(strings.Join(parent, " "), c.dir) {
			return "holder"
		}
	case args[0] == "teu-keeper" && mine:
		if slices.Contains(commandOf(parentOf(pid)), "teu-keeper") {
			return "" // becomes the container's first process
		}
		return "keeper"
	case args[0] == "/bin/sh" && mine:
		return "probe"
	case slices.Contains(args, "finish"), slices.Contains(args, "repair"):
		if mine {
			return "finish"
		}
	case bytes.Contains(environ, []byte("STORE="+c.dir)):
		if slices.Contains(args, "engine") {
			return "daemon"
		}
		return "command"
	}
	return ""
}

func isHolder(args []string) bool { return slices.Equal(args, []string{"teu-keeper", "hold"}) }

func commandOf(pid int) []string {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}

func parentOf(pid int) (parent int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if i := bytes.LastIndexByte(b, ')'); i > 0 {
		var state string
		fmt.Sscan(string(b[i+1:]), &state, &parent)
	}
	return parent
}

func childrenOf(pid int) (children []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, t := range tasks {
		b, _ := os.ReadFile(t)
		for field := range strings.FieldsSeq(string(b)) {
			if n, err := strconv.Atoi(field); err == nil {
				children = append(children, n)
			}
		}
	}
	return children
}

// startDaemon starts the daemon, and another whenever it is killed.
func (c *chaos) startDaemon() {
	cmd := c.command("serve", "engine", "--host", "unix://"+c.path("engine.sock"))
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		c.t.Error(err)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.daemon = cmd
	go func() {
		err := cmd.Wait()
		c.mu.Lock()
		gone := c.daemon == nil
		c.mu.Unlock()
		switch {
		case gone:
		case !cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled():
			c.t.Errorf("the daemon ended: %v\n%s", err, &said)
		default:
			c.startDaemon()
		}
	}()
}

func (c *chaos) stopDaemon() {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := c.daemon
	c.daemon = nil
	if cmd != nil {
		cmd.Process.Signal(syscall.SIGTERM)
	}
}

// ask asks the daemon until one lives to answer. The body is a value or nil.
func (c *chaos) ask(method, path string, body any) (status int, answer []byte) {
	for range 2000 {
		if status, answer = c.askOnce(method, path, body); status != 0 || c.t.Failed() {
			return status, answer
		}
		time.Sleep(5 * time.Millisecond)
	}
	c.t.Errorf("%s %s: nobody answers", method, path)
	return 0, nil
}

// askOnce returns 0 if no daemon answers, or it is killed before it does.
func (c *chaos) askOnce(method, path string, body any) (status int, answer []byte) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", c.path("engine.sock"))
	}}}
	b, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(c.t.Context(), method, "http://engine/v1.47"+path, bytes.NewReader(b))
	if err != nil {
		c.t.Error(err)
		return 0, nil
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err == nil {
		answer, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		return resp.StatusCode, answer
	}
	var refused *net.OpError
	if !errors.As(err, &refused) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		c.t.Errorf("%s %s: %v", method, path, err)
	}
	return 0, nil
}

// served is a container made and watched through the daemon.
func (c *chaos) served(name string) {
	lines, code := 100+rand.IntN(700), 1+rand.IntN(100)
	type object = map[string]any
	status, answer := c.ask("POST", "/containers/create?name="+name, object{
		"Image": "busybox", "Cmd": []string{"sh", "-c", script(lines, code)}, "HostConfig": object{"NetworkMode": "none"}})
	if status != 201 && status != 409 { // of a daemon that was killed before it told
		c.t.Errorf("create %s: %d %s", name, status, answer)
		return
	}
	for n := 0; c.status(name) == "created" && !c.t.Failed(); n++ {
		status, answer = c.askOnce("POST", "/containers/"+name+"/start", nil)
		if tolerable := status == 0 || status == 204 || status == 304 || bytes.Contains(answer, []byte("keeper")); !tolerable || n == 1000 {
			c.t.Errorf("start %s: %d %s", name, status, answer)
			return
		}
	}
	var end struct{ StatusCode int }
	status, answer = c.ask("POST", "/containers/"+name+"/wait", nil)
	if err := json.Unmarshal(answer, &end); status != 200 || err != nil || end.StatusCode != code {
		c.t.Errorf("wait for %s: %d %s, want %d", name, status, answer, code)
	}
	c.ends(name, lines, code)
}
