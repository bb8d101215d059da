package engine_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

func testFiles(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "files", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "files")
	file := filepath.Join(w.dir, "hello")
	if err := os.WriteFile(file, []byte("hello\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	w.docker("cp", file, "files:/tmp/")
	w.want("^hello$", "exec", "files", "cat", "/tmp/hello")
	w.docker("cp", "files:/tmp/hello", w.dir+"/back")
	if b, err := os.ReadFile(w.dir + "/back"); string(b) != "hello\n" || err != nil {
		t.Errorf("it came back as %q, %v", b, err)
	}
	w.fails(1, "Could not find the file|No such container:path", "cp", "files:/nosuch", w.dir)
	w.want("A /tmp/hello", "diff", "files")
	if names := w.run("sh", "-c", "docker export files | tar t"); !strings.Contains(names, "tmp/hello") {
		t.Errorf("exported: %s", names)
	}
	id := w.docker("commit", "-c", "CMD [\"cat\", \"/tmp/hello\"]", "-m", "with a file", "files", "committed:1")
	w.want(regexp.QuoteMeta(id), "images", "-q", "--no-trunc", "committed:1")
	w.want("^hello$", "run", "--rm", "committed:1")
	w.docker("rmi", "committed:1")
}

func testImages(t *testing.T, w *world) {
	w.docker("tag", "busybox", "example/of:a-tag")
	w.want("example/of", "images", "--format", "{{.Repository}}", "--filter", "reference=example/*")
	w.docker("save", "-o", w.dir+"/saved.tar", "example/of:a-tag")
	w.want("Untagged: example/of:a-tag", "rmi", "example/of:a-tag")
	w.want("Loaded image: example/of:a-tag", "load", "-i", w.dir+"/saved.tar")
	w.want("Imported from -", "history", "--no-trunc", "example/of:a-tag")
	w.want(`^linux `, "image", "inspect", "-f", "{{.Os}} {{.Architecture}}", "example/of:a-tag")
	w.fails(1, "No such image: nosuch", "image", "inspect", "nosuch")
	if skopeo, err := exec.LookPath("skopeo"); err == nil { // Debian 12's asks for version 1.22
		daemon := []string{"copy", "--quiet", "--insecure-policy", "--src-daemon-host", "unix://" + w.socket(), "--dest-daemon-host", "unix://" + w.socket()}
		out, err := exec.Command(skopeo, append(daemon, "docker-daemon:example/of:a-tag", "docker-daemon:example/of:copied")...).CombinedOutput()
		if err != nil {
			t.Errorf("skopeo: %v: %s", err, out)
		}
		w.want("Untagged: example/of:copied", "rmi", "example/of:copied")
	}
	w.docker("rmi", "example/of:a-tag")
	w.fails(1, "No such image", "rmi", "example/of:a-tag")
	w.want("Total reclaimed space", "image", "prune", "-f")
	w.want("(?m)^image [0-9]+$", "events", "--since", "1m", "--until", "-1s", "--filter", "event=prune", "--format", "{{.Type}} {{.Actor.Attributes.reclaimed}}") // the client cuts times to seconds
}

func testBuild(t *testing.T, w *world) {
	dir := w.dir + "/context"
	write := func(name, text string) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("file", "content\n")
	write("Dockerfile", "FROM busybox\nARG WHO=nobody\nCOPY file /\nRUN echo built for $WHO >/who && echo said && echo hosts: $(grep -c 127.1.1 /etc/hosts)\nCMD cat /who /file\n")
	out := w.docker("build", "--network", "none", "--build-arg", "WHO=me", "-t", "built", "--label", "l=1", "--add-host", "one:127.1.1.1", "--add-host", "two:127.1.1.2", dir)
	for _, text := range []string{"Step 1/3 : FROM busybox\n", "Step 2/3 : COPY file /", "said", "hosts: 2", "Successfully built", "Successfully tagged built:latest"} {
		if !strings.Contains(out, text) {
			t.Errorf("%q is not in the output of the build:\n%s", text, out)
		}
	}
	w.want("^built for me\ncontent$", "run", "--rm", "built")
	if out := w.docker("build", "--network", "none", "--build-arg", "WHO=me", "-t", "built", "--add-host", "one:127.1.1.1", "--add-host", "two:127.1.1.2", dir); !strings.Contains(out, "Using cache") {
		t.Errorf("nothing was cached:\n%s", out)
	}
	w.want("^sha256:[0-9a-f]{64}$", "build", "-q", "--network", "none", dir)
	write("Dockerfile", "FROM busybox\nRUN ls /sys/class/net\n")
	for _, network := range []string{"host", "bridge"} { // asking for the host's is allowing it
		w.docker("build", "--network", network, dir)
	}
	w.fails(1, `Unsupported isolation: "hyperv"`, "build", "--isolation", "hyperv", dir)
	w.fails(1, "security options on build", "build", "--security-opt", "no-new-privileges", dir)
	write("Dockerfile", "FROM busybox\nRUN exit 3\n")
	w.fails(3, "exit code: 3", "build", "--network", "none", dir)
	write("Dockerfile", "FROM busybox\nNOSUCH x\n")
	w.fails(1, "(?i)unknown instruction: NOSUCH", "build", dir)
	write("Dockerfile", "FROM busybox\nCOPY nofile /\n")
	w.fails(1, `"/nofile": not found`, "build", dir)
	write("Dockerfile", "FROM busybox\nRUN dd if=/dev/zero of=/dev/null bs=100M count=1\n")
	w.fails(137, "exit code: 137", "build", "--network", "none", "-m", "32m", "--memory-swap", "32m", dir)
	w.docker("build", "--network", "none", "-m", "300m", "--cpuset-cpus", "0", "--cpu-shares", "512", dir)
	w.want("Total", "builder", "prune", "-f")
	w.want("(?m)^builder [0-9]+$", "events", "--since", "1m", "--until", "-1s", "--filter", "event=prune", "--format", "{{.Type}} {{.Actor.Attributes.reclaimed}}")
	w.docker("rmi", "-f", "built")
}

func testNetworksAndVolumes(t *testing.T, w *world) {
	w.docker("network", "create", "--label", "a=b", "--subnet", "10.99.0.0/24", "net1")
	w.want("^net1$", "network", "ls", "--filter", "label=a=b", "--format", "{{.Name}}")
	w.docker("run", "-d", "--name", "server", "--network", "net1", "--network-alias", "alias", "-p", "8080", "-v", "vol1:/data", "busybox",
		"sh", "-c", "echo served >/data/index.html; exec httpd -f -p 8080 -h /data")
	defer w.docker("rm", "-f", "-v", "server")
	w.want("^served$", "run", "--rm", "--network", "net1", "busybox", "sh", "-c", "until wget -qO- http://alias:8080/; do sleep 0.1; done")
	w.want(`^10\.99\.0\.2$`, "inspect", "-f", "{{.NetworkSettings.Networks.net1.IPAddress}}", "server")
	w.want(`^0\.0\.0\.0:\d+`, "port", "server", "8080")
	w.fails(1, "net1", "network", "rm", "net1")
	w.docker("network", "create", "net2")
	w.docker("network", "connect", "net2", "server")
	w.want("net1.*net2|net2.*net1", "inspect", "-f", "{{range $k, $v := .NetworkSettings.Networks}}{{$k}} {{end}}", "server")
	w.docker("network", "disconnect", "net2", "server")
	w.docker("network", "rm", "net2")
	w.fails(1, "not found|No such network", "network", "inspect", "net2")
	w.want("^vol1$", "volume", "ls", "-q")
	w.fails(1, "in use", "volume", "rm", "vol1")
	w.want("^served$", "run", "--rm", "-v", "vol1:/v:ro", "busybox", "cat", "/v/index.html")
	w.docker("rm", "-f", "server")
	w.docker("create", "--name", "server", "busybox")
	w.docker("volume", "rm", "vol1")
	w.docker("create", "--name", "twice", "-v", "twice:/a", "-v", "twice:/b", "busybox")
	w.fails(1, `in use - \[[0-9a-f]{64}\]`, "volume", "rm", "twice")
	w.docker("rm", "twice")
	w.docker("volume", "rm", "twice")
	w.docker("network", "rm", "net1")
}

func testAsMoby(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "asmoby", "-p", "127.0.0.1:39090-39092:80", "--expose", "443", "busybox", "sleep", "1000")
	w.want(`127\.0\.0\.1:3909[0-2]$`, "port", "asmoby", "80")
	w.want("443/tcp", "ps", "--filter", "name=asmoby", "--format", "{{.Ports}}")
	w.docker("pause", "asmoby")
	w.fails(1, "Container asmoby is paused", "exec", "asmoby", "true")
	w.docker("unpause", "asmoby")
	w.docker("kill", "asmoby")
	w.want("^exited$", "inspect", "-f", "{{.State.Status}}", "asmoby") // at once
	w.docker("commit", "-m", "said", "-c", "LABEL more=1", "asmoby", "asmoby")
	w.want(`^said 1 \[sleep 1000\]$`, "image", "inspect", "-f", "{{.Comment}} {{.Config.Labels.more}} {{.Config.Cmd}}", "asmoby")
	w.docker("rm", "asmoby")
	w.docker("run", "--name", "asmoby", "--hostname", "a.b.c", "-l", "k=v", "--log-opt", "labels=k", "busybox", "grep", "a.b.c a", "/etc/hosts")
	w.want("^k=v .*a.b.c a$", "logs", "--details", "asmoby")
	w.docker("rm", "asmoby")
	w.docker("run", "--name", "asmoby", "--log-driver", "syslog", "--log-opt", "syslog-address=udp://127.0.0.1:5140", "busybox", "echo", "sent and kept")
	w.want("^sent and kept$", "logs", "asmoby")
	w.want(`^syslog map\[syslog-address:udp://127\.0\.0\.1:5140\]$`, "inspect", "-f", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}", "asmoby")
	w.docker("rm", "asmoby")
	w.fails(125, "unknown log opt 'color' for journald log driver", "run", "--rm", "--log-driver", "journald", "--log-opt", "color=red", "busybox", "true")
	w.fails(125, "failed to initialize logging driver: dial tcp 127.0.0.1:9: connect: connection refused", "run", "--rm", "--log-driver", "fluentd", "--log-opt", "fluentd-address=127.0.0.1:9", "busybox", "true")
	w.want(`^\[fluentd gelf journald json-file local syslog\]$`, "info", "-f", "{{.Plugins.Log}}")
	w.fails(125, "CPU cfs period can not be less than 1ms", "run", "--rm", "--cpu-period", "900", "busybox", "true")
	w.fails(125, "Invalid value 1-42,, for cpuset cpus", "run", "--rm", "--cpuset-cpus", "1-42,,", "busybox", "true")
	w.fails(1, "invalid filter 'status=rubbish'", "ps", "--filter", "status=rubbish")
	w.docker("network", "create", "linked")
	w.docker("run", "--rm", "--network", "linked", "--link", "later:alias", "busybox", "true")
	w.docker("network", "rm", "linked")
	w.docker("rmi", "asmoby")
}

