package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/teu-dev/teu/test/built"
	"github.com/teu-dev/teu/test/privilege"
)

// TestScripts runs testdata/script/*.txtar, a user's story each, with the real binary on
// the real kernel. Every script has a store of its own; all share one registry that holds
// two base images: REGISTRY/busybox and REGISTRY/debian.
//
// Beside testscript's commands a script may use
//
//	retry COMMAND...      until it succeeds, a minute at the most
//	capture NAME COMMAND  puts the trimmed output of the command into $NAME
//	keeperpid CONTAINER   puts the pid of a container's keeper into $KEEPER
//	[user] COMMAND        only when an ordinary user runs the script, see userScripts
//
// After a script nothing may be left: no mount, process, network or cgroup of its store.
func TestScripts(t *testing.T) {
	if testing.Short() {
		t.Skip("end-to-end scripts are not part of -short")
	}
	privilege.NeedRoot(t)
	world := newWorld(t)
	t.Run("user", func(t *testing.T) {
		t.Parallel()
		asUser := newUserWorld(t, world)
		p := scriptParams(t, asUser.setup)
		p.Condition = func(name string) (bool, error) { return name == "user", nil }
		p.Files = userScripts()
		testscript.Run(t, p)
	})
	p := scriptParams(t, world.setup)
	p.Dir = "testdata/script"
	p.Condition = func(string) (bool, error) { return false, nil }
	testscript.Run(t, p)
}

func scriptParams(t *testing.T, setup func(*testscript.Env) error) testscript.Params {
	deadline, _ := t.Deadline()
	return testscript.Params{
		Deadline:            deadline.Add(-20 * time.Second), // leaves time to clean up
		Setup:               setup,
		RequireExplicitExec: true,
		UpdateScripts:       os.Getenv("TEU_UPDATE_SCRIPTS") != "",
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"retry":     retry,
			"capture":   capture,
			"keeperpid": keeperPID,
		},
	}
}

// world is what all scripts share.
type world struct {
	teu      string // the binary under test
	registry string // HOST:PORT
	tmp      string // on a file system that is quick to delete from
}

// newWorld builds teu, starts a registry and fills it with the base images.
func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{teu: built.Teu(t), tmp: scratch(t)}
	w.registry = w.serveRegistry(t)
	for name, tar := range map[string]func(*testing.T, string){"busybox": makeBusybox, "debian": makeDebian} {
		w.pushBase(t, name, tar)
	}
	return w
}

// scratch makes a directory that goes away with the test: in memory where there is room,
// because removing and writing many files on a disk is what the tests spend their time on.
func scratch(t *testing.T) string {
	t.Helper()
	parent := os.TempDir()
	var fs syscall.Statfs_t
	if err := syscall.Statfs("/dev/shm", &fs); err == nil && fs.Bavail*uint64(fs.Bsize) > 6<<30 {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "teu-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is left behind: %v", err)
		}
	})
	return dir
}

// serveRegistry runs `teu serve registry` until the test ends and returns its address.
func (w *world) serveRegistry(t *testing.T) string {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, w.teu, "serve", "registry", "--addr", "127.0.0.1:0", "--root", filepath.Join(w.tmp, "registry"))
	cmd.Env = w.environ()
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	address := make(chan string, 1)
	var drained sync.WaitGroup
	drained.Go(func() {
		ready := regexp.MustCompile(`serving registry on (\S+)`)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			if m := ready.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			}
		}
	})
	t.Cleanup(func() {
		stop()
		drained.Wait()
		if err := cmd.Wait(); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the registry did not end well: %v", err)
		}
	})
	select {
	case a := <-address:
		return a
	case <-time.After(time.Minute):
		t.Fatal("the registry did not start")
		return ""
	}
}

// environ is the environment of what is run beside the scripts, with a store of its own.
func (w *world) environ() []string {
	return append(os.Environ(), "TEU_ROOT="+filepath.Join(w.tmp, "base"), "TEU_RUN_ROOT="+filepath.Join(w.tmp, "base-run"))
}

