package engine_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// api sends a request and returns the status and the whole answer.
func (w *world) api(method, path, body string) (int, string) {
	w.t.Helper()
	return w.apiOf("", method, path, body)
}

// apiOf is api for a client that says which it is.
func (w *world) apiOf(userAgent, method, path, body string) (int, string) {
	w.t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.socket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: limit}
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://docker"+path, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	resp, err := client.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

// refusingRegistry gives tokens to everybody, and nothing for them.
func refusingRegistry(t *testing.T, w *world) string {
	listening := make(chan net.Listener, 1)
	go func() {
		runtime.LockOSThread() // for ever: it stays in the world
		ns, err := os.Open(w.dir + "/netns")
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		}
		l, e := net.Listen("tcp", "127.0.0.1:0")
		if err := errors.Join(err, e); err != nil {
			t.Error(err)
		}
		listening <- l
	}()
	var s *httptest.Server
	s = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		says := func(status int, code, message string) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, message)
		}
		switch {
		case r.URL.Path == "/token":
			fmt.Fprint(w, `{"token":"x"}`)
		case strings.HasPrefix(r.URL.Path, "/v2/missing/"):
			says(404, "MANIFEST_UNKNOWN", "no such tag")
		case strings.HasPrefix(r.URL.Path, "/v2/broken/"):
			says(501, "UNKNOWN", "broken") // which is not tried again
		default:
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+s.URL+`/token",service="x"`)
			says(401, "UNAUTHORIZED", "authentication required")
		}
	}))
	s.Listener.Close()
	s.Listener = <-listening
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// testRefusals: the statuses and words that clients tell errors by.
func testRefusals(t *testing.T, w *world) {
	w.docker("run", "-dt", "--name", "refusals", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "refusals")
	hub := refusingRegistry(t, w)
	for _, c := range []struct {
		method, path, body string
		status             int
		words              string
	}{
		{"POST", "/containers/create", `{"Image":"busybox","Env":["=x"]}`, 400, "invalid environment variable: =x"},
		{"POST", "/containers/create", `{"Image":"busybox:sha256:0"}`, 400, `"invalid reference format"`},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"CpuShares":-1}}`, 400, "invalid CPU shares (-1)"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Annotations":{"":"a"}}}`, 400, "invalid Annotations"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"PidMode":"container:nosuch"}}`, 400, "No such container: nosuch"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"IpcMode":"container:nosuch"}}`, 400, "No such container: nosuch"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"IpcMode":"container:"}}`, 400, "invalid IPC mode: container:"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"SecurityOpt":["writable-cgroups=x"]}}`, 400, "invalid --security-opt 2"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Memory":1}}`, 400, "Minimum memory limit allowed is 6MB"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"NanoCpus":-1}}`, 400, "range of CPUs is from 0.01 to"},
		{"POST", "/containers/refusals/update", `{"Memory":1}`, 400, "Minimum memory limit allowed is 6MB"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"UsernsMode":"nosuch"}}`, 400, "invalid USER mode"},
		{"POST", "/v1.43/containers/create", `{"Image":"busybox","NetworkingConfig":{"EndpointsConfig":{"a":{},"b":{}}}}`, 400, "multiple network endpoints: a, b"},
		{"POST", "/containers/create?platform=linux/s390x", `{"Image":"busybox"}`, 404, "does not provide the specified platform (linux/s390x)"},
		{"POST", "/containers/create?platform=nosuch", `{"Image":"busybox"}`, 400, "unknown operating system or architecture"},
		{"POST", "/containers/refusals/attach?detachKeys=ctrl-A", "", 400, "Invalid detach keys (ctrl-A) provided"},
		{"POST", "/containers/refusals/start?checkpoint=../x", "", 400, `invalid checkpoint ID`},
		{"POST", "/containers/refusals/resize?h=x&w=1", "", 400, `invalid resize height \"x\": invalid syntax`},
		{"POST", "/containers/refusals/resize?h=1&w=-1", "", 400, `invalid resize width \"-1\": value out of range`},
		{"POST", "/containers/refusals/rename?name=refusals", "", 400, "Renaming a container with the same name"},
		{"POST", "/containers/refusals/exec", `{"Cmd":["true"],"User":"nosuch"}`, 400, "unable to find user nosuch: no matching entries in passwd file"},
		{"POST", "/containers/refusals/exec", `{"Cmd":["true"],"User":"0:nosuch"}`, 400, "unable to find group nosuch"},
		{"GET", "/containers/refusals/archive?path=/etc/passwd/", "", 400, "not a directory"},
		{"GET", "/containers/refusals/archive?path=/a%00b", "", 400, "zero byte"},
		{"POST", "/images/busybox/tag?repo=sha256&tag=x", "", 400, "ambiguous tag"},
		{"POST", "/images/busybox/tag?repo=docker.io/library/sha256&tag=x", "", 400, "ambiguous tag"},
		{"POST", "/networks/create", `{"Name":"sized","IPAM":{"Config":[{"Subnet":"0.0.0.0/20"}]}}`, 400, "those that are chosen are a /24"},
		{"POST", "/build?remote=/etc", "", 400, "remoteURL (/etc) could not be recognized as URL"},
		{"POST", "/build?cachefrom=x", "", 400, "error reading cache-from: invalid character"},
		{"POST", "/build?outputs=%5B1%5D", "", 400, "invalid outputs specified: json: cannot unmarshal number"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"PortBindings":{"80/foo":[{"HostPort":"0"}]}}}`, 400, "invalid proto: foo"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/dev","Target":"/x","BindOptions":{"ReadOnlyForceRecursive":true}}]}}`, 400, "!ReadOnly \u0026\u0026 BindOptions.ReadOnlyForceRecursive"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"bind","Source":"/dev","Target":"/x","ReadOnly":true,"BindOptions":{"ReadOnlyForceRecursive":true,"ReadOnlyNonRecursive":true}}]}}`, 400, "ReadOnlyNonRecursive \u0026\u0026 "},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"SizeBytes":-5}}]}}`, 400, "SizeBytes must not be negative"},
		{"POST", "/containers/create?name=/", `{"Image":"busybox"}`, 400, "Invalid container name (/)"},
		{"POST", "/containers/create", `{"Image":"busybox","HostConfig":{"AutoRemove":true,"RestartPolicy":{"Name":"always"}}}`, 400, "can't create 'AutoRemove' container"},
		{"GET", "/system/df?type=x", "", 400, "unknown object type: x"},
		{"POST", "/auth", `{"serveraddress":"127.0.0.1:1"}`, 500, "connection refused"},
		{"POST", "/images/create?fromImage=127.0.0.1:1/a&tag=b", "", 500, "connection refused"},
		{"POST", "/images/create?fromImage=127.0.0.1:1/a", "", 500, "connection refused"},
		{"POST", "/images/create?fromImage=nosuch.invalid/a&tag=b", "", 500, "nosuch.invalid"},
		{"POST", "/images/create?fromImage=" + hub + "/private&tag=b", "", 404, "pull access denied for " + hub + "/private, repository does not exist or may require 'docker login'"},
		{"POST", "/images/create?fromImage=" + hub + "/missing&tag=b", "", 404, "not found"},
		{"POST", "/images/create?fromImage=" + hub + "/broken&tag=b", "", 500, "501"},
		{"POST", "/images/create?fromImage=A&fromSrc=-", "", 400, `"invalid reference format: repository name (library/A) must be lowercase"`},
		{"DELETE", "/images/%20", "", 400, "image name cannot be blank"},
		{"GET", "/images/json?identity=1", "", 400, "identity requires manifests=1"},
	} {
		if status, answer := w.api(c.method, c.path, c.body); status != c.status || !strings.Contains(answer, c.words) {
			t.Errorf("%s %s %s: %d %s, want %d and %q", c.method, c.path, c.body, status, answer, c.status, c.words)
		}
	}
}