func testEvents(t *testing.T, w *world) {
	since := time.Now().Format(time.RFC3339Nano)
	w.docker("run", "-d", "--name", "events", "-l", "watched=1", "busybox", "sh", "-c", "exit 2")
	w.want("^2$", "wait", "events")
	w.docker("rm", "events")
	out := w.docker("events", "--since", since, "--until", time.Now().Add(100*time.Millisecond).Format(time.RFC3339Nano),
		"--filter", "type=container", "--filter", "label=watched=1", "--format", "{{.Action}}")
	if got := strings.Fields(out); strings.Join(got, " ") != "create start die destroy" {
		t.Errorf("events: %q", got)
	}
	// A filter that there is not chooses nothing.
	if status, text := w.api("GET", `/events?since=1&until=2&filters={"nosuch":["x"]}`, ""); status != 200 {
		t.Errorf("events with an unknown filter: %d %s", status, text)
	}
	// What a container joins and leaves, and an image; an end alone means all before it.
	w.docker("run", "--rm", "--name", "joins", "-v", "watched:/v", "busybox", "true")
	w.docker("tag", "busybox", "watched:1")
	w.docker("rmi", "watched:1")
	w.docker("volume", "rm", "watched")
	out = w.docker("events", "--until", time.Now().Format(time.RFC3339Nano), "--format", "{{.Type}} {{.Action}} {{.Actor.Attributes.name}}")
	if only := w.docker("events", "--until", time.Now().Format(time.RFC3339Nano), "--filter", "container=joins", "--format", "{{.Type}}"); strings.Contains(only, "network") {
		t.Errorf("events of a container alone:\n%s", only)
	}
	at := 0
	for _, want := range []string{"container create joins", "container attach joins", "network connect bridge", "volume mount", "container start joins",
		"container die joins", "network disconnect bridge", "volume unmount", "container destroy joins", "image tag watched:1", "image untag sha256:", "volume destroy"} {
		i := strings.Index(out[at:], want)
		if i < 0 {
			t.Fatalf("%q does not come after %d bytes of\n%s", want, at, out)
		}
		at += i
	}
}

