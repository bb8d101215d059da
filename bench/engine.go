package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// apiServer is a server of Docker's API that is measured, in a network namespace of its own.
type apiServer struct {
	name, socket string
	args         []string
	containers   int // there are in the figures that list them
	client       *http.Client
	stop         func()
}

// call sends a request and reads the whole answer.
func (e *apiServer) call(ctx context.Context, method, path string, body, answer any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	var in io.Reader
	if body != nil {
		in = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://docker/v1.40"+path, in)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= http.StatusBadRequest {
		err = fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, tail(b))
	}
	if err != nil || answer == nil {
		return err
	}
	return json.Unmarshal(b, answer)
}

type made struct{ ID string }

func (e *apiServer) create(ctx context.Context, command ...string) (id string, err error) {
	// Limits that podman may set without CAP_SYS_RESOURCE, the same for all.
	limits := []any{map[string]any{"Name": "nofile", "Soft": 1024, "Hard": 1024}, map[string]any{"Name": "nproc", "Soft": 1024, "Hard": 1024}}
	host := map[string]any{"NetworkMode": "none", "Ulimits": limits}
	var m made
	err = e.call(ctx, "POST", "/containers/create", map[string]any{"Image": "busybox", "Cmd": command, "HostConfig": host}, &m)
	return m.ID, err
}

// life is a container from its making to its removal.
func (e *apiServer) life(ctx context.Context) error {
	id, err := e.create(ctx, "true")
	if err == nil {
		err = e.call(ctx, "POST", "/containers/"+id+"/start", nil, nil)
	}
	if err == nil {
		err = e.call(ctx, "POST", "/containers/"+id+"/wait", nil, nil)
	}
	if err == nil {
		err = e.call(ctx, "DELETE", "/containers/"+id, nil, nil)
	}
	return err
}

// exec executes true in a container, to its exit code.
func (e *apiServer) exec(ctx context.Context, id string) error {
	var m made
	err := e.call(ctx, "POST", "/containers/"+id+"/exec", map[string]any{"Cmd": []string{"true"}, "AttachStdout": true}, &m)
	if err == nil {
		err = e.call(ctx, "POST", "/exec/"+m.ID+"/start", map[string]any{}, nil)
	}
	var end struct{ ExitCode int }
	if err == nil {
		err = e.call(ctx, "GET", "/exec/"+m.ID+"/json", nil, &end)
	}
	if err == nil && end.ExitCode != 0 {
		err = fmt.Errorf("exit code %d", end.ExitCode)
	}
	return err
}

// serve starts the engine and waits until it answers.
func (e *apiServer) serve(ctx context.Context, b *bench) (err error) {
	e.client = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", e.socket)
	}}}
	ready := func() error { return e.call(ctx, "GET", "/_ping", nil, nil) }
	args := append([]string{"unshare", "--net", "sh", "-c", `ip link set lo up && exec "$0" "$@"`}, e.args...)
	e.stop, err = b.daemon(ctx, ready, args...)
	return err
}

// proportional is the memory of a server and its children in MiB, what they share with
// others divided by their number (PSS, proc(5)).
func (e *apiServer) proportional() (mib float64, err error) {
	c, err := net.Dial("unix", e.socket)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var peer *unix.Ucred
	if e2 := raw.Control(func(fd uintptr) { peer, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); e2 != nil || err != nil {
		return 0, fmt.Errorf("finding the server: %w", err)
	}
	for pids := []int{int(peer.Pid)}; len(pids) > 0; pids = pids[1:] {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pids[0]))
		if err != nil {
			return 0, err
		}
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); f[0] == "Pss:" {
				kib, _ := strconv.Atoi(f[1])
				mib += float64(kib) / 1024
			}
		}
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[0]))
		for _, file := range threads {
			children, _ := os.ReadFile(file)
			for _, text := range strings.Fields(string(children)) {
				pid, _ := strconv.Atoi(text)
				pids = append(pids, pid)
			}
		}
	}
	return mib, nil
}