// testShared: what containers share, and what outlives the end of one.
func testShared(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "front", "busybox", "sleep", "1234")
	w.want(`sleep 1234`, "run", "--rm", "--pid", "container:front", "busybox", "ps")
	w.docker("create", "--name", "behind", "--pid", "container:front", "busybox", "ps")
	w.docker("kill", "front")
	w.docker("wait", "front")
	w.fails(1, "failed to join PID namespace.*is not running", "start", "behind")
	w.docker("rm", "-f", "front", "behind")
	w.docker("run", "-d", "--name", "donor", "--ipc", "shareable", "busybox", "sh", "-c", "echo covfefe >/dev/shm/bar; exec sleep 1234")
	w.docker("run", "-d", "--name", "closed", "busybox", "sleep", "1234")
	w.soon("its memory is written", func() bool { return w.docker("exec", "donor", "sh", "-c", "cat /dev/shm/*; true") == "covfefe" })
	w.want("covfefe", "run", "--rm", "--ipc", "container:donor", "busybox", "cat", "/dev/shm/bar")
	w.fails(125, "non-shareable IPC", "run", "--name", "refused", "--ipc", "container:closed", "busybox", "true")
	w.want("^container:[0-9a-f]{64}$", "inspect", "-f", "{{.HostConfig.IpcMode}}", "refused")
	w.docker("kill", "donor")
	w.docker("wait", "donor")
	w.docker("create", "--name", "late", "--ipc", "container:donor", "busybox", "true")
	w.fails(1, "failed to join IPC namespace.*is not running", "start", "late")
	w.docker("rm", "-f", "donor", "closed", "refused", "late")
	w.fails(1, "", "run", "--rm", "--ipc", "none", "busybox", "grep", "-q", " /dev/shm ", "/proc/mounts")
	// One that is removed at its end is not at a restart.
	w.docker("run", "-d", "--rm", "--name", "again", "-l", "again", "busybox", "sleep", "1000")
	w.docker("restart", "-t", "0", "again")
	w.want("true", "inspect", "-f", "{{.State.Running}}", "again")
	w.fails(1, "AutoRemove is enabled", "update", "--restart", "always", "again")
	w.docker("kill", "again")
	w.soon("it is removed at its end", func() bool { return w.docker("ps", "-aq", "--filter", "label=again") == "" })
}