func testSystem(t *testing.T, w *world) {
	w.want(`^1\.56 1\.24$`, "version", "-f", "{{.Server.APIVersion}} {{.Server.MinAPIVersion}}")
	w.want("teu", "info", "-f", "{{.DefaultRuntime}}")
	w.want("Images", "system", "df")
	w.docker("tag", "busybox", "moving")
	w.docker("create", "--name", "moved", "moving")
	w.docker("rmi", "moving")
	w.want("^[0-9a-f]{12}$", "ps", "-a", "--filter", "name=moved", "--format", "{{.Image}}")
	w.want(`\n[0-9a-f]{12} +[0-9a-f]{12} .* moved\n`, "system", "df", "-v")
	w.docker("rm", "moved")
	w.want(`busybox +latest .* [0-9.]+[kM]?B +[0-9.]+[kM]?B +[0-9]+\n`, "system", "df", "-v") // what it shares with images of other tests, and what it has alone
	if _, got := w.api("GET", "/v1.56/images/json?shared-size=1", ""); !strings.Contains(got, `"SharedSize":`) || strings.Contains(got, `"SharedSize":-1`) {
		t.Errorf("images with shared-size=1: %s", got)
	}
	if _, got := w.api("GET", "/v1.56/images/json", ""); !strings.Contains(got, `"SharedSize":-1`) {
		t.Errorf("images without shared-size: %s", got)
	}
	w.fails(1, "not a swarm manager", "node", "ls")
	w.fails(1, "not a swarm manager", "service", "ls")
	w.want("ID", "plugin", "ls")
	// The commands of teu see the same.
	w.docker("create", "--name", "shared", "busybox")
	if got := w.run(w.teu, "ps", "-a", "--format", "{{.Names}}"); !strings.Contains(got, "shared") {
		t.Errorf("teu ps: %q", got)
	}
	w.run(w.teu, "rm", "shared")
	w.fails(1, "No such container", "inspect", "--type", "container", "shared")
}

