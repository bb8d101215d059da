package runner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The words are dockerd's (moby 20.10 to 29, daemon/logger).
func TestLogOptions(t *testing.T) {
	for _, c := range []struct {
		driver, options string // k=v, separated by spaces
		want            string // nothing is wrong
	}{
		{"syslog", "", ""},
		{"syslog", "syslog-address=udp://h:1 syslog-facility=local3 syslog-format=rfc5424micro tag={{.Name}} labels=a env=b env-regex=^c", ""},
		{"syslog", "syslog-address=tcp://h", ""},
		{"syslog", "syslog-facility=24", "invalid syslog facility"},
		{"syslog", "syslog-facility=23", ""},
		{"syslog", "syslog-format=rfc1", "Invalid syslog format"},
		{"syslog", "syslog-address=ftp://h", "unsupported scheme: 'ftp'"},
		{"syslog", "syslog-address=unix:///no/such", "stat /no/such: no such file or directory"},
		{"syslog", "syslog-address=tcp+tls://h syslog-tls-ca-cert=/ca syslog-tls-cert=/c syslog-tls-key=/k syslog-tls-skip-verify=true", ""},
		{"syslog", "syslog-address=tls://h", "unsupported scheme: 'tls'"},
		{"syslog", "color=red", "unknown log opt 'color' for syslog log driver"},
		{"syslog", "max-size=1m", "unknown log opt 'max-size' for syslog log driver"},
		{"syslog", "cache-max-size=1m cache-max-file=2 cache-compress=false", ""},
		{"syslog", "cache-disabled=maybe", "invalid value for option cache-disabled: maybe"},
		{"syslog", "cache-max-file=0", "max-file cannot be less than 1"},
		{"journald", "tag=x labels-regex=^a", ""},
		{"journald", "color=red", "unknown log opt 'color' for journald log driver"},
		{"fluentd", "", ""},
		{"fluentd", "fluentd-address=h fluentd-async=true fluentd-buffer-limit=8m fluentd-retry-wait=2s fluentd-max-retries=7 fluentd-sub-second-precision=1 fluentd-request-ack=0", ""},
		{"fluentd", "fluentd-address=unix:///run/f.sock", ""},
		{"fluentd", "fluentd-address=unix://", "invalid fluentd-address (unix://): path is empty"},
		{"fluentd", "fluentd-address=tcp://h:1/x", "invalid fluentd-address (tcp://h:1/x): should not contain a path element"},
		{"fluentd", "fluentd-address=tls://h", ""},
		{"fluentd", "fluentd-address=tcp+tls://h", "unsupported scheme: 'tcp+tls'"},
		{"fluentd", "fluentd-address=h:99999", "invalid fluentd-address (h:99999): invalid port: strconv.ParseUint: parsing \"99999\": value out of range"},
		{"fluentd", "fluentd-async=maybe", "strconv.ParseBool: parsing \"maybe\": invalid syntax"},
		{"fluentd", "fluentd-retry-wait=soon", "time: invalid duration \"soon\""},
		{"fluentd", "fluentd-max-retries=4294967295", "invalid fluentd-max-retries: value out of range"},
		{"fluentd", "color=red", "unknown log opt 'color' for fluentd log driver"},
		{"gelf", "", "gelf-address is a required parameter"},
		{"gelf", "gelf-address=udp://h:1 gelf-compression-type=zlib gelf-compression-level=9", ""},
		{"gelf", "gelf-address=tcp://h:1 gelf-tcp-max-reconnect=0 gelf-tcp-reconnect-delay=2", ""},
		{"gelf", "gelf-address=tcp://h:1 gelf-compression-type=gzip", "compression is only supported on UDP"},
		{"gelf", "gelf-address=udp://h:1 gelf-compression-level=10", "unknown value \"10\" for log opt \"gelf-compression-level\" for gelf log driver"},
		{"gelf", "gelf-address=udp://h:1 gelf-tcp-max-reconnect=1", "\"gelf-tcp-max-reconnect\" is only valid for TCP"},
		{"gelf", "gelf-address=udp://h", "gelf: please provide gelf-address as proto://host:port"},
		{"gelf", "gelf-address=http://h:1", "gelf: endpoint needs to be TCP or UDP"},
		{"gelf", "gelf-address=udp://h:1 color=red", "unknown log opt \"color\" for gelf log driver"},
		{"json-file", "max-size=1m tag=x cache-max-size=3k mode=non-blocking max-buffer-size=4m", ""},
		{"json-file", "mode=sometimes", "logger: logging mode not supported: sometimes"},
		{"json-file", "max-buffer-size=4m", "logger: max-buffer-size option is only supported with 'mode=non-blocking'"},
		{"json-file", "mode=non-blocking max-buffer-size=x", "error parsing option max-buffer-size: invalid size: 'x'"},
		{"local", "tag=x labels=a", ""},
		{"local", "color=red", "unknown log opt 'color' for local log driver"},
		{"none", "color=red", ""},
		{"splunk", "", "logger: the log driver splunk is not supported by teu: fluentd"},
		{"spunk", "", "logger: no log driver named 'spunk' is registered"},
	} {
		options := map[string]string{}
		for _, kv := range strings.Fields(c.options) {
			k, v, _ := strings.Cut(kv, "=")
			options[k] = v
		}
		err := new(Options).SetLog(c.driver, options)
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s %s: %v", c.driver, c.options, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, errdefs.ErrInvalidArgument)):
			t.Errorf("%s %s: %v, want %s", c.driver, c.options, err, c.want)
		}
	}
}