// testPlatforms: the images for several platforms under one name.
func testPlatforms(t *testing.T, w *world) {
	w.run("sh", "-c", `mkdir "$HOME/multi" && echo x >"$HOME/multi/x" && printf 'FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nCOPY x /\n' >"$HOME/multi/Dockerfile"
teu build -q --platform linux/amd64,linux/arm64 -t multi "$HOME/multi"`)
	w.want(`(?s)multi:latest.*linux/amd64.*linux/arm64`, "image", "ls", "--tree")
	w.want(`^arm64 \[.*A=arm64\]$`, "image", "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}} {{.Config.Env}}", "multi")
	w.want(`A=arm64`, "history", "--platform", "linux/arm64", "--format", "{{.CreatedBy}}", "--no-trunc", "multi")
	w.fails(1, "does not provide the specified platform", "image", "inspect", "--platform", "linux/s390x", "multi")
	w.run("sh", "-c", `docker save multi | docker load --platform linux/arm64`)
	w.want(`^arm64$`, "image", "inspect", "--platform", "linux/arm64", "-f", "{{.Architecture}}", "multi")
	w.run("sh", "-c", `docker save --platform linux/arm64 -o "$HOME/arm64.tar" multi`)
	w.fails(1, "does not provide the requested platform", "load", "--platform", "linux/amd64", "-i", w.dir+"/arm64.tar")
	const amd64 = `{"os":"linux","architecture":"amd64"}`
	for path, want := range map[string]string{
		"/images/multi/json?manifests=1":                                                      `"Available":true`,
		"/images/multi/json?manifests=1&platform=" + url.QueryEscape(amd64):                   "cannot both be set",
		"/images/multi/history?platform=linux/amd64&platform=linux/arm64":                     "only one platform value",
		"/v1.51/images/multi/get?platform=linux/amd64&platform=linux/arm64":                   "use API version 1.52 or later",
		"/images/multi/get?platform=linux/amd64&platform=linux/arm64":                         `"RepoTags":["multi:latest"]`,
		"/images/multi/get?platform=linux/amd64&platform=linux/s390x":                         "does not provide the specified platform (linux/s390x)",
		"/v1.47/images/multi/json?manifests=1&platform=" + url.QueryEscape(`{"os":"nosuch"}`): `"GraphDriver"`,
	} {
		if _, answer := w.api("GET", path, ""); !strings.Contains(answer, want) {
			t.Errorf("%s: %s, want %s", path, answer, want)
		}
	}
	remove := "/images/multi?platforms=" + url.QueryEscape(amd64)
	if status, answer := w.api("DELETE", remove, ""); status != http.StatusBadRequest {
		t.Errorf("a platform without force: %d %s", status, answer)
	}
	if status, answer := w.api("DELETE", remove+"&force=1", ""); status != http.StatusOK || strings.Contains(answer, "Untagged") || strings.Count(answer, "Deleted") != 1 {
		t.Errorf("a platform: %d %s", status, answer)
	}
	w.want("^arm64$", "image", "inspect", "-f", "{{.Architecture}}", "multi")
	w.docker("rmi", "multi")
}

