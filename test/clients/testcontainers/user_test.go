// Package testcontainers holds tests as users of testcontainers-go write them. They know
// nothing of teu: DOCKER_HOST says where the engine is.
package testcontainers

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// web serves the text of a file on port 80.
func web(text string) testcontainers.ContainerRequest {
	return testcontainers.ContainerRequest{
		Image:        "busybox:latest",
		Cmd:          []string{"sh", "-c", "echo ready; exec httpd -f -p 80 -h /www"},
		ExposedPorts: []string{"80/tcp"},
		Files:        []testcontainers.ContainerFile{{Reader: strings.NewReader(text), ContainerFilePath: "/www/index.html", FileMode: 0o644}},
		WaitingFor: wait.ForAll(wait.ForLog("ready"), wait.ForListeningPort("80/tcp"), wait.ForHTTP("/").WithPort("80/tcp"),
			wait.ForExec([]string{"test", "-f", "/www/index.html"})).WithDeadline(time.Minute),
	}
}

func start(t *testing.T, r testcontainers.ContainerRequest) testcontainers.Container {
	t.Helper()
	c, err := testcontainers.GenericContainer(t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: r, Started: true})
	end := []testcontainers.TerminateOption{testcontainers.StopTimeout(0)}
	for _, m := range r.Mounts {
		end = append(end, testcontainers.RemoveVolumes(m.Source.Source()))
	}
	testcontainers.CleanupContainer(t, c, end...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// output is what a command in a container says.
func output(t *testing.T, c testcontainers.Container, command ...string) string {
	t.Helper()
	code, out, err := c.Exec(t.Context(), command, exec.Multiplexed())
	if err != nil || code != 0 {
		t.Fatalf("%q: code %d, %v", command, code, err)
	}
	text, err := io.ReadAll(out)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func TestContainer(t *testing.T) {
	c := start(t, web("hello"))
	endpoint, err := c.PortEndpoint(t.Context(), "80/tcp", "http")
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.Get(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if text, err := io.ReadAll(resp.Body); string(text) != "hello" || err != nil {
		t.Errorf("%s says %q, %v", endpoint, text, err)
	}
	if got := output(t, c, "cat", "/www/index.html"); got != "hello" {
		t.Errorf("the file that was copied says %q", got)
	}
	if code, _, err := c.Exec(t.Context(), []string{"sh", "-c", "exit 7"}); code != 7 || err != nil {
		t.Errorf("exit code %d, %v", code, err)
	}
	if err := c.CopyToContainer(t.Context(), []byte("copied"), "/tmp/deep/file", 0o640); err != nil {
		t.Fatal(err)
	}
	if got := output(t, c, "stat", "-c", "%a", "/tmp/deep/file"); got != "640" {
		t.Errorf("mode of the copied file: %s", got)
	}
	back, err := c.CopyFileFromContainer(t.Context(), "/tmp/deep/file")
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if text, err := io.ReadAll(back); string(text) != "copied" || err != nil {
		t.Errorf("copied back: %q, %v", text, err)
	}
	logs, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if text, err := io.ReadAll(logs); !bytes.Contains(text, []byte("ready")) || err != nil {
		t.Errorf("logs: %q, %v", text, err)
	}
	stop := 0 * time.Second
	if err := c.Stop(t.Context(), &stop); err != nil {
		t.Fatal(err)
	}
	if state, err := c.State(t.Context()); err != nil || state.Running {
		t.Errorf("after stop: %+v, %v", state, err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if ip, err := c.ContainerIP(t.Context()); err != nil || ip == "" {
		t.Errorf("address %q, %v", ip, err)
	}
}

func TestNetwork(t *testing.T) {
	n, err := network.New(t.Context())
	testcontainers.CleanupNetwork(t, n)
	if err != nil {
		t.Fatal(err)
	}
	server := web("from the network")
	server.Networks, server.NetworkAliases = []string{n.Name}, map[string][]string{n.Name: {"server"}}
	start(t, server)
	client := start(t, testcontainers.ContainerRequest{
		Image: "busybox:latest", Cmd: []string{"sleep", "1000"}, Networks: []string{n.Name},
		HostConfigModifier: func(c *container.HostConfig) { c.ExtraHosts = []string{"host.docker.internal:host-gateway"} },
	})
	if got := output(t, client, "wget", "-qO-", "http://server/"); got != "from the network" {
		t.Errorf("by alias: %q", got)
	}
	if got := output(t, client, "grep", "-c", "host.docker.internal", "/etc/hosts"); got != "1" {
		t.Errorf("the host is named %s times", got)
	}
}

func TestVolumeAndHealth(t *testing.T) {
	c := start(t, testcontainers.ContainerRequest{
		Image: "busybox:latest", Cmd: []string{"sh", "-c", "sleep 0.3; touch /data/healthy; exec sleep 1000"},
		Mounts: testcontainers.Mounts(testcontainers.VolumeMount(fmt.Sprintf("tc-%d", os.Getpid()), "/data")),
		ConfigModifier: func(c *container.Config) {
			c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "test", "-f", "/data/healthy"}, Interval: 100 * time.Millisecond, Retries: 100}
		},
		HostConfigModifier: func(c *container.HostConfig) {
			c.Mounts = append(c.Mounts, mount.Mount{Type: mount.TypeTmpfs, Target: "/scratch"})
		},
		WaitingFor: wait.ForHealthCheck().WithPollInterval(50 * time.Millisecond),
	})
	if got := output(t, c, "stat", "-f", "-c", "%T", "/scratch"); got != "tmpfs" {
		t.Errorf("/scratch is %q", got)
	}
}

func TestBuild(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/Dockerfile", []byte("FROM busybox:latest\nARG WORD\nRUN echo built with $WORD >/built\nCMD [\"cat\", \"/built\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	word := "care"
	c := start(t, testcontainers.ContainerRequest{
		FromDockerfile: testcontainers.FromDockerfile{Context: dir, BuildArgs: map[string]*string{"WORD": &word}},
		WaitingFor:     wait.ForExit(),
	})
	logs, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	if text, err := io.ReadAll(logs); !bytes.Contains(text, []byte("built with care")) || err != nil {
		t.Errorf("it says %q, %v", text, err)
	}
}

// said collects what a container writes.
type said chan string

func (s said) Accept(l testcontainers.Log) { s <- l.LogType + ": " + string(l.Content) }

func TestLogConsumer(t *testing.T) {
	lines := make(said, 10)
	start(t, testcontainers.ContainerRequest{
		Image: "busybox:latest", Cmd: []string{"sh", "-c", "echo out; sleep 0.2; echo err >&2; exec sleep 1000"},
		LogConsumerCfg: &testcontainers.LogConsumerConfig{Consumers: []testcontainers.LogConsumer{lines}},
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, want := range []string{"STDOUT: out\n", "STDERR: err\n"} {
		select {
		case got := <-lines:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-ctx.Done():
			t.Fatalf("%q never came", want)
		}
	}
}

// TestLeave leaves everything behind and ends: the reaper's work.
func TestLeave(t *testing.T) {
	n, err := network.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	r := web("left")
	r.Networks, r.Name = []string{n.Name}, "left-behind"
	r.Mounts = testcontainers.Mounts(testcontainers.VolumeMount("left-volume", "/data"))
	if _, err := testcontainers.GenericContainer(t.Context(), testcontainers.GenericContainerRequest{ContainerRequest: r, Started: true}); err != nil {
		t.Fatal(err)
	}
}