func logged(driver string, options map[string]string) *Container {
	c := &Container{Name: "web"}
	c.ID, c.ImageID = strings.Repeat("0123456789abcdef", 4), "sha256:fedcba9876543210"
	c.Options.Image, c.Options.Args = "busybox:1", []string{"sh", "-c", "x"}
	c.Options.Labels = map[string]string{"color": "red", "com.example/size": "5", "other": "no"}
	c.Options.Env = []string{"MODE=fast", "SECRET=no"}
	c.ImageConfig = ocispec.ImageConfig{Env: []string{"PATH=/bin"}}
	c.Options.LogDriver, c.Options.LogOptions = driver, options
	return c
}

func TestLogTag(t *testing.T) {
	for tag, want := range map[string]string{
		"":        "0123456789ab",
		"plain":   "plain",
		"{{.ID}}": "0123456789ab",
		"{{.ImageName}}/{{.Name}}/{{.ImageID}}/{{.ImageFullID}}/{{.DaemonName}}": "busybox:1/web/fedcba987654/sha256:fedcba9876543210/docker",
		"{{.FullID}} {{.Command}}": strings.Repeat("0123456789abcdef", 4) + " sh -c x",
		"{{.ExtraAttributes nil}}": "map[MODE:fast color:red]",
		`{{upper .Name}}{{truncate .ImageName 4}}{{index (split .ContainerName "/") 1}}{{json .ContainerArgs}}`: `WEBbusyweb["-c","x"]`,
	} {
		got, err := logTag(logged("syslog", map[string]string{"tag": tag, "labels": "color", "env-regex": "^MO"}))
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", tag, got, err, want)
		}
	}
	for tag, want := range map[string]string{
		"{{.Nope}}": "failed to initialize logging driver: template: log-tag:1:2: executing \"log-tag\" at <.Nope>: can't evaluate field Nope",
		"{{":        "failed to initialize logging driver: template: log-tag:1: unclosed action",
	} {
		_, err := new(Engine).logSender(t.Context(), logged("syslog", map[string]string{"tag": tag}))
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v", tag, err)
		}
	}
}