// testStarted: what is told of containers that could not be started, and of what their images say.
func testStarted(t *testing.T, w *world) {
	const state = "{{.State.Status}} {{.State.ExitCode}} {{.State.Error}}"
	w.docker("run", "-d", "--name", "holder", "-p", "127.0.0.1:39100:80", "busybox", "sleep", "1000")
	w.fails(125, "port is already allocated", "run", "-d", "--name", "refused", "-p", "127.0.0.1:39100:80", "busybox", "true")
	w.want("^created 128 .*port is already allocated$", "inspect", "-f", state, "refused")
	w.docker("rm", "-f", "holder")
	w.docker("start", "-a", "refused")
	w.want("^exited 0$", "inspect", "-f", state, "refused")
	w.docker("rm", "refused")
	w.fails(125, "cannot join own network namespace", "run", "--name", "self", "--network", "container:self", "busybox", "true")
	w.docker("rm", "self")
	w.want("^HOME=/root$", "run", "--rm", "-e", "HOME=", "busybox", "sh", "-c", "env | grep HOME")
	w.docker("create", "--name", "healthy", "--health-cmd", "true", "busybox")
	w.docker("commit", "healthy", "healthy")
	w.docker("rm", "healthy")
	w.docker("network", "create", "aliased")
	w.docker("create", "--name", "healthy", "--network", "aliased", "--network-alias", "other", "healthy")
	w.want(`^\[CMD-SHELL true\]$`, "inspect", "-f", "{{.Config.Healthcheck.Test}}", "healthy")
	id := w.docker("inspect", "-f", "{{.ID}}", "healthy")
	for path, want := range map[string]string{"/v1.44": `"Aliases":["other","` + id[:12] + `"]`, "/v1.45": `"Aliases":["other"]`} {
		if _, answer := w.api("GET", path+"/containers/healthy/json", ""); !strings.Contains(answer, want) {
			t.Errorf("%s: no %s in %s", path, want, answer)
		}
	}
	w.docker("rm", "healthy")
	w.docker("rmi", "healthy")
	w.docker("network", "rm", "aliased")
	w.api("POST", "/containers/create?name=shelled", `{"Image":"busybox","Cmd":["sleep","1000"],"Shell":["/bin/echo","by the shell:"],"Healthcheck":{"Test":["CMD-SHELL","true"],"Interval":100000000}}`)
	w.docker("start", "shelled")
	w.want(`^\[/bin/echo by the shell:\]$`, "inspect", "-f", "{{.Config.Shell}}", "shelled")
	w.soon("a check by the shell it was made with", func() bool {
		return strings.Contains(w.docker("inspect", "-f", "{{json .State.Health.Log}}", "shelled"), "by the shell: true")
	})
	w.docker("rm", "-f", "shelled")
}

// testJoined: which networks a container is in, and what it calls them.
func testJoined(t *testing.T, w *world) {
	w.docker("network", "create", "--subnet", "10.98.0.0/24", "joined")
	w.docker("network", "create", "--ipv4=false", "--ipv6", "--subnet", "fd98::/64", "six")
	w.docker("network", "create", "--ipv6", "--subnet", "0.0.0.0/24", "--subnet", "::/64", "sized")
	w.want("^1.*/24 fd.*/64$", "network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", "sized")
	w.docker("network", "rm", "sized")
	create := func(body string) string {
		status, answer := w.api("POST", "/containers/create", `{"Image":"busybox","Cmd":["sleep","1000"],`+body+`}`)
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(answer), &made); status != http.StatusCreated || err != nil {
			t.Fatalf("%s: %d %s", body, status, answer)
		}
		w.docker("start", made.ID)
		return made.ID
	}
	const networks = "{{.HostConfig.NetworkMode}}:{{range $name, $of := .NetworkSettings.Networks}} {{$name}}{{end}}"
	one := create(`"NetworkingConfig":{"EndpointsConfig":{"joined":{},"six":{"DriverOpts":{"com.docker.network.endpoint.ifname":"eth0"}}}}`)
	w.want("^bridge: joined six$", "inspect", "-f", networks, one)
	w.want("10.98.0.2", "exec", one, "ip", "-4", "addr", "show", "eth1")
	w.want("fd98::2", "exec", one, "ip", "-6", "addr", "show", "eth0")
	w.fails(1, "error renaming interface.*file exists", "network", "connect", "--driver-opt", "com.docker.network.endpoint.ifname=eth0", "bridge", one)
	two := create(`"HostConfig":{"NetworkMode":"joined"},"NetworkingConfig":{"EndpointsConfig":{"joined":{}}}`)
	w.want("^joined: joined$", "inspect", "-f", networks, two)
	w.want("^[[][]]$", "inspect", "-f", "[{{.NetworkSettings.Bridge}}]", two)
	w.fails(1, "is not connected to network bridge", "network", "disconnect", "bridge", two)
	w.docker("rm", "-f", one, two)
	// One that does not run stays in a network that goes, until it is told.
	w.docker("create", "--name", "later", "--network", "joined", "busybox", "sleep", "1000")
	w.docker("network", "connect", "joined", "later") // is no error
	w.fails(1, "is not connected to the network bridge", "network", "disconnect", "bridge", "later")
	w.docker("network", "rm", "joined")
	w.fails(1, "network joined not found", "start", "later")
	w.docker("network", "disconnect", "joined", "later")
	w.fails(1, "is not connected to the network joined", "network", "disconnect", "joined", "later")
	w.docker("start", "later")
	w.fails(1, "endpoint with name later already exists", "network", "connect", "six", w.docker("network", "connect", "six", "later")+"later")
	w.fails(1, "container must be created in host network mode", "network", "connect", "host", "later")
	w.docker("rm", "-f", "later")
	w.docker("network", "rm", "six")
	for body, warning := range map[string]string{
		`"HostConfig":{"NetworkMode":"host","PortBindings":{"80/tcp":[{"HostPort":"81"}]}}`: `["Published ports are discarded when using host network mode"]`,
		`"HostConfig":{"PortBindings":{"81/tcp":null,"80/tcp":[]}}`:                         `["Following container port(s) have an empty list of port-bindings: 80/tcp, 81/tcp.`,
		`"NetworkDisabled":true`: `[]`,
	} {
		if _, answer := w.api("POST", "/containers/create?name=warned", `{"Image":"busybox",`+body+`}`); !strings.Contains(answer, `"Warnings":`+warning) {
			t.Errorf("%s: %s, want %s", body, answer, warning)
		}
		w.docker("rm", "warned")
	}
}

