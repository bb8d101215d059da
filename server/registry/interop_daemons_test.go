package registry

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestInteropDaemons: docker, containerd, BuildKit and crane push what all of them pull, and
// the cache that BuildKit keeps in the registry comes back.
func TestInteropDaemons(t *testing.T) {
	x := newTools(t, serve(t))
	d := startDaemons(t, x, "buildkitd")
	from := x.host + "/base"
	x.run("buildah", "push", "--tls-verify=false", "--format", "v2s2", x.build("one"), "docker://"+from)
	names := []string{from, x.host + "/docker/one", x.host + "/containerd/one", x.host + "/crane/one", x.host + "/crane/two", x.host + "/buildkit/one"}

	d.run("docker", "pull", from)
	d.run("docker", "tag", from, names[1])
	d.run("docker", "push", names[1])
	d.run("docker", "push", names[1]) // all of it is there
	d.ctr("pull", "--snapshotter", "native", from+":latest")
	d.ctr("push", names[2]+":latest", from+":latest")
	d.run(d.crane, "copy", "--insecure", from, names[3])
	layer := filepath.Join(x.dir, "layer.tar")
	x.run("tar", "-cf", layer, "-C", x.dir, "one")
	d.run(d.crane, "append", "--insecure", "--base", from, "--new_layer", layer, "--new_tag", names[4])
	cache := x.host + "/buildkit/cache"
	d.buildkit(from, names[5], cache)
	if out := d.buildkit(from, names[5], cache); !strings.Contains(out, " CACHED") {
		t.Errorf("BuildKit's cache did not come back: %s", out)
	}
	for i, name := range names {
		d.run("docker", "rmi", "--force", name)
		d.run("docker", "pull", name)
		d.ctr("pull", "--snapshotter", "native", name+":latest")
		d.run(d.crane, "validate", "--insecure", "--remote", name)
		x.run("skopeo", "copy", "--src-tls-verify=false", "docker://"+name, "dir:"+filepath.Join(x.dir, "copy"+string(rune('0'+i))))
		x.run("podman", "pull", "--tls-verify=false", name)
	}
}

// TestInteropTokens: docker, containerd and crane get tokens for what the rules let
// them do, and for nothing else.
func TestInteropTokens(t *testing.T) {
	c, robot := accountsServer(t)
	x := newTools(t, c)
	d := startDaemons(t, x)
	image := x.build("one")
	x.run("podman", "login", "--tls-verify=false", "-u", "ann", "-p", "ann's password", x.host)
	team, public := x.host+"/team/app", x.host+"/public/one"
	for _, name := range []string{team, public} {
		x.run("buildah", "push", "--tls-verify=false", image, "docker://"+name)
	}
	refused := func(who, tool string, args ...string) {
		t.Helper()
		if out, err := d.try(tool, args...); err == nil {
			t.Errorf("%s may %s: %s", who, args, out)
		}
	}
	d.run("docker", "pull", public)
	d.run("docker", "tag", public, team+":docker")
	refused("anybody", "docker", "push", team+":docker")
	refused("who guesses", "docker", "login", "-u", "ann", "-p", "wrong", x.host)
	d.run("docker", "login", "-u", "bob", "-p", "bob's password", x.host)
	refused("bob", "docker", "pull", team)
	d.run("docker", "login", "-u", "ci", "-p", robot, x.host)
	d.run("docker", "push", team+":docker")
	refused("the robot", "docker", "push", public)

	d.ctr("pull", "--snapshotter", "native", "--user", "ann:ann's password", team+":latest")
	d.ctr("push", "--user", "ann:ann's password", team+":ctr", team+":latest")
	refused("bob", "ctr", "images", "push", "--plain-http", "--user", "bob:bob's password", team+":ctr", team+":latest")

	d.run(d.crane, "copy", "--insecure", team+":ctr", team+":crane") // the robot, by docker's configuration
	refused("the robot", d.crane, "copy", "--insecure", team, public+":crane")
	refused("the robot", d.crane, "delete", "--insecure", team+":crane")
}

// daemonTools are tools of which some work by daemons that have a store of their own.
type daemonTools struct {
	tools
	crane, buildctl string
}

// startDaemons starts dockerd with its containerd, and what else is wanted of BuildKit's.
func startDaemons(t *testing.T, x tools, more ...string) daemonTools {
	t.Helper()
	peers, err := filepath.Abs("../../.cache/peers")
	if err != nil {
		t.Fatal(err)
	}
	d := daemonTools{x, filepath.Join(peers, "crane"), filepath.Join(peers, "buildctl")}
	at := func(name string) string { return filepath.Join(x.dir, name) }
	x.global["docker"] = []string{"--host", "unix://" + at("docker.sock")}
	x.global["ctr"] = []string{"--address", at("docker-run/containerd/containerd.sock")}
	x.global["buildctl"] = []string{"--addr", "unix://" + at("buildkitd.sock")}
	t.Cleanup(func() { _ = unix.Unmount(at("docker-run/netns/default"), unix.MNT_DETACH) }) // after dockerd, which forgets it
	d.daemon("dockerd", "--host", "unix://"+at("docker.sock"), "--data-root", at("docker"), "--exec-root", at("docker-run"), "--pidfile", at("docker.pid"),
		"--bridge", "none", "--iptables=false", "--ip-masq=false", "--storage-driver", "vfs")
	d.await("docker", "version")
	for _, name := range more {
		d.daemon(filepath.Join(peers, name), "--addr", "unix://"+at("buildkitd.sock"), "--root", at("buildkit"),
			"--oci-worker-snapshotter", "native", "--oci-worker-net", "host", "--oci-worker-gc=false")
		d.await(d.buildctl, "debug", "workers")
	}
	return d
}

// daemon runs a server until the test ends.
func (d daemonTools) daemon(name string, args ...string) {
	d.t.Helper()
	log, err := os.Create(filepath.Join(d.dir, filepath.Base(name)+".log"))
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if said, err := os.ReadFile(log.Name()); err == nil && d.t.Failed() {
			d.t.Logf("%s: %s", name, said[max(0, len(said)-4000):])
		}
	})
}

// await runs a tool until its daemon answers.
func (d daemonTools) await(name string, args ...string) {
	d.t.Helper()
	var err error
	for range 600 {
		if _, err = d.try(name, args...); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.t.Fatalf("%s does not answer: %v", name, err)
}

// ctr runs a command of containerd's images.
func (d daemonTools) ctr(verb string, args ...string) {
	d.t.Helper()
	d.run("ctr", append([]string{"images", verb, "--plain-http"}, args...)...)
}

// buildkit builds an image on from, pushes it with its cache, and returns what was said.
func (d daemonTools) buildkit(from, to, cache string) string {
	d.t.Helper()
	dir := filepath.Join(d.dir, "context")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		d.t.Fatal(err)
	}
	file := "FROM " + from + " AS first\nCOPY Dockerfile /first\nFROM " + from + "\nCOPY --from=first /first /second\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.run(d.buildctl, "prune", "--all")
	insecure := ",registry.insecure=true"
	cmd := exec.CommandContext(d.t.Context(), d.buildctl, append(d.global["buildctl"], "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context="+dir, "--local", "dockerfile="+dir, "--output", "type=image,name="+to+",push=true"+insecure,
		"--export-cache", "type=registry,mode=max,ref="+cache+insecure, "--import-cache", "type=registry,ref="+cache+insecure)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