// pushBase builds NAME from a tar of a root file system and pushes it.
func (w *world) pushBase(t *testing.T, name string, tar func(*testing.T, string)) {
	t.Helper()
	dir := filepath.Join(w.tmp, "base-"+name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tar(t, filepath.Join(dir, "rootfs.tar"))
	dockerfile := "FROM scratch\nADD rootfs.tar /\nCMD [\"sh\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(w.teu, "build", "--progress=plain", "-t", w.registry+"/"+name, "--push", dir)
	cmd.Env = w.environ()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the base image %s: %v\n%s", name, err, out)
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

// makeBusybox writes a root file system that is busybox and little else.
func makeBusybox(t *testing.T, tar string) {
	t.Helper()
	root := filepath.Join(filepath.Dir(tar), "rootfs")
	script := `set -e
mkdir -p "$1/bin" "$1/etc" "$1/tmp" "$1/root" "$1/home/dev"
cp /bin/busybox "$1/bin/busybox"
for a in $("$1/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$1/bin/$a"; done
chmod 1777 "$1/tmp"; chown 1000:1000 "$1/home/dev"
printf 'root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n' >"$1/etc/passwd"
printf 'root:x:0:\ndev:x:1000:\naudio:x:29:dev\n' >"$1/etc/group"
tar -C "$1" --sort=name -cf "$2" .
rm -rf "$1"`
	if out, err := exec.Command("sh", "-c", script, "sh", root, tar).CombinedOutput(); err != nil {
		t.Fatalf("making the busybox base: %v\n%s", err, out)
	}
}

// makeDebian writes a minimal Debian. Making it takes half a minute, so it is kept in .cache.
func makeDebian(t *testing.T, tar string) {
	t.Helper()
	kept, err := filepath.Abs("../../.cache/debian-bookworm.tar")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(kept); err != nil {
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			t.Fatal(err)
		}
		part := kept + ".part.tar"
		if out, err := exec.Command("mmdebstrap", "--variant=minbase", "bookworm", part).CombinedOutput(); err != nil {
			t.Fatalf("mmdebstrap: %v\n%s", err, out)
		}
		if err := os.Rename(part, kept); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", kept, tar).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
}

// setup gives a script its own store and holds, when it ends, that nothing is left.
func (w *world) setup(e *testscript.Env) error {
	store, err := os.MkdirTemp(w.tmp, "s-")
	if err != nil {
		return err
	}
	run := filepath.Join(store, "run")
	e.Setenv("PATH", filepath.Dir(w.teu)+":"+os.Getenv("PATH"))
	e.Setenv("TEU_ROOT", filepath.Join(store, "root"))
	e.Setenv("TEU_RUN_ROOT", run)
	e.Setenv("DOCKER_CONFIG", filepath.Join(store, "docker"))
	if err := os.Mkdir(filepath.Join(store, "docker"), 0o700); err != nil {
		return err
	}
	// podman and buildah insist on the file.
	if err := os.WriteFile(filepath.Join(store, "docker/config.json"), []byte("{}\n"), 0o600); err != nil {
		return err
	}
	e.Setenv("REGISTRY", w.registry)
	e.Setenv("BUSYBOX", w.registry+"/busybox")
	e.Setenv("DEBIAN", w.registry+"/debian")
	e.Setenv("STORE", store)
	rsyslog, err := filepath.Abs("../../.cache/rsyslog") // test/setup.sh unpacks it
	if err != nil {
		return err
	}
	e.Setenv("RSYSLOG", rsyslog)
	// Other tools keep their state here; podman wants a path of at most 50 characters.
	peer, err := os.MkdirTemp(filepath.Dir(w.tmp), "p")
	if err != nil {
		return err
	}
	e.Setenv("PEER", peer)
	e.Defer(func() {
		if err := os.RemoveAll(peer); err != nil {
			e.T().Log(err)
			e.T().FailNow()
		}
		cmd := exec.Command(w.teu, "system", "reset", "--force")
		cmd.Env = e.Vars
		if out, err := cmd.CombinedOutput(); err != nil {
			e.T().Log(fmt.Sprintf("teu system reset: %v\n%s", err, out))
			e.T().FailNow()
		}
		if left, err := os.ReadDir(filepath.Join(store, "root")); err != nil && !os.IsNotExist(err) || len(left) > 0 {
			e.T().Log("a reset leaves", left, err)
			e.T().FailNow()
		}
		if left := leftovers(store); left != "" {
			e.T().Log("left behind:\n" + left)
			e.T().FailNow()
		}
	})
	return nil
}

// leftovers lists the mounts and processes that still have to do with store.
func leftovers(store string) string {
	var found []string
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if found = holdersOf(store); len(found) == 0 {
			return ""
		}
	}
	return strings.Join(found, "\n")
}

func holdersOf(store string) (found []string) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, store) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	processes, _ := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		if filepath.Base(p) == fmt.Sprint(os.Getpid()) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(p, "cmdline"))
		environ, _ := os.ReadFile(filepath.Join(p, "environ"))
		if bytes.Contains(cmdline, []byte(store)) || bytes.Contains(environ, []byte("STORE="+store)) || opened(p, store) {
			found = append(found, "process "+filepath.Base(p)+" "+string(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		}
	}
	return found
}

// retry runs a command until it succeeds (or, negated, fails), for a minute at the most.
func retry(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) == 0 {
		ts.Fatalf("usage: retry COMMAND...")
	}
	var err error
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if err = ts.Exec(args[0], args[1:]...); (err == nil) != neg {
			return
		}
	}
	ts.Fatalf("still not after a minute: %v", err)
}

// capture runs a command and keeps its trimmed standard output in a variable.
func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture NAME COMMAND...")
	}
	path, err := lookIn(ts.Getenv("PATH"), args[1])
	ts.Check(err)
	cmd := exec.Command(path, args[2:]...)
	cmd.Dir = ts.MkAbs(".")
	for _, name := range []string{"PATH", "BUSYBOX", "DEBIAN", "TEU_ROOT", "TEU_RUN_ROOT", "DOCKER_CONFIG", "HOME", "STORE", "PEER", "REGISTRY", "REAL"} {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		ts.Fatalf("%s: %v: %s", strings.Join(args[1:], " "), err, stderr.String())
	}
	ts.Setenv(args[0], strings.TrimSpace(string(out)))
}

func lookIn(path, name string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if p := filepath.Join(dir, name); !strings.Contains(name, "/") {
			if _, err := os.Stat(p); err == nil {
				return p, nil
			}
		}
	}
	return exec.LookPath(name)
}

// keeperPID puts the pid of the keeper of a container into $KEEPER: the parent of its pid 1.
func keeperPID(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: keeperpid CONTAINER")
	}
	capture(ts, false, []string{"INIT", "teu", "inspect", "-f", "{{.State.Pid}}", args[0]})
	status, err := os.ReadFile("/proc/" + ts.Getenv("INIT") + "/status")
	ts.Check(err)
	for line := range strings.Lines(string(status)) {
		if ppid, ok := strings.CutPrefix(line, "PPid:"); ok {
			ts.Setenv("KEEPER", strings.TrimSpace(ppid))
		}
	}
}

// opened says whether the process has a file below dir open.
func opened(process, dir string) bool {
	files, _ := filepath.Glob(filepath.Join(process, "fd", "*"))
	for _, f := range files {
		if to, err := os.Readlink(f); err == nil && strings.HasPrefix(to, dir) {
			return true
		}
	}
	return false
}