// testInspected: what was asked for is what holds, and what is told.
func testInspected(t *testing.T, w *world) {
	create := func(host string) string {
		status, answer := w.api("POST", "/containers/create", `{"Image":"busybox","Cmd":["sleep","1000"],"WorkingDir":"/tmp/","HostConfig":`+host+`}`)
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(answer), &made); status != http.StatusCreated || err != nil {
			t.Fatalf("%s: %d %s", host, status, answer)
		}
		w.docker("start", made.ID)
		return made.ID
	}
	// Devices are called as they were, and no network is joined before the first start.
	if status, answer := w.api("POST", "/containers/create?name=unstarted", `{"Image":"busybox","HostConfig":{"BlkioDeviceReadBps":[{"Path":"/dev/./zero","Rate":9}],
		"BlkioWeightDevice":[{"Path":"/dev/full","Weight":10}]}}`); status != http.StatusCreated {
		t.Fatalf("%d %s", status, answer)
	}
	w.want("^/dev/./zero /dev/full [[][]]$", "inspect", "-f",
		"{{range .HostConfig.BlkioDeviceReadBps}}{{.Path}}{{end}} {{range .HostConfig.BlkioWeightDevice}}{{.Path}}{{end}} [{{.NetworkSettings.Networks.bridge.NetworkID}}]", "unstarted")
	w.docker("rm", "unstarted")
	id := create(`{"Umask":63,"MaskedPaths":["/proc/version"],"ReadonlyPaths":[],"PidsLimit":9,
		"Tmpfs":{"/a":""},"Mounts":[{"Type":"tmpfs","Target":"/b","TmpfsOptions":{"SizeBytes":65536}},{"Type":"volume","Target":"/v"}]}`)
	defer w.docker("rm", "-fv", id)
	w.want(`^0077$`, "exec", id, "sh", "-c", "umask")
	w.want(`^0077$`, "exec", "-u", "1", id, "sh", "-c", "umask")
	w.want(`^0$`, "exec", id, "sh", "-c", "wc -c </proc/version")
	w.want(`^\[/proc/version\] \[\] /tmp 9$`, "inspect", "-f", "{{.HostConfig.MaskedPaths}} {{.HostConfig.ReadonlyPaths}} {{.Config.WorkingDir}} {{.HostConfig.PidsLimit}}", id)
	w.want(`^\[tmpfs /b volume /v \]$`, "inspect", "-f", "[{{range .HostConfig.Mounts}}{{.Type}} {{.Target}} {{end}}]", id)
	w.want(`^\[/b /v \]$`, "inspect", "-f", "[{{range .Mounts}}{{.Destination}} {{end}}]", id)
	w.docker("update", "--pids-limit", "-1", id)
	w.want(`^0$`, "inspect", "-f", "{{.HostConfig.PidsLimit}}", id)
	w.want(`^max$`, "exec", id, "sh", "-c", "cat /sys/fs/cgroup/pids/pids.max 2>/dev/null || cat /sys/fs/cgroup/pids.max")
	alone := create(`{"UsernsMode":"auto:size=1000"}`) // podman's: docker's client has host only
	defer w.docker("rm", "-fv", alone)
	w.want(`^auto:size=1000$`, "inspect", "-f", "{{.HostConfig.UsernsMode}}", alone)
	w.want(`^ *0 +\d{10} +1000$`, "exec", alone, "cat", "/proc/self/uid_map")
	if _, names := w.api("GET", "/containers/"+id+"/archive?path=/.", ""); !strings.Contains(names, "\x00./etc/passwd\x00") {
		t.Errorf("the archive of /. has no ./etc/passwd, it begins with %.1000q", names)
	}
}

