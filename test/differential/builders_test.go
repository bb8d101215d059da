package differential

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teu-dev/teu/test/built"
)

// daemons is how many BuildKits share the work.
const daemons = 2

// world is what all cases share: two builders, a registry, a server of files.
type world struct {
	dir   string
	teu   string
	peers string
	words *strings.Replacer
	addrs chan string // of buildkitds that have nothing to do
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "teu-diff-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := &world{dir: dir, addrs: make(chan string, daemons)}
	if w.peers, err = filepath.Abs("../../.cache/peers"); err != nil {
		t.Fatal(err)
	}
	w.run(t, "", "busybox", "ip", "link", "set", "lo", "up")
	w.teu = built.Teu(t)
	registry := freePort(t)
	w.daemon(t, w.teu, "serve", "registry", "--addr", registry, "--root", filepath.Join(dir, "registry"))
	for i := range daemons {
		socket := filepath.Join(dir, fmt.Sprintf("buildkitd%d.sock", i))
		w.daemon(t, filepath.Join(w.peers, "buildkitd"), "--addr", "unix://"+socket, "--root", filepath.Join(dir, fmt.Sprintf("buildkit%d", i)),
			"--oci-worker-net", "host", "--oci-worker-gc=false")
		w.await(t, "unix", socket)
		w.addrs <- "unix://" + socket
	}
	files := w.serveFiles(t)
	w.words = strings.NewReplacer("REGISTRY/", registry+"/", "HTTP/", files+"/www/", "GIT/", files+"/git/")
	w.await(t, "tcp", registry)
	return w
}

// serveFiles serves the contexts: below /www/CASE what is in their www directory, below /git/CASE
// the repositories there.
func (w *world) serveFiles(t *testing.T) string {
	t.Helper()
	mux := http.NewServeMux()
	www := func(r *http.Request) (dir, rest string) {
		return filepath.Join(w.dir, "contexts", r.PathValue("subject"), r.PathValue("case"), "www"), "/" + r.PathValue("rest")
	}
	mux.HandleFunc("/www/{subject}/{case}/{rest...}", func(rw http.ResponseWriter, r *http.Request) {
		dir, rest := www(r)
		http.ServeFile(rw, r, filepath.Join(dir, rest))
	})
	mux.HandleFunc("/git/{subject}/{case}/{rest...}", func(rw http.ResponseWriter, r *http.Request) {
		dir, _ := www(r)
		h := &cgi.Handler{
			Path: "/usr/lib/git-core/git-http-backend", Root: "/git/" + r.PathValue("subject") + "/" + r.PathValue("case"),
			Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"},
		}
		h.ServeHTTP(rw, r)
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (w *world) await(t *testing.T, network, address string) {
	t.Helper()
	var err error
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		var c net.Conn
		if c, err = net.Dial(network, address); err == nil {
			c.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("nobody answers at %s: %v", address, err)
}

// daemon runs a server until the test ends.
func (w *world) daemon(t *testing.T, name string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		err := cmd.Wait()
		if t.Failed() && err != nil {
			t.Logf("%s: %v", filepath.Base(name), err)
		}
	})
}

func (w *world) run(t *testing.T, dir string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
}

// buildTeu builds s with teu, without what other cases left in its cache, and returns what it printed.
func (w *world) buildTeu(ctx context.Context, s *sample, args ...string) (string, error) {
	args = append(append([]string{"build", "--progress=plain", "--no-cache"}, s.flags...), args...)
	where := "."
	if s.url != "" {
		where = s.url
	}
	cmd := exec.CommandContext(ctx, w.teu, append(args, where)...)
	cmd.Env = append(os.Environ(), "TEU_ROOT="+filepath.Join(w.dir, "teu"), "TEU_RUN_ROOT="+filepath.Join(w.dir, "run"))
	return output(cmd, s)
}

// buildPeer builds s with a BuildKit that does nothing else meanwhile, and has forgotten the contexts it was sent
// before: it would put the new one into the same directory, and times would tell of all builds.
func (w *world) buildPeer(ctx context.Context, s *sample, archive string) (string, error) {
	args, err := s.buildctl()
	if err != nil {
		return "", err
	}
	addr := <-w.addrs
	defer func() { w.addrs <- addr }()
	buildctl := func(args ...string) (string, error) {
		args = append([]string{"--addr", addr}, args...)
		return output(exec.CommandContext(ctx, filepath.Join(w.peers, "buildctl"), args...), s)
	}
	if out, err := buildctl("prune", "--filter", "type==source.local"); err != nil {
		return out, err
	}
	output := "type=oci,dest=" + archive
	if s.hasEpoch() {
		output += ",rewrite-timestamp=true" // which teu does then without being asked
	}
	args = append([]string{"build", "--progress=plain", "--no-cache", "--output", output, "--opt", "attest:provenance="}, args...)
	return buildctl(args...)
}

func output(cmd *exec.Cmd, s *sample) (string, error) {
	cmd.Dir = s.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, out)
	}
	return string(out), err
}
