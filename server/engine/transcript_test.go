package engine_test

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exchange is a request and the shape of its answer. A shape is the answer's JSON with its
// values replaced by their types, except for messages of errors.
type exchange struct {
	Request string
	Body    string `json:",omitempty"`
	Status  int
	Type    string `json:",omitempty"` // of the content
	Shape   any    `json:",omitempty"`
	answer  any    // as it came
}

// script is what is asked, in this order. {id}, {exec} are of the last that was made.
func script(version string) []exchange {
	const create = `{"Image":"busybox:latest","Cmd":["sh","-c","echo said; sleep 1000"],"Env":["A=1"],"Labels":{"l":"1"},"StopSignal":"SIGKILL","ExposedPorts":{"80/tcp":{}},
		"Volumes":{"/anon":{}},"Healthcheck":{"Test":["CMD","true"],"Interval":1000000000},
		"HostConfig":{"NetworkMode":"none","Binds":["named:/data:ro"],"Memory":67108864,"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":2},
		"Ulimits":[{"Name":"nofile","Soft":100,"Hard":200}],"CapAdd":["NET_ADMIN"],"ExtraHosts":["h:1.2.3.4"],"Tmpfs":{"/t":"size=1m"},"Dns":["1.1.1.1"]}}`
	var list []exchange
	for line := range strings.Lines(`GET /_ping
HEAD /_ping
GET /v1.41/version
GET /v1.41/info
GET /v1.99/info
GET /v1.41/nosuch
GET /v1.41/images/json
GET /v1.41/images/busybox:latest/json
GET /v1.41/images/busybox/history
GET /v1.41/images/nosuch/json
GET /v1.41/images/json?manifests=1
GET /v1.41/images/busybox/json?manifests=1
GET /v1.40/images/busybox/attestations
POST /v1.41/images/busybox/tag?repo=other&tag=1
POST /v1.41/images/nosuch/tag?repo=other&tag=1
DELETE /v1.41/images/other:1
DELETE /v1.41/images/nosuch
POST /v1.41/images/prune
POST /v1.41/containers/create {"Image":"nosuch"}
POST /v1.41/containers/create
POST /v1.41/containers/create?name=first CREATE
POST /v1.41/containers/create?name=first CREATE
POST /v1.41/containers/create?name=bad/name CREATE
GET /v1.41/containers/json?all=1
GET /v1.41/containers/json?filters={"status":["nosuch"]}
GET /v1.41/containers/json?filters={"nosuch":["x"]}
GET /v1.41/containers/first/json
GET /v1.41/containers/first/json?size=1
POST /v1.41/containers/first/start
POST /v1.41/containers/first/start
GET /v1.41/containers/json
GET /v1.41/containers/first/json
GET /v1.41/containers/first/top
GET /v1.41/containers/first/stats?stream=0&one-shot=1
GET /v1.41/containers/first/changes
GET /v1.41/containers/first/logs?stdout=1
GET /v1.41/containers/first/logs
HEAD /v1.41/containers/first/archive?path=/etc/passwd
GET /v1.41/containers/first/archive?path=/nosuch
PUT /v1.41/containers/first/archive?path=/nosuch
POST /v1.41/containers/first/exec {"Cmd":["true"]}
GET /v1.41/exec/{exec}/json
POST /v1.41/exec/{exec}/start {"Detach":true}
POST /v1.41/containers/first/exec {"Cmd":[]}
GET /v1.41/exec/nosuch/json
POST /v1.41/containers/first/pause
POST /v1.41/containers/first/pause
POST /v1.41/containers/first/exec {"Cmd":["true"]}
POST /v1.41/containers/first/unpause
POST /v1.41/containers/first/unpause
POST /v1.41/containers/first/update {"Memory":134217728,"MemorySwap":268435456}
POST /v1.41/containers/first/rename?name=second
POST /v1.41/containers/second/rename
DELETE /v1.41/containers/second
POST /v1.41/containers/second/kill?signal=NOSUCH
POST /v1.41/containers/second/resize?h=x&w=1
POST /v1.41/containers/second/stop?t=0
POST /v1.41/containers/second/stop
POST /v1.41/containers/second/kill
POST /v1.41/containers/second/wait
POST /v1.41/containers/second/wait?condition=never
GET /v1.41/containers/second/json
GET /v1.41/containers/second/top
POST /v1.41/commit?container=second&repo=committed {}
DELETE /v1.41/images/committed
GET /v1.41/system/df
GET /v1.41/system/df?type=volume
GET /v1.41/system/df?verbose=1
DELETE /v1.41/containers/second?v=1
GET /v1.41/containers/second/json
POST /v1.41/containers/second/start
POST /v1.41/containers/second/stop
DELETE /v1.41/containers/second
POST /v1.41/containers/prune
GET /v1.41/volumes
GET /v1.41/volumes/named
GET /v1.41/volumes/nosuch
POST /v1.41/volumes/create {"Name":"made","Labels":{"a":"b"}}
POST /v1.41/volumes/create {"Name":"bad name"}
POST /v1.41/volumes/create {"Name":"x1","Driver":"nosuch"}
DELETE /v1.41/volumes/made
DELETE /v1.41/volumes/made
DELETE /v1.41/volumes/made?force=1
POST /v1.41/volumes/prune
GET /v1.41/networks
GET /v1.41/networks/host
GET /v1.41/networks/nosuch
DELETE /v1.41/networks/host
DELETE /v1.41/networks/nosuch
POST /v1.41/networks/nosuch/connect {"Container":"x"}
GET /v1.41/events?since=1&until=2
GET /v1.41/plugins
GET /v1.41/swarm
GET /v1.41/services
GET /v1.41/nodes
POST /v1.41/swarm/leave
POST /v1.41/build/prune
`) {
		line = strings.Replace(line, "v1.41", version, 1)
		request, body, _ := strings.Cut(strings.TrimSpace(line), " {")
		if request != strings.TrimSpace(line) {
			body = "{" + body
		}
		if rest, ok := strings.CutSuffix(request, " CREATE"); ok {
			request, body = rest, create
		}
		list = append(list, exchange{Request: request, Body: body})
	}
	return list
}