// testPruned: what has not the labels asked for stays.
func testPruned(t *testing.T, w *world) {
	for _, label := range []string{"kept", "gone"} {
		w.docker("volume", "create", "--label", "prune="+label, label)
		w.docker("network", "create", "--label", "prune="+label, label)
		w.docker("create", "--name", label, "--label", "prune="+label, "busybox")
	}
	w.want("^Deleted Containers:\n[0-9a-f]{64}\n\nTotal", "container", "prune", "-f", "--filter", "label=prune=gone")
	w.want("^Deleted Networks:\ngone$", "network", "prune", "-f", "--filter", "label=prune=gone")
	w.want("^Deleted Volumes:\ngone\n\nTotal", "volume", "prune", "-af", "--filter", "label=prune=gone")
	w.want("^Total", "volume", "prune", "-af", "--filter", "label!=prune=kept", "--filter", "label=prune")
	for _, kind := range []string{"container", "network", "volume"} {
		w.docker(kind, "rm", "kept")
	}
}

// testComposeV1: docker-compose 1.29 finds the volumes of an image, when it makes a container of it anew, where docker
// has shown them until 1.44, but asks in the newest version.
func testComposeV1(t *testing.T, w *world) {
	id := w.docker("create", "busybox")
	defer w.docker("rm", id)
	image := w.docker("commit", "-c", "VOLUME /data", id)
	defer w.docker("rmi", image)
	for _, c := range []struct {
		client, version string
		volumes         bool
	}{
		{"docker-compose/1.29.2 docker-py/5.0.3 Linux/6.1.0", "/v1.52", true},
		{"docker-sdk-python/5.0.3", "/v1.52", false},
		{"docker-sdk-python/5.0.3", "/v1.44", true},
	} {
		_, answer := w.apiOf(c.client, "GET", c.version+"/images/"+image+"/json", "")
		var got struct {
			ContainerConfig *struct{ Volumes map[string]struct{} }
		}
		if err := json.Unmarshal([]byte(answer), &got); err != nil {
			t.Fatal(err)
		}
		if !c.volumes {
			if got.ContainerConfig != nil {
				t.Errorf("%s in %s is shown a ContainerConfig: %s", c.client, c.version, answer)
			}
		} else if got.ContainerConfig == nil || len(got.ContainerConfig.Volumes) != 1 {
			t.Errorf("%s in %s is shown no volumes in ContainerConfig: %s", c.client, c.version, answer)
		}
	}
}

// testLogFrames: each line of a log is a frame, also where many of them come at once.
func testLogFrames(t *testing.T, w *world) {
	w.docker("run", "--name", "lines", "busybox", "sh", "-c", "for i in $(seq 200); do printf '%01000d\\n' $i; done; printf unended")
	defer w.docker("rm", "-f", "lines")
	want := []string{}
	for i := range 200 {
		want = append(want, fmt.Sprintf("%01000d\n", i+1))
	}
	want = append(want, "unended")
	frames := func(path string) (all []string) {
		_, out := w.api("GET", path, "")
		for len(out) >= 8 {
			size := int(binary.BigEndian.Uint32([]byte(out[4:8])))
			if out[0] != 1 || len(out) < 8+size {
				t.Fatalf("%s: a frame begins with %q", path, out[:8])
			}
			all, out = append(all, out[8:8+size]), out[8+size:]
		}
		return all
	}
	if got := frames("/containers/lines/logs?stdout=1"); !slices.Equal(got, want) {
		t.Errorf("a log of %d lines came in %d frames", len(want), len(got))
	}
	if got := frames("/containers/lines/logs?stdout=1&timestamps=1&tail=3"); len(got) != 3 || !strings.HasSuffix(got[1], "Z "+want[199]) {
		t.Errorf("with times it came as %.60q", got)
	}
}

