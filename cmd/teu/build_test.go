//go:build !front && !porter

package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cmd/teu/ui"
)

// parseBuild returns the options that a command line means.
func parseBuild(t *testing.T, args ...string) (build.Options, error) {
	t.Helper()
	var f buildFlags
	cmd := &cobra.Command{}
	f.register(cmd)
	if err := cmd.ParseFlags(args); err != nil {
		return build.Options{}, err
	}
	return f.options(&app{ui: &ui.UI{Out: &bytes.Buffer{}}}, ".")
}

func TestBuildFlags(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "")
	t.Setenv("GIVEN", "value")
	sock := testSocket(t)
	got, err := parseBuild(t,
		"-t", "a", "-t", "b", "--target", "x", "--build-arg", "A=b=c", "--build-arg", "GIVEN", "--build-arg", "NOT_GIVEN",
		"--label", "l=", "--label", "bare", "--platform", "linux/arm64/v8,amd64", "--no-cache-filter", "s,t", "--network", "host",
		"--add-host", "h:1.2.3.4,five.six.7.8=::2,::3", "--add-host", "six=[::1]", "--add-host", "up:host-gateway", "--shm-size", "1m", "--ulimit", "nofile=1:2",
		"--secret", "id=f,src=build.go", "--secret", "id=GIVEN", "--secret", "id=image.go", "--secret", "type=env,id=e,src=VAR",
		"--ssh", "default="+sock, "--ssh", "raw="+sock+",raw=true", "-o", "out", "-o", "type=oci,dest=x.tar", "--build-context", "n=docker-image://x",
		"--build-context", "docker.io/library/alpine:latest=docker-image://y", "--rm=false", "--resource", "memory=1m", "--resource", "cpu-shares=3",
		"--call", "format=json,check", "--policy", "disabled=true")
	if err != nil {
		t.Fatal(err)
	}
	got.Outputs[1].Writer = nil // standard output
	want := build.Options{
		Context: ".", Target: "x", Tags: []string{"a", "b"}, NoCacheOf: []string{"s", "t"},
		Args: map[string]string{"A": "b=c", "GIVEN": "value"}, Labels: map[string]string{"l": "", "bare": ""},
		Form: build.Form{Annotations: map[string]string{}}, Contexts: map[string]string{"n": "docker-image://x", "alpine": "docker-image://y"},
		Limits: map[string]string{"memory": "1048576", "cpushares": "3"}, Question: "frontend.lint",
		Platforms: []ocispec.Platform{{OS: "linux", Architecture: "arm64", Variant: "v8"}, {OS: "linux", Architecture: "amd64"}},
		Network:   "host", Entitlements: []string{"network.host"}, AddHosts: []string{"h=1.2.3.4", "five.six.7.8=::2", "five.six.7.8=::3", "six=::1", "up=host-gateway"},
		ShmSize: 1 << 20, Ulimits: []string{"nofile=1:2"},
		Secrets: map[string]build.Secret{"f": {File: "build.go"}, "GIVEN": {Env: "GIVEN"}, "image.go": {File: "image.go"}, "e": {Env: "VAR"}},
		SSH:     map[string]op.SSHAgent{"default": {Socket: sock}, "raw": {Socket: sock, Raw: true}},
		Outputs: []build.Output{{Type: "local", Dest: "out"}, {Type: "oci", Dest: "x.tar", Form: &build.Form{}}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(op.SSHAgent{})); diff != "" {
		t.Errorf("options (-want +got):\n%s", diff)
	}
}

// TestBuildOverSSH: a context that is reached over ssh gets the user's agent unasked, as with buildx.
func TestBuildOverSSH(t *testing.T) {
	sock := testSocket(t)
	for dir, want := range map[string]bool{"git@example.com:a/b.git": true, "ssh://example.com/a": true, "https://example.com/a.git": false, ".": false} {
		for _, agent := range []string{sock, ""} {
			t.Setenv("SSH_AUTH_SOCK", agent)
			o, err := new(buildFlags).options(&app{ui: &ui.UI{Out: &bytes.Buffer{}}}, dir)
			if _, got := o.SSH["default"]; err != nil || got != (want && agent != "") {
				t.Errorf("%s with the agent %q: %v, %v", dir, agent, got, err)
			}
		}
	}
}

// testSocket returns the path of a socket.
func testSocket(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return path
}

func TestSourcePolicyOfTheEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.json")
	for text, want := range map[string]bool{`{"rules":[{"action":"DENY","selector":{"identifier":"*"}}]}`: true, `{`: false, strings.Repeat(" ", 2<<20): false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		t.Setenv("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", file)
		if o, err := parseBuild(t); (err == nil) != want || (o.Policy != nil) != want {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	t.Setenv("EXPERIMENTAL_BUILDKIT_SOURCE_POLICY", file+".missing")
	if _, err := parseBuild(t); err == nil {
		t.Error("a policy that is not there: no error")
	}
}

func TestBuildFlagsThatAreWrong(t *testing.T) {
	for _, line := range []string{
		"--label =x", "--secret src=x", "--secret id", "--secret id=x,src=/missing", "--ulimit x", "--add-host h", "--shm-size much", "--platform a/b/c/d",
		"--output type=tar,color=red", "--call guess", "--call check,outline", "--add-host h:1.2.3", "--add-host 1.2.3.4", "--secret type=x,id=a",
		"--policy filename=p", "--resource disk=1", "--no-cache --no-cache-filter s", "-o x --iidfile i", "-o type=tar --iidfile i", "-o type=local,dest=/x,mode=delete", "-o type=local,dest=.,mode=delete", "-o type=local,dest=x,mode=move", "--allow buildx.local.delete=true",
		"-o type=local,dest=x,platform-split=maybe", "-o type=local,dest=x,src=", "-o type=image,push=maybe", "-o type=local", "-o type=local,dest=-", "--build-arg BUILDKIT_SYNTAX=", "--build-context UP=.", "--build-arg =x", "--ssh =x", "--ssh a=/missing", "--ssh a=/etc/passwd", "--ssh a=/dev/null,raw=true",
	} {
		if _, err := parseBuild(t, strings.Fields(line)...); err == nil {
			t.Errorf("%s: no error", line)
		}
	}
}

func TestBuildStdin(t *testing.T) {
	cases := map[string]struct {
		flags         buildFlags
		context, in   string
		text, wantErr string
		tar           bool
	}{
		"a Dockerfile as context": {context: "-", in: "FROM x", text: "FROM x"},
		"a Dockerfile beside one": {flags: buildFlags{file: "-"}, context: ".", in: "FROM y", text: "FROM y"},
		"a compressed context":    {context: "-", in: "\x1f\x8b rest", tar: true},
		"a Dockerfile twice":      {flags: buildFlags{file: "D"}, context: "-", in: "FROM z", wantErr: "ambiguous"},
		"both":                    {flags: buildFlags{file: "-"}, context: "-", wantErr: "cannot be both"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := build.Options{Context: c.context, Dockerfile: c.flags.file}
			err := c.flags.stdin(strings.NewReader(c.in), &o)
			if c.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), c.wantErr) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil || string(o.DockerfileText) != c.text || (o.ContextTar != nil) != c.tar || o.Dockerfile != "" {
				t.Errorf("got %+v, %v", o, err)
			}
		})
	}
}

func TestDockerfileOfTheWeb(t *testing.T) {
	web := httptest.NewServer(http.FileServerFS(fstest.MapFS{"Dockerfile": {Data: []byte("FROM x")}}))
	defer web.Close()
	f := buildFlags{file: web.URL + "/Dockerfile"}
	o := build.Options{Context: "-", Dockerfile: f.file}
	if err := f.inputs(t.Context(), strings.NewReader(""), &o); err != nil {
		t.Fatal(err)
	}
	if string(o.DockerfileText) != "FROM x" || o.Dockerfile != "" || o.ContextTar == nil || o.Context != "" {
		t.Errorf("got %+v", o)
	}
	f.file = web.URL + "/missing"
	if err := f.inputs(t.Context(), nil, &o); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a missing one: %v", err)
	}
}

func TestIsArchive(t *testing.T) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "Dockerfile", Mode: 0o644}), w.Close()); err != nil {
		t.Fatal(err)
	}
	old := bytes.Clone(b.Bytes()[:512]) // without the magic, as tars of 1979 are
	clear(old[257:265])
	sum := 8 * int(' ')
	for i, c := range old {
		if i < 148 || i >= 156 {
			sum += int(c)
		}
	}
	copy(old[148:156], fmt.Sprintf("%06o\x00 ", sum))
	for name, c := range map[string]struct {
		head []byte
		want bool
	}{"tar": {b.Bytes()[:512], true}, "tar of 1979": {old, true}, "gzip": {[]byte("\x1f\x8b"), true},
		"Dockerfile": {bytes.Repeat([]byte("FROM x\n"), 74)[:512], false}, "short": {[]byte("FROM x"), false}, "zeros": {make([]byte, 512), false}} {
		if got := isArchive(c.head); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