// play sends the script to the server at socket and notes what it answers.
func play(t *testing.T, socket, version string) []exchange {
	t.Helper()
	client := http.Client{Timeout: limit, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	list := script(version)
	vars := map[string]string{}
	for i := range list {
		x := &list[i]
		method, path, _ := strings.Cut(x.Request, " ")
		for name, v := range vars {
			path = strings.ReplaceAll(path, "{"+name+"}", v)
		}
		path = strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D", "[", "%5B", "]", "%5D").Replace(path)
		req, err := http.NewRequestWithContext(t.Context(), method, "http://docker"+path, strings.NewReader(x.Body))
		if err != nil {
			t.Fatal(err)
		}
		if x.Body != "" {
			req.Header.Set("Content-Type", "application/json")
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", x.Request, err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatalf("%s: %v", x.Request, err)
		}
		x.Status, x.Type = resp.StatusCode, strings.Split(resp.Header.Get("Content-Type"), ";")[0]
		var v any
		if json.Unmarshal(b, &v) == nil {
			x.Shape, x.answer = shape(v), v
			if m, ok := v.(map[string]any); ok && m["message"] != nil {
				x.Shape = map[string]any{"message": normal(fmt.Sprint(m["message"]))}
			}
			if m, ok := v.(map[string]any); ok && strings.Contains(path, "/exec") && m["Id"] != nil {
				vars["exec"] = fmt.Sprint(m["Id"])
			}
		}
		switch {
		case strings.HasSuffix(path, "/first/start"):
			await(t, client, "/containers/first/logs?stdout=1", "said")
		case strings.HasSuffix(path, "/second/rename"):
			await(t, client, "/containers/second/json", `"Output":`) // of a health check
		}
	}
	return list
}

// await asks until the answer has the text.
func await(t *testing.T, client http.Client, path, text string) {
	t.Helper()
	for range 300 {
		resp, err := client.Get("http://docker" + path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err == nil && strings.Contains(string(b), text) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("%s never had %q", path, text)
}

// shape replaces values by their types, arrays by their first element.
func shape(v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, e := range v {
			out[k] = shape(e)
		}
		return out
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{shape(v[0])}
	case string:
		return "string"
	case float64:
		return "number"
	case bool:
		return "bool"
	}
	return nil
}

func normal(text string) string {
	return regexp.MustCompile(`[0-9a-f]{64}`).ReplaceAllString(text, "ID")
}

// engines are the dockerd's whose answers are recorded, each with the version of the API that it is asked in.
// The first is Debian's, the second that of moby's module github.com/moby/moby/v2 2.0.0-beta.24, docker 29.
var engines = []struct{ name, version string }{{"20.10", "v1.41"}, {"29", "v1.56"}}

// TestTranscript asks teu what real dockerd's were asked and compares the answers. With TEU_RECORD=20.10 or 29 it
// starts a dockerd, that at TEU_DOCKERD, and records its answers first.
func TestTranscript(t *testing.T) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			w := newWorld(t)
			recorded := "testdata/dockerd-" + e.name + ".json"
			if os.Getenv("TEU_RECORD") == e.name {
				record(t, w, e.version, recorded)
			}
			b, err := os.ReadFile(recorded)
			if err != nil {
				t.Fatal(err)
			}
			var want []exchange
			if err := json.Unmarshal(b, &want); err != nil {
				t.Fatal(err)
			}
			got := play(t, w.socket(), e.version)
			compare(t, want, got, differences(t, "testdata/differences-"+e.name+".txt"))
			if e.version != "v1.56" {
				return // the description is that of one version
			}
			d := readDescription(t)
			for _, x := range got {
				for _, wrong := range d.check(x.Request, x.Status, x.answer) {
					t.Errorf("%s: swagger.yaml has it otherwise: %s", x.Request, wrong)
				}
			}
		})
	}
}

