package engine

import (
	"bufio"
	"bytes"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/inspect"
)

func TestMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, path, name string
		ok                  bool
	}{
		{"/_ping", "/_ping", "", true},
		{"/_ping", "/_pin", "", false},
		{"/containers/{name}/json", "/containers/a/json", "a", true},
		{"/containers/{name}/json", "/containers//json", "", false},
		{"/containers/{name}/json", "/containers/json", "", false},
		{"/containers/{name}/json", "/containers/a/b/json", "", false},
		{"/images/{name...}/json", "/images/a/b:c/json", "a/b:c", true},
		{"/images/{name...}/json", "/images/json", "", false},
		{"/images/{name...}", "/images/h:5000/a/b@sha256:00", "h:5000/a/b@sha256:00", true},
		{"/networks/{name}", "/networks/n", "n", true},
	} {
		name, ok := route{pattern: c.pattern}.match(c.path)
		if ok != c.ok || ok && name != c.name {
			t.Errorf("%s matches %s: %q, %t", c.pattern, c.path, name, ok)
		}
	}
}

func TestParseTime(t *testing.T) {
	for text, want := range map[string]time.Time{
		"": {}, "0": {}, "1": time.Unix(1, 0), "1.5": time.Unix(1, 5e8), "1.000000001": time.Unix(1, 1), "1.0000000019": time.Unix(1, 1),
		"2026-01-02T03:04:05.5Z": time.Date(2026, 1, 2, 3, 4, 5, 5e8, time.UTC),
	} {
		if got, err := parseTime(text); err != nil || !got.Equal(want) {
			t.Errorf("%q: %s, %v, want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "1.x", "-", "1-2"} {
		if got, err := parseTime(text); err == nil {
			t.Errorf("%q: %s, want an error", text, got)
		}
	}
}

func TestEventMedia(t *testing.T) {
	for _, c := range []struct {
		accept string
		v      version
		want   string
	}{
		{"", 51, "application/json"}, {"", 52, "application/jsonl"}, {"application/json", 56, "application/jsonl"},
		{"application/json-seq", 51, "application/json-seq"}, {"text/html, application/x-ndjson;q=0.5", 52, "application/x-ndjson"},
	} {
		if got := eventMedia([]string{c.accept}, c.v); got != c.want {
			t.Errorf("%q in %s: %s, want %s", c.accept, c.v, got, c.want)
		}
	}
}

func withFilters(text string) *request {
	r := &request{Request: httptest.NewRequest(http.MethodGet, "/", nil), query: map[string][]string{}}
	r.query.Set("filters", text)
	return r
}

func TestFilters(t *testing.T) {
	for text, want := range map[string]map[string][]string{
		"":                                  {},
		`{}`:                                {},
		`null`:                              {},
		`{"label":["a=b","c"]}`:             {"label": {"a=b", "c"}},
		`{"label":{"a=b":true,"c":true}}`:   {"label": {"a=b", "c"}},
		`{"label":{"a":true,"gone":false}}`: {"label": {"a"}},
	} {
		if got, err := withFilters(text).filters("label"); err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{`{`, `[]`, `{"nosuch":["a"]}`, `{"label":"a"}`} {
		if got, err := withFilters(text).filters("label"); err == nil {
			t.Errorf("%s: %v, want an error", text, got)
		}
	}
}

func FuzzFilters(f *testing.F) {
	for _, seed := range []string{`{"label":["a=b"]}`, `{"label":{"a":true}}`, `{`, `null`, `[1]`} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := withFilters(text).filters(); err == nil && got == nil {
			t.Error("neither filters nor an error")
		}
	})
}

// FuzzCreate: any body is an error or options that survive the way back.
func FuzzCreate(f *testing.F) {
	for _, seed := range []string{
		`{"Image":"x"}`, `{"Image":"x","HostConfig":{"Binds":["/a:/b:ro,z","n:/c"],"Memory":67108864,"PortBindings":{"80/tcp":[{"HostPort":"1-2"}]}}}`,
		`{"Image":"x","HostConfig":{"Mounts":[{"Type":"tmpfs","Target":"/t","TmpfsOptions":{"SizeBytes":1}}],"DeviceCgroupRules":["c 1:* rwm"]}}`,
		`{"Image":"x","NetworkingConfig":{"EndpointsConfig":{"n":null}}}`, `{"Image":"x","HostConfig":{"Ulimits":[null]}}`,
		`{"Image":"x","Healthcheck":{"Test":["CMD","x"],"Interval":5}}`,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		b := createRequest{HostConfig: &container.HostConfig{}}
		if json.Unmarshal([]byte(text), &b) != nil || b.Config == nil || b.HostConfig == nil {
			return
		}
		o, _, err := options(&b)
		if err == nil {
			inspect.HostConfig(&runner.Container{Config: runner.Config{Options: o}})
		}
	})
}

