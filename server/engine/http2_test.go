package engine_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// testBuildxRemote: clients speak HTTP/2 from the first byte, as to a buildkitd.
func testBuildxRemote(t *testing.T, w *world) {
	w.write(map[string]string{"remote/Dockerfile": "FROM busybox\nCOPY f /f\nRUN --mount=type=cache,target=/c cat /f >/g; echo from the step\n", "remote/f": "from the client\n"})
	socket := "unix://" + w.socket()
	buildctl, err := filepath.Abs("../../.cache/peers/buildctl")
	if err != nil {
		t.Fatal(err)
	}
	says(t, w.run(buildctl, "--addr", socket, "debug", "workers"), "teu", "linux/")
	_, progress, code := w.try(buildctl, "--addr", socket, "build", "--frontend", "dockerfile.v0", "--local", "context=remote", "--local", "dockerfile=remote",
		"--output", "type=image,name=remote:1")
	if says(t, progress, "from the step"); code != 0 {
		t.Errorf("buildctl build: exit code %d", code)
	}
	if got := w.run("docker", "run", "--rm", "--network", "none", "remote:1", "cat", "/g"); got != "from the client" {
		t.Errorf("the image that buildctl built has %q", got)
	}

	w.buildx("create", "--name", "far", "--driver", "remote", socket)
	defer w.buildx("rm", "far")
	says(t, w.buildx("inspect", "far"), "Driver:        remote", "Status:           running")
	says(t, w.buildx("build", "--builder", "far", "--progress", "plain", "-o", "type=local,dest=out", "remote"), "CACHED")
	if got := w.run("cat", "out/g"); got != "from the client" {
		t.Errorf("what buildx wrote has %q", got)
	}
	says(t, w.buildx("du", "--builder", "far"), "Total:")
	says(t, w.buildx("du", "--builder", "far", "--verbose"), "exec.cachemount", "source.local")
	says(t, w.buildx("prune", "--builder", "far", "--all", "--force"), "Total:")
	if text := w.buildx("du", "--builder", "far", "--verbose"); strings.Contains(text, "exec.cachemount") {
		t.Errorf("left by a prune:\n%s", text)
	}
	says(t, w.buildx("history", "ls", "--builder", "far"), "remote", "Completed")
}

// TestPlainHTTP2: the API itself may be asked by HTTP/2, where no request can take its connection over.
func TestPlainHTTP2(t *testing.T) {
	w := newWorld(t)
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	client := http.Client{Timeout: limit, Transport: &http.Transport{Protocols: &protocols, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.socket())
	}}}
	defer client.CloseIdleConnections()
	resp, err := client.Get("http://docker/v1.56/images/json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list []struct{ RepoTags []string }
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil || resp.ProtoMajor != 2 || len(list) != 1 {
		t.Errorf("%s: %v, %v", resp.Proto, list, err)
	}
	w.run("docker", "run", "-d", "--name", "on", "--network", "none", "busybox", "sleep", "1000")
	resp, err = client.Post("http://docker/v1.56/containers/on/attach?stream=1&stdout=1", "text/plain", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(b), "cannot be taken over") {
		t.Errorf("attach: %d %s, %v", resp.StatusCode, b, err)
	}
	w.run("docker", "rm", "-f", "on")
}