func compare(t *testing.T, want, got []exchange, known map[string]bool) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("the script has %d requests, the record %d: record again with TEU_RECORD", len(got), len(want))
	}
	seen := map[string]bool{}
	report := func(request, text string) {
		line := request + ": " + text
		if seen[line] = true; !known[line] {
			t.Errorf("unlike dockerd: %s", line)
		}
	}
	for i := range want {
		w, g := want[i], got[i]
		if w.Request != g.Request {
			t.Fatalf("request %d is %s, recorded was %s", i, g.Request, w.Request)
		}
		if w.Status != g.Status {
			report(w.Request, fmt.Sprintf("status %d, dockerd's is %d (%v)", g.Status, w.Status, g.Shape))
			continue
		}
		if w.Type != g.Type {
			report(w.Request, fmt.Sprintf("content type %q, dockerd's is %q", g.Type, w.Type))
		}
		plain, _ := json.Marshal(g.Shape)
		var again any
		json.Unmarshal(plain, &again)
		for _, d := range diff("", w.Shape, again) {
			report(w.Request, d)
		}
	}
	for line := range known {
		if !seen[line] {
			t.Errorf("no longer a difference, take it out of the known ones: %s", line)
		}
	}
}

// differences are those that are meant, with their reasons as comments.
func differences(t *testing.T, path string) map[string]bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	known := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := lines.Text(); line != "" && !strings.HasPrefix(line, "#") {
			known[line] = true
		}
	}
	return known
}

// diff tells what dockerd's shape has and ours has not, or has otherwise. More fields are
// no difference: newer versions have them.
func diff(at string, want, got any) (list []string) {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			return []string{fmt.Sprintf("%s is %v, dockerd's is an object", at, got)}
		}
		for _, k := range slices.Sorted(maps.Keys(w)) {
			if at == ".memory_stats.stats" && k != "inactive_file" {
				continue // the kernel's names, which depend on the version of control groups
			}
			if _, ok := g[k]; !ok {
				list = append(list, at+"."+k+" is missing")
				continue
			}
			list = append(list, diff(at+"."+k, w[k], g[k])...)
		}
	case []any:
		g, ok := got.([]any)
		switch {
		case !ok:
			return []string{fmt.Sprintf("%s is %v, dockerd's is an array", at, got)}
		case len(w) > 0 && len(g) == 0:
			return []string{at + " is empty"}
		case len(w) > 0:
			return diff(at+"[]", w[0], g[0])
		}
	case nil: // what is empty here and null there is no difference
		if a, ok := got.([]any); ok && len(a) == 0 {
			return nil
		}
		if m, ok := got.(map[string]any); ok && len(m) == 0 {
			return nil
		}
		if got != nil {
			list = append(list, fmt.Sprintf("%s is %v, dockerd's is null", at, brief(got)))
		}
	default:
		if want != got {
			return []string{fmt.Sprintf("%s is %v, dockerd's is %v", at, brief(got), want)}
		}
	}
	return list
}

func brief(v any) any {
	switch v.(type) {
	case map[string]any:
		return "an object"
	case []any:
		return "an array"
	}
	return v
}

// record starts dockerd, gives it the same image, and writes what it answers. The newer one's runtime is runc
// without namespaces of time, which Debian's does not know.
func record(t *testing.T, w *world, version, path string) {
	t.Helper()
	dir := w.dir + "/dockerd"
	socket := dir + "/docker.sock"
	runtime := w.dir + "/runtime"
	const script = "#!/bin/sh\nfor a; do [ \"$last\" = --bundle ] && sed -i 's/,{\"type\":\"time\"}//; s/\"ociVersion\":\"[^\"]*\"/\"ociVersion\":\"1.0.2\"/' \"$a/config.json\"; last=$a; done; exec runc \"$@\"\n"
	if err := os.WriteFile(runtime, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cmp.Or(os.Getenv("TEU_DOCKERD"), "dockerd"), "--host", "unix://"+socket, "--data-root", dir+"/root", "--exec-root", dir+"/run", "--pidfile", dir+"/pid",
		"--bridge", "none", "--iptables=false", "--ip-masq=false")
	if version == "v1.41" {
		cmd.Args = append(cmd.Args, "--storage-driver", "vfs")
	} else {
		cmd.Args = append(cmd.Args, "--add-runtime", "older="+runtime, "--default-runtime", "older")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	log := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	}()
	w.soon("dockerd answers", func() bool {
		_, _, code := w.try("docker", "-H", "unix://"+socket, "version")
		return code == 0
	})
	w.run("sh", "-c", fmt.Sprintf("docker create --name export busybox && docker export export | docker -H unix://%s import -c 'CMD [\"sh\"]' - busybox:latest; docker rm export", socket))
	b, err := json.MarshalIndent(play(t, socket, version), "", "\t")
	if err == nil {
		err = os.WriteFile(path, append(b, '\n'), 0o644)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
}
