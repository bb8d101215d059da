package registry

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/teu-dev/teu/server"
)

// serveVariable makes the test binary a registry server on the directory or bucket it names, so
// that tests can kill one.
const serveVariable = "TEU_TEST_REGISTRY"

func TestMain(m *testing.M) {
	if root := os.Getenv(serveVariable); root != "" {
		if err := serveProcess(root); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func serveProcess(root string) error {
	o := Options{Root: root, AllowDelete: true, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
	if strings.HasPrefix(root, "http://") {
		o.Bucket = BucketOptions{URL: root, Region: "us-east-1"}
	}
	g, err := New(o)
	if err != nil {
		return err
	}
	if b, ok := g.store.(*bucket); ok {
		b.lease, b.touchAfter = 2*time.Second, 0
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	return server.Serve(context.Background(), ln, g, server.Options{})
}

// process is a registry server in a process of its own.
type process struct {
	*client
	cmd *exec.Cmd
}

// startProcess starts a server on root. It is killed when the test ends, if not before.
func startProcess(t testing.TB, root string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveVariable+"="+root)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	p := &process{&client{t: t, http: &http.Client{Transport: transport}}, cmd}
	t.Cleanup(p.kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the server did not start: %v", err)
	}
	p.base = "http://" + strings.TrimSpace(line)
	return p
}

// kill is kill -9, and waits until the process is gone.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.http.CloseIdleConnections()
}
