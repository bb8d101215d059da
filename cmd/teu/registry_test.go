package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestRegistryGC: a collection beside a server tells what it would remove, and keeps what is
// within the grace.
func TestRegistryGC(t *testing.T) {
	root := filepath.Join(t.TempDir(), "registry")
	r := startCommand(t, "serve", "registry", "--addr", "127.0.0.1:0", "--root", root, "--gc-interval", "1h", "--gc-grace", "1m")
	line, err := r.stdout.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "serving registry on ")
	if err != nil || !ok {
		t.Fatalf("got %q (%v)\n%s", line, err, r.errors(t))
	}
	resp, err := http.Post("http://"+addr+"/v2/a/blobs/uploads/?digest="+digest.FromString("blob").String(), "application/octet-stream", strings.NewReader("blob"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 201 {
		t.Fatalf("got %s", resp.Status)
	}
	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"text":         {[]string{"--root", root, "--dry-run"}, 0, "kept 1 that are unused for less than 1h0m0s\nwould remove 0 manifests"},
		"json":         {[]string{"--root", root, "--dry-run", "--format", "json"}, 0, `"blobs":1,"fresh":1`},
		"short grace":  {[]string{"--root", root, "--grace", "1ms"}, exitFailure, "too short"},
		"no registry":  {[]string{"--root", t.TempDir()}, exitFailure, "there is no registry"},
		"wrong format": {[]string{"--format", "x"}, exitFailure, "text or json"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			gc := startCommand(t, append([]string{"registry", "gc"}, test.args...)...)
			out, err := io.ReadAll(gc.stdout)
			says := string(out) + gc.errors(t)
			if code := <-gc.code; err != nil || code != test.code || !strings.Contains(says, test.says) {
				t.Errorf("got exit code %d and %q, want %d and %q", code, says, test.code, test.says)
			}
		})
	}
	http.DefaultClient.CloseIdleConnections()
	r.stop()
	if code := <-r.code; code != 0 {
		t.Errorf("got exit code %d of the server\n%s", code, r.errors(t))
	}
}