func TestLogAttributes(t *testing.T) {
	c := logged("journald", map[string]string{"labels": "color,com.example/size,none", "env": "MODE"})
	text := string(journalFields(c, "tag"))
	for _, want := range []string{
		"COLOR=red\n", "COM_EXAMPLE_SIZE=5\n", "MODE=fast\n", "CONTAINER_ID=0123456789ab\n", "CONTAINER_NAME=web\n", "CONTAINER_TAG=tag\n",
		"SYSLOG_IDENTIFIER=tag\n", "IMAGE_NAME=busybox:1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q has no %q", text, want)
		}
	}
	if strings.Contains(text, "OTHER") || strings.Contains(text, "SECRET") {
		t.Errorf("%q", text)
	}
	if got := journalName("_._a9ü-B"); got != "A9__B" {
		t.Errorf("a field of the journal is called %s", got)
	}
	s, err := newSender(logged("gelf", map[string]string{"labels": "color", "gelf-address": "udp://h:1"}))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(append([]byte{'{'}, s.Static...), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"_container_id": strings.Repeat("0123456789abcdef", 4), "_container_name": "web", "_image_id": "sha256:fedcba9876543210",
		"_image_name": "busybox:1", "_command": "sh -c x", "_tag": "0123456789ab", "_created": "0001-01-01T00:00:00Z", "_color": "red",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestLogTargets(t *testing.T) {
	for _, c := range []struct{ driver, key, address, want string }{
		{"syslog", "syslog-address", "udp://127.0.0.1", "{udp 127.0.0.1:514}"},
		{"syslog", "syslog-address", "tcp://[::1]:99", "{tcp [::1]:99}"},
		{"syslog", "syslog-address", "unixgram:///dev/null", "{unixgram /dev/null}"},
		{"syslog", "syslog-address", "tcp+tls://logs.invalid", "{tls logs.invalid:514}"},
		{"syslog", "", "", "{unixgram /dev/log}"},
		{"fluentd", "", "", "{tcp 127.0.0.1:24224}"},
		{"fluentd", "fluentd-address", "127.0.0.2:5", "{tcp 127.0.0.2:5}"},
		{"fluentd", "fluentd-address", "tls://logs.invalid", "{tls logs.invalid:24224}"},
		{"journald", "", "", "{unixgram /run/systemd/journal/socket}"},
		{"gelf", "gelf-address", "udp://127.0.0.1:12201", "{udp 127.0.0.1:12201}"},
	} {
		o := &Options{LogDriver: c.driver, LogOptions: map[string]string{c.key: c.address}}
		got, err := o.logTargets(t.Context())
		if err != nil || len(got) == 0 || fmt.Sprint(got[0]) != c.want {
			t.Errorf("%s %s: %v, %v", c.driver, c.address, got, err)
		}
	}
}

// TestLogSent: lines go to the server and are kept, and with the cache disabled are not; who restarts and removes the
// container is not in the way.
func TestLogSent(t *testing.T) {
	e := newEngine(t)
	path := filepath.Join(t.TempDir(), "log")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	read := func() string {
		t.Helper()
		l.SetReadDeadline(time.Now().Add(10 * time.Second))
		buf := make([]byte, 1000)
		n, err := l.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		head, text, _ := strings.Cut(string(buf[:n]), "]: ")
		return head[:4] + text
	}
	for _, disabled := range []string{"false", "true"} {
		o := sh("echo out; echo err >&2")
		if err := o.SetLog("syslog", map[string]string{"syslog-address": "unixgram://" + path, "cache-disabled": disabled}); err != nil {
			t.Fatal(err)
		}
		detached(t, e, "box", o)
		for run := range 2 {
			if _, err := e.Wait(t.Context(), "box"); err != nil {
				t.Fatal(err)
			}
			got := map[string]bool{read(): true, read(): true}
			if !got["<30>out\n"] || !got["<27>err\n"] {
				t.Errorf("run %d: %v", run, got)
			}
			if run == 0 {
				if _, err := e.Start(t.Context(), "box", StartOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if disabled == "false" {
			if got := logs(t, e, "box", LogOptions{Tail: -1}); strings.Count(got, "out\n") != 2 {
				t.Errorf("kept: %q", got)
			}
		} else if err := e.Logs(t.Context(), "box", LogOptions{}, nil, nil); err == nil || err.Error() != "configured logging driver does not support reading" {
			t.Errorf("%v", err)
		}
		if in, err := e.Inspect(t.Context(), "box"); err != nil || in.LogPath != "" {
			t.Errorf("LogPath %q, %v", in.LogPath, err)
		}
		if err := e.Remove(context.Background(), "box", RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
	}
}

// Options of containers come from clients: whatever they are, what is taken has an address and can be sent to the keeper.
func FuzzLogOptions(f *testing.F) {
	f.Add("syslog", "syslog-address", "udp://[::1%lo]:514", "{{.Name}}")
	f.Add("fluentd", "fluentd-address", "unix:///x", "{{range .ContainerArgs}}{{end}}")
	f.Add("gelf", "gelf-address", "tcp://:", "")
	f.Fuzz(func(t *testing.T, driver, key, value, tag string) {
		var o Options
		if err := o.SetLog(driver, map[string]string{key: value, "tag": tag}); err != nil || !o.sendsLog() {
			return
		}
		if a, err := o.logAddress(); err != nil || a.network != "" && a.host == "" && a.path == "" && !strings.HasPrefix(a.network, "unix") {
			t.Errorf("%+v: %v", a, err)
		}
	})
}