// TestServerIsKilled: containers and their clients' objects do not depend on the server.
func TestServerIsKilled(t *testing.T) {
	w := newWorld(t)
	w.docker("run", "-d", "--name", "survivor", "-l", "kept", "--restart", "always", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.1; done")
	for range 5 {
		w.docker("run", "-d", "-l", "kept", "busybox", "sleep", "1000")
	}
	pid := w.docker("inspect", "-f", "{{.State.Pid}}", "survivor")
	ended := make(chan error, 50)
	for i := range cap(ended) { // operations that are under way
		go func() { ended <- w.operation(i) }()
	}
	w.soon("operations are under way", func() bool { return w.daemon().NGoroutines > cap(ended) })
	w.stop(syscall.SIGKILL)
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	before := time.Now()
	w.serve()
	w.docker("ps")
	t.Logf("it serves again after %s", time.Since(before).Round(time.Millisecond))
	if now := w.docker("inspect", "-f", "{{.State.Pid}}", "survivor"); now != pid {
		t.Errorf("the container's process was %s and is %s", pid, now)
	}
	if n := len(strings.Fields(w.docker("ps", "-q", "--filter", "label=kept"))); n != 6 {
		t.Errorf("%d containers run, want 6", n)
	}
	w.soon("it is heard", func() bool { return w.docker("logs", "--tail", "1", "survivor") == "tick" })
	// What was being made is there or not, but not half.
	for _, id := range strings.Fields(w.docker("ps", "-aq", "--filter", "label=cut")) {
		w.docker("inspect", id)
		w.docker("rm", "-f", id)
	}
	w.docker("rm", "-f", "survivor")
}

// operation is one of those that the end of the server cuts off. It returns when it is cut
// off; it is an error if it comes to its end before that.
func (w *world) operation(i int) error {
	const upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n"
	switch i % 5 {
	case 0:
		return w.cut("/containers/survivor/attach?stream=1&stdout=1", upgrade)
	case 1:
		return w.cut("/containers/survivor/wait?condition=next-exit", "")
	case 2:
		conn, resp, err := w.post("/containers/survivor/exec", "", `{"AttachStdout":true,"Cmd":["sleep","300"]}`)
		if err != nil {
			return nil // it was cut off before its answer
		}
		defer conn.Close()
		var made struct{ ID string }
		if err := json.NewDecoder(resp.Body).Decode(&made); err != nil {
			return nil
		}
		return w.cut("/exec/"+made.ID+"/start", upgrade)
	}
	for { // containers are made, started and removed until nobody answers
		conn, resp, err := w.post("/containers/create", "", `{"Image":"busybox","Cmd":["true"],"Labels":{"cut":"1"}}`)
		if err != nil {
			return nil
		}
		var made struct{ ID string }
		err = json.NewDecoder(resp.Body).Decode(&made)
		conn.Close()
		if err != nil {
			return nil
		}
		if conn, _, err = w.post("/containers/"+made.ID+"/start", "", ""); err != nil {
			return nil
		}
		conn.Close()
	}
}

// cut reads an answer that has no end until it is cut off.
func (w *world) cut(path, headers string) error {
	conn, resp, err := w.post(path, headers, "{}")
	if err != nil {
		return nil // it was cut off before its answer
	}
	defer conn.Close()
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("%s: %s", path, resp.Status)
	}
	n, err := io.Copy(io.Discard, conn)
	if err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%s: it was not cut off, %d bytes came", path, n)
	}
	return nil
}