// TestRoundTrip: what a container was created with is what an inspection tells.
func TestRoundTrip(t *testing.T) {
	const text = `{"Image":"x","HostConfig":{"NetworkMode":"none","Binds":["/a:/b:ro,z","named:/c"],"Memory":67108864,"MemorySwap":-1,"NanoCpus":500000000,
		"CpuShares":512,"CpuRealtimePeriod":1000000,"CpuRealtimeRuntime":950000,"DeviceCgroupRules":["c 1:3 rwm","b *:* r"],"CpusetCpus":"0-1","PidsLimit":10,"OomScoreAdj":5,"RestartPolicy":{"Name":"on-failure","MaximumRetryCount":3},"AutoRemove":false,
		"CapAdd":["NET_ADMIN"],"CapDrop":["ALL"],"Dns":["1.1.1.1"],"DnsSearch":["a"],"DnsOptions":["b"],"ExtraHosts":["h:1.2.3.4"],"GroupAdd":["g"],
		"IpcMode":"host","PidMode":"host","UTSMode":"host","Privileged":true,"PublishAllPorts":true,"ReadonlyRootfs":true,"SecurityOpt":["no-new-privileges","label=disable"],
		"ShmSize":1000,"Sysctls":{"a":"b"},"Tmpfs":{"/t":"size=1m"},"VolumesFrom":["v"],"Init":true,
		"Ulimits":[{"Name":"nofile","Soft":1,"Hard":2}],"Devices":[{"PathOnHost":"/dev/a","PathInContainer":"/dev/b","CgroupPermissions":"r"}],
		"LogConfig":{"Type":"json-file","Config":{"max-size":"1000","max-file":"2"}},"Annotations":{"n":"o"},
		"PortBindings":{"80/tcp":[{"HostIp":"127.0.0.1","HostPort":"8080"}],"53/udp":[{"HostIp":"","HostPort":""}],"90/tcp":[{"HostIp":"","HostPort":"80-82"}]},"ContainerIDFile":"/tmp/id",
		"Mounts":[{"Type":"bind","Source":"/s","Target":"/m","ReadOnly":true,"BindOptions":{"Propagation":"rslave","CreateMountpoint":true}},{"Type":"image","Source":"i","Target":"/i"}]}}`
	var b createRequest
	if err := json.Unmarshal([]byte(text), &b); err != nil {
		t.Fatal(err)
	}
	o, warnings, err := options(&b)
	if err != nil || warnings != nil {
		t.Fatal(err, warnings)
	}
	got := reflect.ValueOf(*inspect.HostConfig(&runner.Container{Config: runner.Config{Options: o}}))
	want := reflect.ValueOf(*b.HostConfig)
	var compare func(want, got reflect.Value)
	compare = func(want, got reflect.Value) {
		for i := range want.NumField() {
			f := want.Type().Field(i)
			switch {
			case f.Anonymous:
				compare(want.Field(i), got.Field(i))
			case want.Field(i).IsZero():
			default:
				a, _ := json.Marshal(want.Field(i).Interface())
				b, _ := json.Marshal(got.Field(i).Interface())
				if string(a) != string(b) {
					t.Errorf("%s: %s, want %s", f.Name, b, a)
				}
			}
		}
	}
	compare(want, got)
}