// runCommand runs a command to its end and returns what it printed.
func runCommand(t *testing.T, code int, args ...string) string {
	t.Helper()
	r := startCommand(t, args...)
	out, err := io.ReadAll(r.stdout)
	if got := <-r.code; err != nil || got != code {
		t.Fatalf("teu %s: got exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, out, r.errors(t))
	}
	return string(out)
}

// TestRegistryAccounts: what user, token and acl say is what a server beside them goes by.
func TestRegistryAccounts(t *testing.T) {
	root := filepath.Join(t.TempDir(), "registry")
	key := strings.TrimSpace(runCommand(t, 0, "registry", "token", "create", "--root", root, "--expires", "1h", "ci"))
	runCommand(t, exitFailure, "registry", "token", "create", "--root", root, "ci")
	runCommand(t, 0, "registry", "acl", "add", "--root", root, "team/**", "ci", "pull")
	runCommand(t, 0, "registry", "acl", "add", "--root", root, "team/**", "ci", "pull,push")
	runCommand(t, exitFailure, "registry", "acl", "add", "--root", root, "x", "ci", "fly")
	if got := runCommand(t, 0, "registry", "acl", "ls", "--root", root, "--format", "{{.Repositories}} {{.Who}} {{.Actions}}"); got != "team/** ci pull,push\n" {
		t.Errorf("got rules %q", got)
	}
	if got := runCommand(t, 0, "registry", "token", "ls", "--root", root, "--format", "{{.Name}}"); got != "ci\n" {
		t.Errorf("got robots %q", got)
	}
	r := startCommand(t, "serve", "registry", "--addr", "127.0.0.1:0", "--root", root, "--accounts")
	line, err := r.stdout.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "serving registry on ")
	if err != nil || !ok {
		t.Fatalf("got %q (%v)\n%s", line, err, r.errors(t))
	}
	post := func(repo, key string) int {
		req, err := http.NewRequest("POST", "http://"+addr+"/v2/"+repo+"/blobs/uploads/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("ci", key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for repo, want := range map[string]int{"team/app": 202, "other": 403} {
		if got := post(repo, key); got != want {
			t.Errorf("%s: got %d, want %d", repo, got, want)
		}
	}
	if got := post("team/app", "x"); got != 401 {
		t.Errorf("wrong key: got %d", got)
	}
	runCommand(t, 0, "registry", "acl", "rm", "--root", root, "team/**", "ci")
	runCommand(t, exitFailure, "registry", "acl", "rm", "--root", root, "team/**", "ci")
	runCommand(t, 0, "registry", "token", "rm", "--root", root, "ci")
	runCommand(t, exitFailure, "registry", "user", "rm", "--root", root, "ci")
	http.DefaultClient.CloseIdleConnections()
	r.stop()
	<-r.code
}

// TestRegistryRules: rules are checked, kept, shown and previewed.
func TestRegistryRules(t *testing.T) {
	root := filepath.Join(t.TempDir(), "registry")
	file := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(file, []byte(`[{"repositories": "**", "keepLast": 1}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, exitFailure, "registry", "rules", "show", "--root", root)
	runCommand(t, 0, "registry", "token", "create", "--root", root, "ci") // makes it
	if got := runCommand(t, 0, "registry", "rules", "show", "--root", root); got != "[]\n" {
		t.Errorf("got %q", got)
	}
	runCommand(t, 0, "registry", "rules", "set", "--root", root, file)
	if got := runCommand(t, 0, "registry", "rules", "show", "--root", root); !strings.Contains(got, `"keepLast": 1`) {
		t.Errorf("got %q", got)
	}
	if got := runCommand(t, 0, "registry", "rules", "preview", "--root", root); got != "REPOSITORY   TAG       PUSHED    RULE\n" {
		t.Errorf("got %q", got)
	}
	if err := os.WriteFile(file, []byte(`[{"repositories": "**"}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, exitFailure, "registry", "rules", "set", "--root", root, file)
}

// TestRegistryCare: stat, verify and import of a registry, and what they refuse.
func TestRegistryCare(t *testing.T) {
	root := filepath.Join(t.TempDir(), "registry")
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"gc"}, {"stat"}, {"verify"}, {"verify", "--quarantine"}, {"rules", "show"}, {"rules", "preview"},
		{"user", "ls"}, {"user", "rm", "ann"}, {"token", "ls"}, {"token", "rm", "ci"}, {"acl", "ls"}, {"acl", "rm", "**", "ann"}} {
		empty := t.TempDir()
		for _, dir := range []string{root, empty, file} {
			r := startCommand(t, append(append([]string{"registry"}, args...), "--root", dir)...)
			if code := <-r.code; code != exitFailure || !strings.Contains(r.errors(t), "there is no registry") {
				t.Errorf("%v --root %s: got %d: %s", args, dir, code, r.errors(t))
			}
		}
		if made, err := filepath.Glob(empty + "/*"); err != nil || len(made) > 0 {
			t.Errorf("%v made %v", args, made)
		}
		if _, err := os.Lstat(root); err == nil {
			t.Fatalf("%v made a registry", args)
		}
	}
	rules := filepath.Join(t.TempDir(), "rules")
	if err := os.WriteFile(rules, []byte("[]"), 0o600); err != nil {
		t.Fatal(err)
	}
	runCommand(t, 0, "registry", "rules", "set", "--root", root, rules) // makes it
	if got := runCommand(t, 0, "registry", "stat", "--root", root, "--format", "json"); !strings.Contains(got, `"repositories":0`) {
		t.Errorf("got %s", got)
	}
	if got := runCommand(t, 0, "registry", "verify", "--root", root); got != "0 blobs (0B) and 0 manifests, 0 of them bad\n" {
		t.Errorf("got %s", got)
	}
	d := digest.FromString("good").Encoded()
	path := filepath.Join(root, "blobs", "sha256", d[:2], d)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("bad"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, exitFailure, "registry", "verify", "--root", root, "--quarantine"); !strings.Contains(got, "sha256:"+d) {
		t.Errorf("got %s", got)
	}
	runCommand(t, 0, "registry", "verify", "--root", root)
	runCommand(t, exitFailure, "registry", "import", "--root", root)
	runCommand(t, exitFailure, "registry", "import", "--root", root, "--distribution", t.TempDir())
	if err := os.MkdirAll(filepath.Join(root, "docker/registry/v2/repositories"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := runCommand(t, 0, "registry", "import", "--root", root, "--distribution", root); !strings.HasPrefix(got, "imported 0 repositories") {
		t.Errorf("got %s", got)
	}
}