// apiServers are teu, Docker's daemon and podman's service, each with busybox.
func (b *bench) apiServers(ctx context.Context) (list []*apiServer, err error) {
	tar, err := b.busyboxTar()
	if err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(b.dir, name) }
	list = []*apiServer{
		{name: "teu", containers: 500, socket: at("teu.sock"), args: []string{b.teu, "serve", "engine", "--host", "unix://" + at("teu.sock")}},
		{name: "dockerd", containers: 100, socket: at("docker.sock"), args: []string{"dockerd", "--host", "unix://" + at("docker.sock"), "--data-root", at("docker"),
			"--exec-root", at("docker-run"), "--pidfile", at("docker.pid"), "--storage-driver", "overlay2"}},
		{name: "podman system service", containers: 100, socket: at("podman.sock"), args: b.podman("system", "service", "--time", "0", "unix://"+at("podman.sock"))},
	}
	for _, e := range list {
		if err := e.serve(ctx, b); err != nil {
			return list, err
		}
		if err := b.must(ctx, "docker", "-H", "unix://"+e.socket, "import", tar, "busybox"); err != nil {
			return list, err
		}
	}
	return list, nil
}

// spread times f for every engine once per round, in milliseconds.
func spread(rounds int, list []*apiServer, f func(*apiServer) error) []result {
	results := make([]result, len(list))
	for round := range rounds + 1 {
		for i, e := range list {
			r := &results[i]
			if r.tool = e.name; r.failed != "" {
				continue
			}
			start := time.Now()
			err := f(e)
			took := time.Since(start)
			switch {
			case err != nil:
				r.failed, r.values = "failed: "+err.Error(), nil
			case round > 0: // the first does not count
				r.values = append(r.values, float64(took.Microseconds())/1000)
			}
		}
	}
	return results
}

// measureEngine takes the times of Docker's API and of its clients.
func measureEngine(ctx context.Context, b *bench) error {
	list, err := b.apiServers(ctx)
	defer func() {
		for _, e := range list {
			if e.stop != nil {
				e.stop()
			}
		}
		b.must(ctx, b.teu, "system", "reset", "--force")
	}()
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, *bench, []*apiServer) error{engineRest, engineCalls, engineClients, engineMany} {
		if err := step(ctx, b, list); err != nil {
			return err
		}
	}
	return nil
}