// testExecTerminal: the first size of a terminal, and another one for a command whose
// terminal nobody is at.
func testExecTerminal(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "sized", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "sized")
	exec := func(body string) string {
		_, answer := w.api("POST", "/containers/sized/exec", body)
		var made struct{ ID string }
		if err := json.Unmarshal([]byte(answer), &made); err != nil {
			t.Fatal(err, answer)
		}
		return made.ID
	}
	id := exec(`{"AttachStdout":true,"Tty":true,"ConsoleSize":[57,123],"Cmd":["stty","size"]}`)
	if _, out := w.api("POST", "/exec/"+id+"/start", `{"Tty":true}`); out != "57 123\r\n" {
		t.Errorf("the terminal's size is told as %q", out)
	}
	// The form of the stream is as this client says, whatever the command has.
	id = exec(`{"AttachStdout":true,"Tty":true,"Cmd":["echo","x"]}`)
	if _, out := w.api("POST", "/exec/"+id+"/start", `{}`); !bytes.HasPrefix([]byte(out), []byte{1, 0, 0, 0}) {
		t.Errorf("a stream in frames begins with %q", out)
	}
	id = exec(`{"Tty":true,"Cmd":["sh","-c","until [ \"$(stty size)\" = '40 50' ]; do sleep 0.05; done; touch /done; sleep 100"]}`)
	if status, answer := w.api("POST", "/exec/"+id+"/start", `{"Detach":true,"Tty":true}`); status != http.StatusOK {
		t.Fatal(status, answer)
	}
	if status, answer := w.api("POST", "/exec/"+id+"/resize?h=40&w=50", ""); status != http.StatusOK {
		t.Error(status, answer)
	}
	w.soon("the terminal has its new size", func() bool {
		_, _, code := w.try("docker", "exec", "sized", "test", "-e", "/done")
		return code == 0
	})
	// nomad tells the size before the command is started.
	early := exec(`{"AttachStdout":true,"Tty":true,"Cmd":["sh","-c","until [ \"$(stty size 2>/dev/null)\" = '41 51' ]; do sleep 0.05; done; echo sized"]}`)
	resized := make(chan int, 1)
	go func() {
		status, _ := w.api("POST", "/exec/"+early+"/resize?h=41&w=51", "")
		resized <- status
	}()
	select {
	case status := <-resized:
		t.Errorf("resizing what has not been started: %d", status)
	case <-time.After(200 * time.Millisecond):
		if _, out := w.api("POST", "/exec/"+early+"/start", `{"Tty":true}`); out != "sized\r\n" || <-resized != http.StatusOK {
			t.Errorf("a size that came before the start: %q", out)
		}
	}
	w.docker("kill", "sized")
	w.docker("wait", "sized")
	if status, answer := w.api("POST", "/exec/"+id+"/resize?h=40&w=50", ""); status != http.StatusConflict && status != http.StatusNotFound {
		t.Errorf("resizing what has ended: %d %s", status, answer)
	}
}

// testExecHeard: a client that reads no further once it is told that its command has ended, like nomad, has got
// all of what the command said by then.
func testExecHeard(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "heard", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "heard")
	var made struct{ ID string }
	var ended struct{ Running bool }
	for range 40 {
		_, answer := w.api("POST", "/containers/heard/exec", `{"AttachStdout":true,"Tty":true,"Cmd":["echo","said"]}`)
		if err := json.Unmarshal([]byte(answer), &made); err != nil {
			t.Fatal(err, answer)
		}
		conn, err := net.Dial("unix", w.socket())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /exec/%s/start HTTP/1.1\r\nHost: docker\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n{\"Tty\":true}", made.ID)
		var head []byte
		for !bytes.HasSuffix(head, []byte("\r\n\r\n")) {
			var b [1]byte
			if _, err := conn.Read(b[:]); err != nil {
				t.Fatal(err)
			}
			head = append(head, b[0])
		}
		for ended.Running = true; ended.Running; {
			_, answer := w.api("GET", "/exec/"+made.ID+"/json", "")
			if err := json.Unmarshal([]byte(answer), &ended); err != nil {
				t.Fatal(err, answer)
			}
		}
		raw, err := conn.(*net.UnixConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		n := 0
		raw.Control(func(fd uintptr) { n, _, err = unix.Recvfrom(int(fd), buf, unix.MSG_DONTWAIT) })
		if err != nil || string(buf[:n]) != "said\r\n" {
			t.Fatalf("at its end there was %q, %v", buf[:max(n, 0)], err)
		}
	}
}

// testBuildConnection: a connection lasts beyond a build, however that ended; Node.js has its next request fail
// if it does not.
func testBuildConnection(t *testing.T, w *world) {
	dials := 0
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, "unix", w.socket())
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, MaxConnsPerHost: 1}, Timeout: limit}
	for _, text := range []string{"FROM busybox\nRUN true\n", "FROM busybox\nRUN false\n", "NOSUCH instruction\n", "FROM busybox\n"} {
		var b bytes.Buffer
		a := tar.NewWriter(&b)
		if err := errors.Join(a.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644, Size: int64(len(text))}), second(io.WriteString(a, text)), a.Close()); err != nil {
			t.Fatal(err)
		}
		b.Write(make([]byte, 10<<10)) // as tar pads
		resp, err := client.Post("http://docker/build", "application/x-tar", io.MultiReader(&b))
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		resp.Body.Close()
		time.Sleep(100 * time.Millisecond) // for the server to close it, if it does
	}
	if dials != 1 {
		t.Errorf("%d connections for four builds", dials)
	}
}

func second[T any](_ T, err error) error { return err }

