package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// command prepares a tool with the environment of the bench.
func (b *bench) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "TEU_ROOT="+filepath.Join(b.dir, "teu"), "TEU_RUN_ROOT="+filepath.Join(b.dir, "teu-run"),
		"DOCKER_HOST=unix://"+filepath.Join(b.dir, "docker.sock"), "DOCKER_CONFIG="+filepath.Join(b.dir, "docker-config"))
	cmd.Env = append(cmd.Env, b.env...)
	return cmd
}

// must runs a tool that prepares a measurement.
func (b *bench) must(ctx context.Context, name string, args ...string) error {
	out, err := b.command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, tail(out))
	}
	return nil
}

// contender is a tool in a figure.
type contender struct {
	name    string
	prepare func() error // untimed, before each round; may be nil
	args    []string
	quiet   bool // what it starts outlives it and may keep its output open

	most     int  // rounds that count, for what is slow; 0: all
	daemon   int  // process that does the work, for its memory; 0: none
	noMemory bool // its memory says nothing
}

// race runs every contender once per round and returns wall times in milliseconds; the
// first warmups rounds do not count. A contender that fails is out, and the report says why.
func (b *bench) race(ctx context.Context, warmups, rounds int, contenders []contender) []result {
	results := make([]result, len(contenders))
	for round := range warmups + rounds {
		for i, c := range contenders {
			r := &results[i]
			r.tool = c.name
			if r.failed != "" || c.most > 0 && len(r.values) >= c.most {
				continue
			}
			took, err := b.time(ctx, c)
			if err != nil {
				r.failed, r.values = "failed: "+err.Error(), nil
				fmt.Fprintln(os.Stderr, c.name, err)
				continue
			}
			if round >= warmups {
				r.values = append(r.values, float64(took.Microseconds())/1000)
			}
		}
	}
	return results
}

func (b *bench) time(ctx context.Context, c contender) (time.Duration, error) {
	if c.prepare != nil {
		if err := c.prepare(); err != nil {
			return 0, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := b.command(ctx, c.args[0], c.args[1:]...)
	var out bytes.Buffer
	if !c.quiet {
		cmd.Stdout, cmd.Stderr = &out, &out
	}
	start := time.Now()
	err := cmd.Run()
	took := time.Since(start)
	if err != nil {
		return 0, fmt.Errorf("%w: %s", err, tail(out.Bytes()))
	}
	return took, nil
}

func tail(out []byte) string {
	s := strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " / ")
	return s[max(0, len(s)-160):]
}

// daemon starts a server and returns what ends it. ready is asked until it says yes.
func (b *bench) daemon(ctx context.Context, ready func() error, args ...string) (stop func(), err error) {
	name := filepath.Base(args[0])
	log, err := os.CreateTemp(b.dir, name+"-*.log")
	if err != nil {
		return nil, err
	}
	cmd := b.command(context.WithoutCancel(ctx), args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	b.daemonPID = cmd.Process.Pid
	stop = func() {
		cmd.Process.Signal(syscall.SIGTERM)
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			cmd.Process.Kill()
			<-done
		}
		log.Close()
	}
	for range 4000 {
		if err = ready(); err == nil {
			return stop, nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	stop()
	said, _ := os.ReadFile(log.Name())
	return nil, fmt.Errorf("%s did not start: %w: %s", name, err, tail(said))
}

func dialable(network, address string) func() error {
	return func() error {
		c, err := net.DialTimeout(network, address, time.Second)
		if err == nil {
			c.Close()
		}
		return err
	}
}

// freePort returns a loopback address nobody listens on.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// distribution starts the registry of the distribution project on its defaults.
func (b *bench) distribution(ctx context.Context) (address string, stop func(), err error) {
	return b.distributionServer(ctx, filepath.Join(b.peers, "registry"), filepath.Join(b.dir, "distribution.yml"))
}

// teuRegistry starts teu's.
func (b *bench) teuRegistry(ctx context.Context) (address string, stop func(), err error) {
	if address, err = freePort(); err != nil {
		return "", nil, err
	}
	stop, err = b.daemon(ctx, dialable("tcp", address), b.teu, "serve", "registry", "--addr", address, "--root", filepath.Join(b.dir, "teu-registry"))
	return address, stop, err
}

// ownNetwork is put before a daemon whose bridge and rules are to be apart from the host's.
func ownNetwork() []string { return []string{"unshare", "-n"} }

// dockerd starts Debian's docker with everything below b.dir. Without a network of its own
// it has no bridge.
func (b *bench) dockerd(ctx context.Context, network ...string) (stop func(), err error) {
	socket := filepath.Join(b.dir, "docker.sock")
	args := []string{"dockerd",
		"--host", "unix://" + socket, "--data-root", filepath.Join(b.dir, "docker"), "--exec-root", filepath.Join(b.dir, "docker-run"),
		"--pidfile", filepath.Join(b.dir, "docker.pid"), "--storage-driver", "overlay2", "--insecure-registry", farAddress + "/32"}
	if len(network) == 0 {
		args = append(args, "--bridge", "none", "--iptables=false", "--ip-masq=false")
	}
	return b.daemon(ctx, func() error { return b.must(ctx, "docker", "version") }, append(network, args...)...)
}

// containerd starts a containerd that shares nothing between its namespaces, and returns
// how nerdctl is called.
func (b *bench) containerd(ctx context.Context, network ...string) (nerdctl []string, stop func(), err error) {
	dir := filepath.Join(b.dir, "containerd")
	socket, config := filepath.Join(b.dir, "containerd.sock"), filepath.Join(b.dir, "containerd.toml")
	err = writeFile(config, fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = %q
[plugins."io.containerd.metadata.v1.bolt"]
content_sharing_policy = "isolated"
`, dir, dir+"-run", socket))
	if err != nil {
		return nil, nil, err
	}
	ready := func() error { return b.must(ctx, "ctr", "--address", socket, "version") }
	stop, err = b.daemon(ctx, ready, append(network, "containerd", "--config", config)...)
	return []string{filepath.Join(b.peers, "nerdctl"), "--address", socket, "--data-root", dir + "-nerdctl", "--cgroup-manager", "cgroupfs",
		"--insecure-registry", "--cni-path", "/usr/lib/cni", "--cni-netconfpath", dir + "-cni"}, stop, err
}

// podman are the arguments every podman command starts with.
func (b *bench) podman(args ...string) []string {
	return append([]string{"podman", "--cgroup-manager", "cgroupfs", "--root", filepath.Join(b.dir, "podman"), "--runroot", filepath.Join(b.dir, "podman-run"),
		"--storage-driver", "overlay", "--runtime", "crun"}, args...)
}

// busyboxTar writes a root file system of busybox and returns its path.
func (b *bench) busyboxTar() (string, error) {
	dir := filepath.Join(b.dir, "busybox")
	script := `set -e; mkdir -p "$1/bin" "$1/etc" "$1/proc" "$1/sys" "$1/dev"; cp /bin/busybox "$1/bin/"
for a in sh true cat echo sleep yes httpd nc dd; do ln -sf busybox "$1/bin/$a"; done; echo root:x:0:0:root:/:/bin/sh >"$1/etc/passwd"; tar -C "$1" -cf "$1.tar" .`
	out, err := exec.Command("sh", "-c", script, "sh", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("making busybox: %w: %s", err, out)
	}
	return dir + ".tar", nil
}

// writeFile writes text and makes its directory.
func writeFile(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(text), 0o644)
}

func drain(r io.ReadCloser) (int64, error) {
	n, err := io.Copy(io.Discard, r)
	r.Close()
	return n, err
}