func engineRest(ctx context.Context, b *bench, list []*apiServer) error {
	f := figure{title: "Engine API: memory of the server at rest", unit: "MiB", note: "PSS of the server and its children ten seconds after an import; dockerd's has containerd in it."}
	select {
	case <-time.After(10 * time.Second):
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, e := range list {
		mib, err := e.proportional()
		if err != nil {
			return err
		}
		f.results = append(f.results, result{tool: e.name, values: []float64{mib}})
	}
	b.report.add(f)
	return nil
}

func engineCalls(ctx context.Context, b *bench, list []*apiServer) error {
	b.report.add(figure{title: "Engine API: `GET /_ping`", unit: "ms", results: spread(b.rounds, list, func(e *apiServer) error { return e.call(ctx, "GET", "/_ping", nil, nil) })})
	b.report.add(figure{title: "Engine API: create, start, wait, remove", unit: "ms", note: "Without a network.",
		results: spread(b.rounds, list, func(e *apiServer) error { return e.life(ctx) })})
	running := map[string]string{}
	for _, e := range list {
		id, err := e.create(ctx, "sh", "-c", "while :; do sleep 1000 & wait; done")
		if err == nil {
			err = e.call(ctx, "POST", "/containers/"+id+"/start", nil, nil)
		}
		if err != nil {
			return err
		}
		running[e.name] = id
	}
	b.report.add(figure{title: "Engine API: exec", unit: "ms", note: "Create, start, read to the end, inspect.",
		results: spread(b.rounds, list, func(e *apiServer) error { return e.exec(ctx, running[e.name]) })})
	for _, e := range list {
		if err := e.call(ctx, "DELETE", "/containers/"+running[e.name]+"?force=1", nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// six is a stack of six services.
const six = `x-all: &all {image: busybox, ulimits: {nofile: 1024, nproc: 1024}}
services:
  db: {<<: *all, command: [sleep, "1000"], healthcheck: {test: [CMD, "true"], interval: 1s}}
  cache: {<<: *all, command: [sleep, "1000"]}
  queue: {<<: *all, command: [sleep, "1000"]}
  api: {<<: *all, command: [sleep, "1000"], depends_on: [db, cache]}
  worker: {<<: *all, command: [sleep, "1000"], depends_on: [queue]}
  web: {<<: *all, command: [sleep, "1000"], depends_on: [api]}
`

func engineClients(ctx context.Context, b *bench, list []*apiServer) error {
	for _, network := range []string{"none", "bridge"} {
		var all []contender
		for _, e := range list {
			all = append(all, contender{name: e.name, args: []string{"docker", "-H", "unix://" + e.socket, "run", "--rm", "--ulimit", "nofile=1024", "--ulimit", "nproc=1024", "--network", network, "busybox", "true"}})
		}
		b.report.add(figure{title: "Engine API: `docker run --rm --network " + network + " busybox true`", unit: "ms", results: b.race(ctx, 1, b.rounds, all)})
	}
	compose, file := filepath.Join(b.dir, "docker-compose"), filepath.Join(b.dir, "six/compose.yaml")
	build := exec.CommandContext(ctx, "go", "build", "-o", compose, "github.com/docker/compose/v5/cmd")
	build.Dir = "test/clients"
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("building compose: %w: %s", err, tail(out))
	}
	if err := writeFile(file, six); err != nil {
		return err
	}
	var all []contender
	for _, e := range list {
		script := `"$0" -f "$1" up -d --pull never && "$0" -f "$1" down -t 0`
		all = append(all, contender{name: e.name, args: []string{"env", "DOCKER_HOST=unix://" + e.socket, "sh", "-c", script, compose, file}})
	}
	b.report.add(figure{title: "Engine API: docker compose up and down of six services", unit: "ms", results: b.race(ctx, 1, max(1, b.rounds/4), all)})
	return nil
}

// engineMany lists many containers, then starts the servers again that have them.
func engineMany(ctx context.Context, b *bench, list []*apiServer) error {
	for _, e := range list {
		for range e.containers {
			if _, err := e.create(ctx, "true"); err != nil {
				return err
			}
		}
	}
	const note = "teu has 500 containers, the others 100, whose making takes them long."
	b.report.add(figure{title: "Engine API: `GET /containers/json?all=1`", unit: "ms", note: note, results: spread(b.rounds, list, func(e *apiServer) error {
		var found []made
		err := e.call(ctx, "GET", "/containers/json?all=1", nil, &found)
		if err == nil && len(found) < e.containers {
			err = fmt.Errorf("%d containers of %d are listed", len(found), e.containers)
		}
		return err
	})})
	b.report.add(figure{title: "Engine API: start of the server to its first answer", unit: "ms", note: note, results: b.starts(ctx, list)})
	return nil
}

// starts ends the servers and starts them again, in rounds.
func (b *bench) starts(ctx context.Context, list []*apiServer) []result {
	var results []result
	for _, e := range slices.Clone(list) {
		r := result{tool: e.name}
		for range max(1, b.rounds/4) {
			e.stop()
			os.Remove(e.socket)
			start := time.Now()
			if err := e.serve(ctx, b); err != nil {
				e.stop = nil
				r.failed, r.values = "failed: "+err.Error(), nil
				break
			}
			r.values = append(r.values, float64(time.Since(start).Microseconds())/1000)
		}
		results = append(results, r)
	}
	return results
}
