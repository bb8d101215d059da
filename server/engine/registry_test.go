package engine_test

import (
	"io"
	"net"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/net/websocket"
)

// TestRegistry pushes to a registry with a password and pulls again.
func TestRegistry(t *testing.T) {
	w := newWorld(t)
	m := w.startRegistry()
	name := m + "/some/image:tag"
	w.docker("tag", "busybox", name)
	w.fails(1, "(?i)denied|unauthorized|log in", "push", name)
	if _, stderr, code := w.tryIn("wrong", "docker", "login", "-u", "user", "--password-stdin", m); code == 0 {
		t.Errorf("logged in with a wrong password: %s", stderr)
	}
	if out, stderr, code := w.tryIn("secret", "docker", "login", "-u", "user", "--password-stdin", m); code != 0 || !strings.Contains(out, "Login Succeeded") {
		t.Fatalf("login: %s%s", out, stderr)
	}
	w.want(`tag: digest: sha256:[0-9a-f]{64} size: \d+`, "push", name)
	w.want("Layer already exists|tag: digest", "push", name)
	w.docker("rmi", name)
	w.want("Status: Downloaded newer image for "+regexp.QuoteMeta(name), "pull", name)
	w.want("Status: Image is up to date", "pull", name)
	w.fails(1, "not found|manifest unknown", "pull", m+"/some/image:nosuch")
	w.want("^pulled$", "run", "--rm", "--pull", "always", name, "echo", "pulled")
	resp := raw(t, w.socket(), "GET /distribution/"+name+"/json\nX-Registry-Auth: eyJ1c2VybmFtZSI6InVzZXIiLCJwYXNzd29yZCI6InNlY3JldCJ9")
	if !strings.Contains(resp, `"Platforms":[{`) || !strings.Contains(resp, `"digest":"sha256:`) {
		t.Errorf("distribution: %s", resp)
	}
	if resp := raw(t, w.socket(), "GET /distribution/"+name+"/json"); strings.HasPrefix(resp, "HTTP/1.1 200") {
		t.Errorf("distribution without a password: %s", resp)
	}
}

// TestWebSocket attaches as a browser would.
func TestWebSocket(t *testing.T) {
	w := newWorld(t)
	w.docker("run", "-di", "--name", "ws", "busybox", "cat")
	conn, err := net.Dial("unix", w.socket())
	if err != nil {
		t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws://docker/v1.41/containers/ws/attach/ws?stream=1&stdin=1&stdout=1", "http://docker")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ws.Write([]byte("over the web")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("over the web"))
	if _, err := io.ReadFull(ws, got); err != nil || string(got) != "over the web" {
		t.Errorf("%q, %v", got, err)
	}
	ws.Close()
	w.docker("rm", "-f", "ws")
}

// TestDialStdio: docker's clients come over ssh by executing dial-stdio at the other end.
func TestDialStdio(t *testing.T) {
	w := newWorld(t)
	// A stand-in for ssh that executes what it is told here.
	w.run("sh", "-c", `mkdir -p ssh; printf '#!/bin/sh\nwhile [ "$1" != docker ]; do shift; done; shift; unset DOCKER_HOST; exec %s "$@"\n' `+w.teu+` >ssh/ssh; chmod 755 ssh/ssh`)
	if got := w.run("sh", "-c", `PATH="$HOME/ssh:$PATH" DOCKER_HOST=ssh://somewhere docker run --rm busybox echo over ssh`); got != "over ssh" {
		t.Errorf("over ssh: %q", got)
	}
	cmd := exec.Command(w.teu, "system", "dial-stdio")
	cmd.Env, cmd.Stdin = w.env, strings.NewReader("GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	out, err := cmd.Output()
	if err != nil || !strings.HasSuffix(string(out), "OK") {
		t.Errorf("dial-stdio: %q, %v", out, err)
	}
}