// testHealthTold: a check that is too slow tells what it had said.
func testHealthTold(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "slow", "--health-cmd", "echo begun; sleep 60", "--health-interval", "100ms", "--health-timeout", "1s", "--health-retries", "1", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "slow")
	told := ""
	w.soon("a check that had begun has failed", func() bool {
		told = w.docker("inspect", "-f", "{{range .State.Health.Log}}{{.Output}}{{end}}", "slow")
		return strings.Contains(told, "Health check exceeded timeout (1s): begun")
	})
	if t.Failed() {
		t.Errorf("they told %q", told)
	}
}

// testGateways: the host has no address in a network that wants none, so that a /31 has room for
// two containers (moby's TestPointToPoint and TestIsolated); since 1.52 addresses are counted.
func testGateways(t *testing.T, w *world) {
	addresses := func(more ...string) string { // in the server's own network namespace
		return w.run("nsenter", append([]string{"-t", fmt.Sprint(w.server.Process.Pid), "-n", "ip", "-o", "addr", "show", "dev", "teu-apart"}, more...)...)
	}
	w.fails(1, "gateway mode 'isolated' can only be used for an internal network", "network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "apart")
	w.fails(1, "invalid value", "network", "create", "-o", "com.docker.network.bridge.gateway_mode_ipv4=nosuch", "apart")
	for _, option := range []string{"inhibit_ipv4=true", "gateway_mode_ipv4=isolated"} {
		w.docker("network", "create", "--internal", "--subnet", "192.168.135.0/31", "-o", "com.docker.network.bridge."+option, "-o", "com.docker.network.bridge.name=teu-apart", "apart")
		w.docker("run", "-d", "--name", "peer", "--network", "apart", "busybox", "sleep", "1000")
		w.want(`^192\.168\.135\.0$`, "inspect", "-f", "{{.NetworkSettings.Networks.apart.IPAddress}}", "peer")
		if out := addresses("scope", "global"); strings.TrimSpace(out) != "" {
			t.Errorf("%s: the host has the address %s", option, out)
		}
		w.want("1 packets received", "run", "--rm", "--network", "apart", "busybox", "ping", "-c1", "-W3", "peer")
		_, told := w.api("GET", "/v1.52/networks/apart", "")
		if want := `"Status":{"IPAM":{"Subnets":{"192.168.135.0/31":{"IPsInUse":1,"DynamicIPsAvailable":1}}}}`; !strings.Contains(told, want) {
			t.Errorf("%s: %s, want %s", option, told, want)
		}
		if _, told := w.api("GET", "/v1.51/networks/apart", ""); strings.Contains(told, `"Status"`) {
			t.Errorf("1.51 has a status: %s", told)
		}
		w.docker("rm", "-f", "peer")
		w.docker("network", "rm", "apart")
	}
	w.docker("network", "create", "--ipv6", "--internal", "-o", "com.docker.network.bridge.gateway_mode_ipv4=isolated", "-o", "com.docker.network.bridge.gateway_mode_ipv6=isolated",
		"-o", "com.docker.network.bridge.name=teu-apart", "apart")
	w.docker("run", "-d", "--name", "peer", "--network", "apart", "busybox", "sleep", "1000")
	if out := addresses(); strings.TrimSpace(out) != "" {
		t.Errorf("the host has the address %s", out)
	}
	w.want("1 packets received", "run", "--rm", "--network", "apart", "busybox", "ping", "-6", "-c1", "-W3", "peer")
	w.docker("rm", "-f", "peer")
	w.docker("network", "rm", "apart")
}

// testLoadGarbage: what cannot be loaded is an error in the stream, as with dockerd.
func testLoadGarbage(t *testing.T, w *world) {
	if status, answer := w.api("POST", "/images/load", "garbage"); status != http.StatusOK || !strings.HasPrefix(answer, `{"errorDetail":{"message":`) {
		t.Errorf("loading garbage: %d %s", status, answer)
	}
}

// TestDiscoveredDevices: GET /info names the devices of CDI files, since 1.50.
func TestDiscoveredDevices(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"vendor.json": `{"cdiVersion":"0.6.0","kind":"vendor.com/device","devices":[{"name":"one","containerEdits":{"env":["A=b"]}}],"containerEdits":{}}`,
		"config.json": fmt.Sprintf(`{"cdi-spec-dirs":[%q]}`, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TEU_CONFIG", filepath.Join(dir, "config.json"))
	w := newWorld(t)
	_, told := w.api("GET", "/v1.50/info", "")
	for _, want := range []string{`"DiscoveredDevices":[{"Source":"cdi","ID":"vendor.com/device=one"}]`, fmt.Sprintf(`"CDISpecDirs":[%q]`, dir)} {
		if !strings.Contains(told, want) {
			t.Errorf("%s does not contain %s", told, want)
		}
	}
	if _, told := w.api("GET", "/v1.49/info", ""); strings.Contains(told, `"DiscoveredDevices":`) {
		t.Errorf("1.49 has them: %s", told)
	}
}
