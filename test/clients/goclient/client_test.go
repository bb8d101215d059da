// Package goclient holds a day's work with docker's own client for Go. DOCKER_HOST says where
// the engine is, which has the image busybox:latest.
package goclient

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
)

// engine is a client whose calls must succeed within a minute.
type engine struct {
	*client.Client
	t   *testing.T
	ctx context.Context
}

func connect(t *testing.T) engine {
	t.Helper()
	c, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(func() { cancel(); c.Close() })
	return engine{c, t, ctx}
}

// must returns what a call returned, which had to succeed.
func must[T any](t *testing.T) func(T, error) T {
	return func(result T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return result
	}
}

// create makes a container of busybox that goes when the test ends.
func (e engine) create(c container.Config, h container.HostConfig, command ...string) (id string) {
	e.t.Helper()
	c.Image, c.Cmd = "busybox:latest", command
	id = must[client.ContainerCreateResult](e.t)(e.ContainerCreate(e.ctx, client.ContainerCreateOptions{Config: &c, HostConfig: &h})).ID
	e.t.Cleanup(func() {
		if _, err := e.ContainerRemove(context.WithoutCancel(e.ctx), id, client.ContainerRemoveOptions{Force: true, RemoveVolumes: true}); err != nil && !errdefs.IsNotFound(err) {
			e.t.Error(err)
		}
	})
	return id
}

func (e engine) start(id string) {
	e.t.Helper()
	must[client.ContainerStartResult](e.t)(e.ContainerStart(e.ctx, id, client.ContainerStartOptions{}))
}

// run is a container that sleeps.
func (e engine) run() (id string) {
	e.t.Helper()
	id = e.create(container.Config{}, container.HostConfig{}, "sleep", "1000")
	e.start(id)
	return id
}

// code waits for a condition and returns the exit code.
func (e engine) code(id string, condition container.WaitCondition) <-chan int64 {
	waiting, end := e.ContainerWait(e.ctx, id, client.ContainerWaitOptions{Condition: condition}), make(chan int64, 1)
	go func() {
		defer close(end)
		select {
		case r := <-waiting.Result:
			end <- r.StatusCode
		case err := <-waiting.Error:
			e.t.Errorf("waiting until %s: %v", condition, err)
		}
	}()
	return end
}

func TestPing(t *testing.T) {
	e := connect(t)
	ping := must[client.PingResult](t)(e.Ping(e.ctx, client.PingOptions{NegotiateAPIVersion: true}))
	version := must[client.ServerVersionResult](t)(e.ServerVersion(e.ctx, client.ServerVersionOptions{}))
	info := must[client.SystemInfoResult](t)(e.Info(e.ctx, client.InfoOptions{}))
	if ping.OSType != "linux" || ping.APIVersion != version.APIVersion || info.Info.ID == "" || e.ClientVersion() == "" {
		t.Errorf("ping %+v, version %+v, ID %q", ping, version, info.Info.ID)
	}
}

// TestAttach: a client attaches before the start, writes, closes its half and reads both
// streams to their end.
func TestAttach(t *testing.T) {
	e := connect(t)
	id := e.create(container.Config{OpenStdin: true, StdinOnce: true, AttachStdin: true, AttachStdout: true, AttachStderr: true}, container.HostConfig{},
		"sh", "-c", "cat; echo problem >&2; exit 3")
	a := must[client.ContainerAttachResult](t)(e.ContainerAttach(e.ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true, Stderr: true}))
	defer a.Close()
	end := e.code(id, container.WaitConditionNextExit)
	e.start(id)
	input := strings.Repeat("0123456789abcdef", 20000)
	go func() {
		io.WriteString(a.Conn, input)
		a.CloseWrite()
	}()
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, a.Reader); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != input || stderr.String() != "problem\n" {
		t.Errorf("%d bytes came back of %d, and %q", stdout.Len(), len(input), stderr.String())
	}
	if code := <-end; code != 3 {
		t.Errorf("exit code %d", code)
	}
}

func TestTerminal(t *testing.T) {
	e := connect(t)
	id := e.create(container.Config{Tty: true, OpenStdin: true}, container.HostConfig{ConsoleSize: [2]uint{30, 100}}, "sh", "-c", "read word; stty size; echo got $word")
	a := must[client.ContainerAttachResult](t)(e.ContainerAttach(e.ctx, id, client.ContainerAttachOptions{Stream: true, Stdin: true, Stdout: true}))
	defer a.Close()
	if kind, ok := a.MediaType(); !ok || kind != "application/vnd.docker.raw-stream" {
		t.Errorf("media type of a terminal: %q", kind)
	}
	e.start(id)
	must[client.ContainerResizeResult](t)(e.ContainerResize(e.ctx, id, client.ContainerResizeOptions{Height: 41, Width: 142}))
	io.WriteString(a.Conn, "typed\n")
	out := must[[]byte](t)(io.ReadAll(a.Reader))
	if !bytes.Contains(out, []byte("41 142")) || !bytes.Contains(out, []byte("got typed")) {
		t.Errorf("the terminal says %q", out)
	}
}

