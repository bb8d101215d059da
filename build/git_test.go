package build

import (
	"bufio"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/cache/statefile"
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

// A repository whose making was given up is made anew.
func TestGitKilledAtFirst(t *testing.T) {
	b := newBench(t)
	url := gitRepo(t, "text", "")
	real, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\ncase \"$*\" in *'remote add'*) mkdir %s/once 2>/dev/null && exit 1;; esac\nexec %s \"$@\"\n", dir, real)
	if err := os.WriteFile(filepath.Join(dir, "git"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	out, err := exec.CommandContext(t.Context(), real, "ls-remote", url, "refs/heads/main").Output()
	if err != nil {
		t.Fatal(err)
	}
	commit, _, _ := strings.Cut(string(out), "\t")
	lines := []string{"FROM scratch", "ADD " + url + "#" + commit + " /"}
	if _, _, err := b.build(Options{}, lines...); err == nil {
		t.Fatal("git was not killed")
	}
	b.must(Options{}, lines...)
}

// TestGitPruned: what was fetched from a repository is a part of the build cache, and goes with it unless a build uses it.
func TestGitPruned(t *testing.T) {
	b := newBench(t)
	url := strings.Replace(gitRepo(t, "text", ""), "//", "//user:secret@", 1)
	lines := []string{"FROM scratch", "ADD " + url + "#main /"}
	b.must(Options{}, lines...)
	repos := func() (list []CacheEntry) {
		t.Helper()
		all, err := b.Cache(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.DeleteFunc(all, func(e CacheEntry) bool { return e.Type != CacheGit })
	}
	prune := func() {
		t.Helper()
		if _, err := b.Prune(t.Context(), PruneOptions{All: true}); err != nil {
			t.Fatal(err)
		}
	}
	list := repos()
	if len(list) != 1 || list[0].Size == 0 || list[0].InUse || time.Since(list[0].LastUsed) > time.Minute ||
		list[0].Description != "git repository "+strings.Replace(url, "secret", "xxxxx", 1) {
		t.Fatalf("entries: %+v", list)
	}
	locks, err := filepath.Glob(filepath.Join(b.Store.Root(), "build", "git", "*.lock"))
	if err != nil || len(locks) != 1 {
		t.Fatalf("locks %q, %v", locks, err)
	}
	unlock, err := statefile.Lock(t.Context(), locks[0], statefile.LockOptions{})
	if err != nil {
		t.Fatal(err)
	}
	prune()
	if list := repos(); len(list) != 1 || !list[0].InUse {
		t.Errorf("while a build uses it: %+v", list)
	}
	if err := unlock(); err != nil {
		t.Fatal(err)
	}
	prune()
	if list := repos(); len(list) != 0 {
		t.Errorf("after it: %+v", list)
	}
	b.must(Options{}, lines...)
}

// TestNotesForgotten: what builds note for later ones does not stay for ever.
func TestNotesForgotten(t *testing.T) {
	b := newBench(t)
	dir := filepath.Join(b.Store.Root(), "build")
	old, now := time.Now().Add(-40*24*time.Hour), time.Now()
	has := map[string]bool{}
	for _, notes := range []string{"contexts/a", "http/a", "why/a"} {
		for name, at := range map[string]time.Time{notes + "old": old, notes: now} {
			path := filepath.Join(dir, name)
			if strings.HasPrefix(name, "why/") {
				path += "/steps.json"
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
				t.Fatal(err)
			}
			has[name] = at == now
		}
	}
	if _, err := b.Prune(t.Context(), PruneOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range has {
		if _, err := os.Stat(filepath.Join(dir, name)); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// gitEnv is where the operations of one build work.
func gitEnv(b *bench) *op.Env {
	return &op.Env{Store: b.Store, Dir: b.t.TempDir(), RunDir: b.t.TempDir()}
}

// TestGitDescribed: a build is told the objects as git stores them, and sees the repository as it first found it.
func TestGitDescribed(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	var dir string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		http.FileServer(http.Dir(dir)).ServeHTTP(w, r)
	}))
	defer server.Close()
	loopback(t)
	dir = t.TempDir()
	git := func(script string) string {
		mu.Lock()
		defer mu.Unlock()
		cmd := exec.CommandContext(t.Context(), "sh", "-ec", script)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	git("git init -q -b main . && git commit -q --allow-empty -m one && git tag -m v1 v1 && git update-server-info")
	tag, commit := git("git rev-parse v1"), git("git rev-parse 'v1^{commit}'")
	src := &pb.SourceOp{Identifier: "git://example.com/x#v1", Attrs: map[string]string{pb.AttrFullRemoteURL: server.URL + "/.git"}}
	named := map[string]string{pb.AttrFullRemoteURL: server.URL + "/.git", pb.AttrAuthTokenSecret: "GIT_AUTH_TOKEN"} // as llb.Git says it
	env := gitEnv(b)
	for _, when := range []string{"at first", "when the tag has moved"} {
		info, err := env.Describe(t.Context(), src)
		if err != nil {
			t.Fatal(err)
		}
		if info.Ref != "refs/tags/v1" || info.Commit != tag || info.Tagged != commit {
			t.Errorf("%s: got %s, %s of %s, want %s of %s", when, info.Ref, info.Commit, info.Tagged, tag, commit)
		}
		for kind, object := range map[string][]byte{"commit": info.Object, "tag": info.Tag} {
			sum := sha1.Sum(append(fmt.Appendf(nil, "%s %d\x00", kind, len(object)), object...))
			if got := hex.EncodeToString(sum[:]); got != tag && got != commit {
				t.Errorf("%s: the %s is not what git has: %q", when, kind, object)
			}
		}
		src.Attrs = named
		git("git commit -q --allow-empty -m two && git tag -f -m v1 v1 2>&1 && git update-server-info")
	}
	if info, err := gitEnv(b).Describe(t.Context(), src); err != nil || info.Commit == tag {
		t.Errorf("another build: got %s, %v", info.Commit, err)
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

// gitDir makes a bare repository with a branch main whose directory sub has a file f.
func gitDir(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-ec", "git init -q -b main w; cd w; mkdir sub; echo text >sub/f; git add .; git commit -qm one; cd ..; git clone -q --bare w r.git")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return dir
}

// TestGitCredentials: what secrets open a repository on the web, for the context and for ADD. A secret of a host
// wins over one of all, a header over a token; what belongs to another host is not sent.
func TestGitCredentials(t *testing.T) {
	b := newBench(t)
	loopback(t)
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	backend := &cgi.Handler{Path: path, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + gitDir(t), "GIT_HTTP_EXPORT_ALL=1"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); (user != "x-access-token" || password != "open") && r.Header.Get("Authorization") != "Bearer open" {
			w.Header().Set("WWW-Authenticate", "Basic")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		backend.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	for name, c := range map[string]struct {
		secrets map[string]string
		denied  bool
	}{
		"nothing":                    {denied: true},
		"a token":                    {secrets: map[string]string{"GIT_AUTH_TOKEN": "open\n"}},
		"a wrong token":              {secrets: map[string]string{"GIT_AUTH_TOKEN": "shut"}, denied: true},
		"a header":                   {secrets: map[string]string{"GIT_AUTH_HEADER": "Bearer open"}},
		"a token of the host":        {secrets: map[string]string{"GIT_AUTH_TOKEN." + host: "open"}},
		"a token of another host":    {secrets: map[string]string{"GIT_AUTH_TOKEN.example.com": "open"}, denied: true},
		"a header before a token":    {secrets: map[string]string{"GIT_AUTH_HEADER": "Bearer open", "GIT_AUTH_TOKEN": "shut"}},
		"the host before everything": {secrets: map[string]string{"GIT_AUTH_TOKEN." + host: "open", "GIT_AUTH_HEADER": "Bearer shut"}},
	} {
		secrets := map[string]Secret{}
		for id, text := range c.secrets {
			b.write(map[string]string{id: text})
			secrets[id] = Secret{File: filepath.Join(b.dir, id)}
		}
		for _, o := range []Options{
			{Secrets: secrets, NoCache: true, DockerfileText: []byte("FROM scratch\nADD " + server.URL + "/r.git?branch=main&subdir=sub /\n")},
			{Secrets: secrets, NoCache: true, DockerfileText: []byte("FROM scratch\nCOPY . /\n"), Context: server.URL + "/r.git#main:sub"},
		} {
			res, _, err := b.build(o)
			switch {
			case c.secrets == nil && !strings.Contains(hintOf(err), "--secret id=GIT_AUTH_TOKEN"):
				t.Errorf("%s: the hint is %q", name, hintOf(err))
			case c.denied && (err == nil || !strings.Contains(err.Error(), "Authentication failed") && !strings.Contains(err.Error(), "could not read Username")):
				t.Errorf("%s: got %v, want to be denied", name, err)
			case !c.denied && err != nil:
				t.Errorf("%s: %v", name, err)
			case !c.denied && !slices.Equal(b.files(res), []string{"f 644 0:0 text"}):
				t.Errorf("%s: %v", name, b.files(res))
			}
		}
	}
}

// TestGitOverSSH: the agent that the user gave opens a repository over ssh, in every form of its URL.
func TestGitOverSSH(t *testing.T) {
	b := newBench(t)
	loopback(t)
	dir := gitDir(t)
	key := serveSSH(t)
	agent, err := op.OpenSSHAgent([]string{key}, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, url := range []string{"ssh://root@127.0.0.1:2222" + dir + "/r.git", "root@127.0.0.1:" + dir + "/r.git", "ssh://root@127.0.0.1" + dir + "/r.git"} {
		for _, o := range []Options{
			{DockerfileText: []byte("FROM scratch\nADD " + url + "#main:sub /\n")},
			{DockerfileText: []byte("FROM scratch\nCOPY . /\n"), Context: url + "#main:sub"},
		} {
			_, _, err := b.build(o)
			if err == nil || !strings.Contains(err.Error(), "Permission denied") || !strings.Contains(hintOf(err), "--ssh default") {
				t.Errorf("%s without an agent: got %v, hint %q", url, err, hintOf(err))
			}
			o.SSH = map[string]op.SSHAgent{"default": agent}
			res, _, err := b.build(o)
			if err != nil {
				t.Errorf("%s: %v", url, err)
			} else if !slices.Equal(b.files(res), []string{"f 644 0:0 text"}) {
				t.Errorf("%s: %v", url, b.files(res))
			}
		}
	}
}

func hintOf(err error) string {
	var e interface{ Hint() string }
	if !errors.As(err, &e) {
		return ""
	}
	return e.Hint()
}

// serveSSH runs OpenSSH's server on the loopback of the tests' network namespace. The key it returns opens root.
func serveSSH(t *testing.T) (key string) {
	t.Helper()
	unpacked, err := filepath.Abs("../.cache/sshd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// The user that sshd gives its rights up to is known in a mount namespace of its own only.
	script := `cd "$1"; ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f key
{ cat /etc/passwd; echo 'sshd:x:65533:65534::/run/sshd:/usr/sbin/nologin'; } >passwd
cat >config <<-END
	ListenAddress 127.0.0.1:22
	ListenAddress 127.0.0.1:2222
	HostKey $1/host
	AuthorizedKeysFile $1/key.pub
	PasswordAuthentication no
	UsePAM no
	StrictModes no
	PidFile none
END
mount --bind passwd /etc/passwd; mount -t tmpfs run /run; mkdir /run/sshd
LD_LIBRARY_PATH="$2/usr/lib/$(uname -m)-linux-gnu" exec "$2/usr/sbin/sshd" -D -e -f "$1/config"`
	cmd := exec.Command("unshare", "--mount", "sh", "-ec", script, "sh", dir, unpacked)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	var rest sync.WaitGroup
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		rest.Wait()
		_ = cmd.Wait() // it was killed
	})
	listens, lines := 0, bufio.NewScanner(said)
	for listens < 2 && lines.Scan() {
		if strings.Contains(lines.Text(), "Server listening") {
			listens++
		} else {
			t.Log(lines.Text())
		}
	}
	if listens < 2 {
		t.Fatal("sshd does not listen")
	}
	rest.Go(func() {
		for lines.Scan() {
		}
	})
	return filepath.Join(dir, "key")
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
