package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

// running is a command that runs in the background.
type running struct {
	stdout *bufio.Reader
	stderr *os.File
	stop   context.CancelFunc
	code   chan int
}

func startCommand(t *testing.T, args ...string) running {
	t.Helper()
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := running{bufio.NewReader(outR), stderr, cancel, make(chan int, 1)}
	args = append([]string{"--root", t.TempDir(), "--run-root", t.TempDir(), "--config", filepath.Join(t.TempDir(), "none")}, args...)
	go func() {
		r.code <- execute(ctx, ui.New(nil, outW, stderr), args)
		outW.Close()
	}()
	t.Cleanup(func() {
		cancel()
		outR.Close()
		stderr.Close()
	})
	return r
}

func (r running) errors(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(r.stderr.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestServeRegistry: one line says where it listens, and the end of the context, which is
// what SIGTERM does, ends it well.
func TestServeRegistry(t *testing.T) {
	root := filepath.Join(t.TempDir(), "registry")
	r := startCommand(t, "serve", "registry", "--addr", "127.0.0.1:0", "--root", root)
	line, err := r.stdout.ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "serving registry on ")
	if err != nil || !ok || strings.HasSuffix(addr, ":0") {
		t.Fatalf("got %q (%v)\n%s", line, err, r.errors(t))
	}
	resp, err := http.Get("http://" + addr + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 200 {
		t.Errorf("got %s", resp.Status)
	}
	http.DefaultClient.CloseIdleConnections()
	r.stop()
	if code := <-r.code; code != 0 {
		t.Errorf("got exit code %d, want 0", code)
	}
	if rest, _ := io.ReadAll(r.stdout); len(rest) > 0 || r.errors(t) != "" {
		t.Errorf("it also said %q and %q", rest, r.errors(t))
	}
	if _, err := os.Stat(filepath.Join(root, "layout")); err != nil {
		t.Error(err)
	}
}

// TestServeRegistryReload: SIGHUP under load drops no request, and the audit log goes on in a new file.
func TestServeRegistryReload(t *testing.T) {
	audit := filepath.Join(t.TempDir(), "audit")
	r := startCommand(t, "serve", "registry", "--addr", "127.0.0.1:0", "--root", t.TempDir(), "--audit", audit)
	line, err := r.stdout.ReadString('\n')
	if err != nil {
		t.Fatalf("%v\n%s", err, r.errors(t))
	}
	begin := "http://" + strings.TrimPrefix(strings.TrimSpace(line), "serving registry on ") + "/v2/a/blobs/uploads/"
	push := func() error {
		resp, err := http.Post(begin, "", nil)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusAccepted {
			return errors.New(resp.Status)
		}
		return nil
	}
	const moves, clients = 10, 4
	over := make(chan struct{})
	var load errgroup.Group
	for range clients {
		load.Go(func() error {
			for {
				select {
				case <-over:
					return nil
				default:
					if err := push(); err != nil {
						return err
					}
				}
			}
		})
	}
	for i := range moves {
		if err := os.Rename(audit, fmt.Sprint(audit, i)); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		awaitContent(t, audit)
	}
	close(over)
	if err := load.Wait(); err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	r.stop()
	if code := <-r.code; code != 0 || r.errors(t) != "" {
		t.Errorf("exit code %d, and it said %q", code, r.errors(t))
	}
}

// awaitContent waits until there is something in a file.
func awaitContent(t *testing.T, path string) {
	t.Helper()
	for begun := time.Now(); time.Since(begun) < time.Minute; time.Sleep(time.Millisecond) {
		if fi, err := os.Stat(path); err == nil && fi.Size() > 0 {
			return
		}
	}
	t.Fatalf("nothing came to %s in a minute", path)
}

func TestServeRegistryRefuses(t *testing.T) {
	tests := map[string]struct {
		args []string
		code int
		says string
	}{
		"everybody on any address": {[]string{"--addr", "0.0.0.0:0"}, exitFailure, "hint: give --htpasswd"},
		"certificate without key":  {[]string{"--tls-cert", "x"}, exitFailure, "go together"},
		"no such users":            {[]string{"--htpasswd", "/nonexistent"}, exitFailure, "/nonexistent"},
		"both doors":               {[]string{"--htpasswd", "x", "--insecure-anonymous"}, exitFailure, "exclude each other"},
		"address is none":          {[]string{"--addr", "x"}, exitFailure, "listen"},
		"arguments":                {[]string{"x"}, exitFailure, "accepts no arguments"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			r := startCommand(t, append([]string{"serve", "registry"}, test.args...)...)
			if code := <-r.code; code != test.code || !strings.Contains(r.errors(t), test.says) {
				t.Errorf("got exit code %d and %q, want %d and %q", code, r.errors(t), test.code, test.says)
			}
		})
	}
}