func TestExec(t *testing.T) {
	e := connect(t)
	id := e.run()
	exec := must[client.ExecCreateResult](t)(e.ExecCreate(e.ctx, id, client.ExecCreateOptions{
		AttachStdin: true, AttachStdout: true, AttachStderr: true, Env: []string{"WORD=word"}, WorkingDir: "/tmp", User: "1000:1000",
		Cmd: []string{"sh", "-c", "cat; echo $WORD $PWD $(id -u) >&2; exit 5"},
	})).ID
	a := must[client.ExecAttachResult](t)(e.ExecAttach(e.ctx, exec, client.ExecAttachOptions{}))
	defer a.Close()
	io.WriteString(a.Conn, "input")
	a.CloseWrite()
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, a.Reader); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "input" || stderr.String() != "word /tmp 1000\n" {
		t.Errorf("%q, %q", stdout.String(), stderr.String())
	}
	if end := must[client.ExecInspectResult](t)(e.ExecInspect(e.ctx, exec, client.ExecInspectOptions{})); end.ExitCode != 5 || end.Running || end.ContainerID != id {
		t.Errorf("inspected: %+v", end)
	}
	if _, err := e.ExecStart(e.ctx, exec, client.ExecStartOptions{Detach: true}); !errdefs.IsConflict(err) {
		t.Errorf("started twice: %v", err)
	}
}

func TestLogs(t *testing.T) {
	e := connect(t)
	id := e.create(container.Config{}, container.HostConfig{}, "sh", "-c", "for i in 1 2 3; do echo out $i; echo err $i >&2; done")
	e.start(id)
	for _, stream := range []client.ContainerLogsOptions{{ShowStdout: true, ShowStderr: true, Follow: true}, {ShowStdout: true, ShowStderr: true, Tail: "all"}} {
		logs := must[client.ContainerLogsResult](t)(e.ContainerLogs(e.ctx, id, stream))
		var stdout, stderr bytes.Buffer
		if _, err := stdcopy.StdCopy(&stdout, &stderr, logs); err != nil {
			t.Fatal(err)
		}
		logs.Close()
		if stdout.String() != "out 1\nout 2\nout 3\n" || stderr.String() != "err 1\nerr 2\nerr 3\n" {
			t.Errorf("%+v: %q, %q", stream, stdout.String(), stderr.String())
		}
	}
}

// TestErrors: the classes of errors are those that docker's client knows.
func TestErrors(t *testing.T) {
	e := connect(t)
	id := e.run()
	_, gone := e.ContainerInspect(e.ctx, "nosuch", client.ContainerInspectOptions{})
	_, running := e.ContainerRemove(e.ctx, id, client.ContainerRemoveOptions{})
	_, image := e.ContainerCreate(e.ctx, client.ContainerCreateOptions{Image: "nosuch:latest"})
	_, invalid := e.ContainerCreate(e.ctx, client.ContainerCreateOptions{Image: "busybox", Name: "not/valid"})
	_, network := e.NetworkInspect(e.ctx, "nosuch", client.NetworkInspectOptions{})
	_, volume := e.VolumeInspect(e.ctx, "nosuch", client.VolumeInspectOptions{})
	_, signal := e.ContainerKill(e.ctx, id, client.ContainerKillOptions{Signal: "NOSUCH"})
	for what, held := range map[string]bool{
		gone.Error(): errdefs.IsNotFound(gone), running.Error(): errdefs.IsConflict(running), image.Error(): errdefs.IsNotFound(image),
		invalid.Error(): errdefs.IsInvalidArgument(invalid), network.Error(): errdefs.IsNotFound(network), volume.Error(): errdefs.IsNotFound(volume),
		signal.Error(): errdefs.IsInvalidArgument(signal),
	} {
		if !held {
			t.Errorf("%s: not of the right class", what)
		}
	}
}

func TestStatsAndTop(t *testing.T) {
	e := connect(t)
	id := e.run()
	stats := must[client.ContainerStatsResult](t)(e.ContainerStats(e.ctx, id, client.ContainerStatsOptions{Stream: true}))
	defer stats.Body.Close()
	for in, n := json.NewDecoder(stats.Body), 0; n < 2; n++ {
		var s container.StatsResponse
		if err := in.Decode(&s); err != nil || s.ID != id || s.Read.IsZero() || s.PidsStats.Current == 0 {
			t.Errorf("stats: %+v, %v", s, err)
		}
	}
	top := must[client.ContainerTopResult](t)(e.ContainerTop(e.ctx, id, client.ContainerTopOptions{Arguments: []string{"-o", "pid,args"}}))
	if len(top.Titles) != 2 || len(top.Processes) != 1 || len(top.Processes[0]) != 2 || top.Processes[0][1] != "sleep 1000" {
		t.Errorf("top: %+v", top)
	}
}
