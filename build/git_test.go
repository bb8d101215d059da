package build

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/teu-dev/teu/build/op"
)

// gitRepo makes a repository whose file f begins with text and serves its files as they are: a server of that kind cannot cut
// off a history. A submodule is the URL of another.
func gitRepo(t *testing.T, text, submodule string) (url string) {
	t.Helper()
	loopback(t)
	dir := t.TempDir()
	script := "git init -q -b main . && echo " + text + " >f && git add f && git commit -qm one && echo more >>f && git commit -qam two"
	if submodule != "" {
		script += " && git submodule add -q -- " + submodule + " sub && git commit -qm sub"
	}
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script+" && git tag -m v1 v1 && git update-server-info")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	server := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(server.Close)
	return server.URL + "/.git"
}

func TestGitServerOfPlainFiles(t *testing.T) {
	b := newBench(t)
	url := gitRepo(t, "text", gitRepo(t, "text", ""))
	for _, line := range []string{"ADD " + url + "#main /", "ADD --keep-git-dir=true " + url + "?ref=v1 /"} {
		res, l := b.must(Options{}, "FROM scratch", line)
		files := b.files(res)
		for _, want := range []string{"f 644 0:0 text\nmore", "sub/f 644 0:0 text\nmore"} {
			if !slices.Contains(files, want) {
				t.Errorf("%s: no %q in %q", line, want, files)
			}
		}
		if said := l.output.String(); strings.Contains(said, "fatal:") {
			t.Errorf("%s: told what was tried in vain:\n%s", line, said)
		}
	}
}

func TestGitAdvice(t *testing.T) {
	b := newBench(t)
	for arg, want := range map[string]bool{"": false, "1": true} {
		url := gitRepo(t, "for"+arg, "") // another commit: what was brought is not brought again
		_, l := b.must(Options{Args: map[string]string{"BUILDKIT_GIT_ADVICE": arg}}, "FROM scratch", "ADD --keep-git-dir=true "+url+"#v1 /")
		if got := strings.Contains(l.output.String(), "detached HEAD"); got != want {
			t.Errorf("with %q: advice is %v: %s", arg, got, l.output.String())
		}
	}
}

// TestSSHMount is the agent that is meant when a step names none.
func TestSSHMount(t *testing.T) {
	b := newBench(t)
	key := filepath.Join(t.TempDir(), "key")
	if out, err := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	agent, err := op.OpenSSHAgent([]string{key}, false)
	if err != nil {
		t.Fatal(err)
	}
	_, l := b.must(Options{SSH: map[string]op.SSHAgent{"default": agent}}, "FROM busybox",
		`RUN --mount=type=ssh,mode=741,uid=100,gid=102 stat -c "%u %g %f" $SSH_AUTH_SOCK`)
	if got := strings.TrimSpace(l.output.String()); got != "100 102 c1e1" {
		t.Errorf("got %q", got)
	}
	if _, _, err := b.build(Options{}, "FROM busybox", "RUN --mount=type=ssh,required=true true"); err == nil || !strings.Contains(err.Error(), `ssh agent "default"`) {
		t.Errorf("without an agent: %v", err)
	}
}