// TestLinks: links are told in the form that names the container too.
func TestLinks(t *testing.T) {
	c := &runner.Container{Name: "web", Config: runner.Config{Options: runner.Options{Links: []string{"db", "cache:store"}}}}
	if diff := cmp.Diff([]string{"/db:/web/db", "/cache:/web/store"}, inspect.HostConfig(c).Links); diff != "" {
		t.Error(diff)
	}
}

// TestRefused: what teu does not have is named.
func TestRefused(t *testing.T) {
	for host, word := range map[string]string{
		`"Runtime":"nvidia"`: "nvidia", `"DeviceRequests":[{"Driver":"x"}]`: `could not select device driver "x" with capabilities: []`, `"Isolation":"hyperv"`: "invalid isolation 'hyperv' on linux",
		`"LogConfig":{"Type":"splunk"}`: "splunk", `"Binds":["a:b"]`: "absolute", `"Binds":["/a:/"]`: "destination can't be '/'",
		`"Binds":["/a:/b:ro,rw"]`: "invalid mode: ro,rw", `"Binds":["vol:/b:shared"]`: "invalid mode: shared", `"Binds":["vol:/b:copy"]`: "invalid mode: copy",
		`"Mounts":[{"Type":"bind","Source":"/a","Target":"/x","BindOptions":{"Propagation":"all"}}]`: "invalid propagation mode: all",
		`"Mounts":[{"Type":"tmpfs","Target":"/x","VolumeOptions":{}}]`:                               "field VolumeOptions must not be specified",
		`"Mounts":[{"Type":"tmpfs","Target":"/x","TmpfsOptions":{"Options":[["suid"]]}}]`:            "invalid option: suid",
		`"Mounts":[{"Type":"volume","Target":"/x","VolumeOptions":{"Subpath":"a"}}]`:                 "must not set Subpath",
		`"RestartPolicy":{"MaximumRetryCount":1}`:                                                    "only be used with 'on-failure'",
		`"PidMode":"x"`: "invalid PID mode", `"DeviceCgroupRules":["x"]`: "device cgroup rule", `"SecurityOpt":["nosuch=1"]`: "security-opt",
		`"MemorySwappiness":-5`: "valid memory swappiness range is 0-100", `"BlkioDeviceReadBps":[{"Path":"/dev/nosuch","Rate":5}]`: "device /dev/nosuch",
		`"BlkioWeightDevice":[{"Path":"/dev/nosuch","Weight":500}]`: "device /dev/nosuch",
		`"Mounts":[{"Type":"npipe","Target":"/x"}]`:                 "mount type unknown", `"RestartPolicy":{"Name":"sometimes"}`: "unknown policy",
	} {
		var b createRequest
		if err := json.Unmarshal([]byte(`{"Image":"x","HostConfig":{`+host+`}}`), &b); err != nil {
			t.Fatal(err)
		}
		if _, _, err := options(&b); err == nil || status(err) != http.StatusBadRequest || !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, want a refusal with %q", host, err, word)
		}
	}
}

func FuzzDecodeAuth(f *testing.F) {
	for _, seed := range []string{"", "e30=", "e30", "eyJ1c2VybmFtZSI6ImEifQ==", "%%%"} {
		f.Add(seed)
	}
	f.Fuzz(func(_ *testing.T, text string) {
		var v map[string]any
		decodeAuth(text, &v)
	})
}

// TestClientGone: a client that leaves before it is answered is no fault of the server.
func TestClientGone(t *testing.T) {
	var log bytes.Buffer
	s := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	defer s.Close()
	ours, theirs := net.Pipe()
	theirs.Close()
	w := leaving{httptest.NewRecorder(), ours}
	r := &request{Request: httptest.NewRequest("POST", "/exec/x/start", nil), server: s, version: newestVersion}
	_, err := hijack(w, r, false)
	if err == nil {
		t.Fatal("it was answered")
	}
	if s.fail(w, r, err); log.Len() > 0 {
		t.Errorf("it was logged: %s", &log)
	}
}

type leaving struct {
	http.ResponseWriter
	conn net.Conn
}

// Hijack implements http.Hijacker.
func (l leaving) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return l.conn, bufio.NewReadWriter(bufio.NewReader(l.conn), bufio.NewWriter(l.conn)), nil
}
