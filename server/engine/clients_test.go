package engine_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/teu-dev/teu/test/built"
	"github.com/teu-dev/teu/test/privilege"
)

// world is a store of its own, with a server on it in a network namespace of its own.
type world struct {
	t      *testing.T
	teu    string
	dir    string
	env    []string
	server *exec.Cmd
}

// newWorld builds teu, starts `teu serve engine` and gives it an image, busybox:latest.
func newWorld(t *testing.T) *world {
	t.Helper()
	privilege.NeedRoot(t)
	bin := built.Teu(t)
	parent := os.TempDir()
	if _, err := os.Stat("/dev/shm"); err == nil {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "teu-engine-")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, teu: bin, dir: dir}
	w.env = append(os.Environ(),
		"PATH="+filepath.Dir(bin)+":"+os.Getenv("PATH"), "TEU_ROOT="+dir+"/root", "TEU_RUN_ROOT="+dir+"/run",
		"DOCKER_CONFIG="+dir+"/docker", "DOCKER_HOST=unix://"+w.socket(), "DOCKER_BUILDKIT=0", "HOME="+dir)
	t.Cleanup(w.remove)
	w.serve()
	w.run("sh", "-c", `set -e
mkdir -p "$HOME/rootfs/bin" "$HOME/rootfs/etc" "$HOME/rootfs/tmp" "$HOME/rootfs/root"; cd "$HOME/rootfs"
cp /bin/busybox bin/; for a in $(bin/busybox --list); do [ "$a" = busybox ] || ln -s busybox "bin/$a"; done
echo root:x:0:0:root:/root:/bin/sh >etc/passwd; echo root:x:0: >etc/group
tar -c . | docker import -c 'CMD ["sh"]' - busybox:latest; rm -rf "$HOME/rootfs"`)
	return w
}

func (w *world) socket() string { return w.dir + "/run/docker.sock" }

// serve starts the server, in the namespace of the one before if there was one.
func (w *world) serve(args ...string) {
	w.t.Helper()
	var cmd *exec.Cmd
	if w.server == nil {
		cmd = exec.Command("sh", "-c", `ip link set lo up && exec "$0" serve engine "$@"`, w.teu)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		cmd.Args = append(cmd.Args, args...)
	} else {
		cmd = exec.Command("nsenter", append([]string{"--net=" + w.dir + "/netns", w.teu, "serve", "engine"}, args...)...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	cmd.Env, cmd.Stderr = w.env, os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = startApart(cmd)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	ready := make(chan bool, 1)
	go func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "serving engine on") {
				ready <- true
			}
		}
		close(ready)
	}()
	select {
	case ok := <-ready:
		if !ok {
			w.t.Fatal("the server did not start")
		}
	case <-time.After(limit):
		w.t.Fatal("the server did not start in time")
	}
	if w.server == nil { // the namespace stays when the server goes
		if err := os.WriteFile(w.dir+"/netns", nil, 0o600); err != nil {
			w.t.Fatal(err)
		}
		if err := syscall.Mount(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), w.dir+"/netns", "", syscall.MS_BIND, ""); err != nil {
			w.t.Fatal(err)
		}
	}
	w.server = cmd
}

// startApart starts a command that is to be killed when its parent dies. That is the thread (PR_SET_PDEATHSIG(2const)), and
// tests end threads: so it gets one of its own.
func startApart(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		started <- cmd.Start()
		select {} // the thread stays
	}()
	return <-started
}

// stop ends the server by a signal and waits for it.
func (w *world) stop(sig syscall.Signal) {
	w.server.Process.Signal(sig)
	w.server.Wait()
}

func (w *world) remove() {
	if w.server != nil {
		w.stop(syscall.SIGTERM)
	}
	cmd := exec.Command("nsenter", "--net="+w.dir+"/netns", w.teu, "system", "reset", "--force")
	cmd.Env = w.env
	if out, err := cmd.CombinedOutput(); err != nil {
		w.t.Errorf("teu system reset: %v\n%s", err, out)
	}
	syscall.Unmount(w.dir+"/netns", syscall.MNT_DETACH)
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Errorf("something is left behind: %v", err)
	}
}

// limit is how long one command of a test may take before it counts as hanging.
const limit = time.Minute

// try runs a command and returns what it printed and its exit code.
func (w *world) try(name string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	return w.tryIn("", name, args...)
}

func (w *world) tryIn(stdin, name string, args ...string) (stdout, stderr string, code int) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = w.env, w.dir, strings.NewReader(stdin), &out, &errs
	cmd.WaitDelay = limit // also how long what it has said may take to arrive
	err := cmd.Run()
	if ctx.Err() != nil {
		w.t.Errorf("%s %q hangs\n%s%s", name, args, out.String(), errs.String())
	} else if err != nil && cmd.ProcessState == nil {
		w.t.Fatal(err)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// run runs a command that must succeed and returns what it printed, trimmed.
func (w *world) run(name string, args ...string) string {
	w.t.Helper()
	stdout, stderr, code := w.try(name, args...)
	if code != 0 {
		w.t.Fatalf("%s %q: exit code %d\n%s%s", name, args, code, stdout, stderr)
	}
	return strings.TrimSpace(stdout)
}

func (w *world) docker(args ...string) string {
	w.t.Helper()
	return w.run("docker", args...)
}

// want holds that a command prints what matches a pattern.
func (w *world) want(pattern string, args ...string) {
	w.t.Helper()
	if got := w.docker(args...); !regexp.MustCompile(pattern).MatchString(got) {
		w.t.Errorf("docker %q printed %q, want a match of %q", args, got, pattern)
	}
}

// fails holds that docker fails with a code and says what matches a pattern.
func (w *world) fails(code int, pattern string, args ...string) {
	w.t.Helper()
	stdout, stderr, got := w.try("docker", args...)
	if got != code || !regexp.MustCompile(pattern).MatchString(stderr) {
		w.t.Errorf("docker %q: exit code %d, want %d; it said %q, want a match of %q; output %q", args, got, code, stderr, pattern, stdout)
	}
}

// soon repeats a check until it holds.
func (w *world) soon(what string, holds func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if holds() {
			return
		}
	}
	w.t.Errorf("it never came true that %s", what)
}

// TestDocker drives the server with docker's own client: a day's work.
func TestDocker(t *testing.T) {
	w := newWorld(t)
	t.Log(w.docker("--version"))
	for name, part := range map[string]func(*testing.T, *world){
		"run": testRun, "terminal": testTerminal, "exec": testExec, "life": testLife, "files": testFiles, "images": testImages,
		"build": testBuild, "connections of builds": testBuildConnection, "networks and volumes": testNetworksAndVolumes, "events": testEvents, "as moby": testAsMoby, "system": testSystem,
		"refusals": testRefusals, "shared": testShared, "inspected": testInspected, "joined": testJoined, "platforms": testPlatforms, "started": testStarted, "terminals of exec": testExecTerminal, "heard": testExecHeard, "health": testHealthTold,
		"gateways": testGateways, "frames of logs": testLogFrames, "garbage": testLoadGarbage, "compose 1": testComposeV1, "pruned": testPruned,
	} {
		t.Run(name, func(t *testing.T) {
			own := *w
			own.t = t
			part(t, &own)
		})
	}
}

func testRun(t *testing.T, w *world) {
	w.want("^hello$", "run", "--rm", "-l", "run", "busybox", "echo", "hello")
	w.fails(7, "", "run", "--rm", "-l", "run", "busybox", "sh", "-c", "exit 7")
	w.fails(137, "", "run", "--rm", "-l", "run", "busybox", "sh", "-c", "sh -c 'kill -9 $$'; exit $?")
	w.fails(127, "nosuchprogram", "run", "--rm", "-l", "run", "busybox", "nosuchprogram")
	w.fails(126, "permission denied", "run", "--rm", "-l", "run", "busybox", "/etc")
	w.fails(125, "Conflicting options", "run", "--rm", "--cpus", "1", "--cpu-quota", "1000", "busybox", "true")
	if out, _, _ := w.tryIn("piped", "docker", "run", "--rm", "-i", "busybox", "sh", "-c", "cat; echo end"); out != "pipedend\n" {
		t.Errorf("standard input came as %q", out)
	}
	stdout, stderr, _ := w.try("docker", "run", "--rm", "-l", "run", "busybox", "sh", "-c", "echo out; echo err >&2")
	if stdout != "out\n" || stderr != "err\n" {
		t.Errorf("streams: %q and %q", stdout, stderr)
	}
	// Much output, to the last byte, again and again: nothing is lost between attach, start and end.
	for range 20 {
		if got := w.docker("run", "--rm", "-l", "run", "busybox", "sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"); len(got) != 300000 {
			t.Fatalf("%d bytes of 300000 arrived", len(got))
		}
	}
	w.want(`^1 2 /tmp nobody-home 1234:5678$`, "run", "--rm", "-e", "A=1", "--env", "B=2", "-w", "/tmp", "-h", "nobody-home", "-u", "1234:5678",
		"busybox", "sh", "-c", "echo $A $B $PWD $(hostname) $(id -u):$(id -g)")
	if left := w.docker("ps", "-aq", "--filter", "label=run"); left != "" {
		t.Errorf("containers are left behind: %s", left)
	}
}

func testTerminal(t *testing.T, w *world) {
	w.t = t
	if got := w.run("script", "-qec", "docker run --rm -it busybox sh -c 'tty; exit 5'; echo code $?", "/dev/null"); !strings.Contains(got, "/dev/pts/0") || !strings.Contains(got, "code 5") {
		t.Errorf("at a terminal: %q", got)
	}
	// Detach by keys, attach again, end by typing.
	w.docker("run", "-dit", "--name", "shell", "busybox")
	out, _, _ := w.tryIn("", "sh", "-c", `: >said; { printf 'echo fi""rst\n'; for i in $(seq 1000); do ! grep -q first said || break; sleep 0.05; done; printf '\020\021'; } |
		script -qec 'docker attach shell' /dev/null >said; cat said`)
	if !strings.Contains(out, "first") {
		t.Errorf("attached: %q", out)
	}
	w.want("true", "inspect", "-f", "{{.State.Running}}", "shell")
	w.tryIn("", "sh", "-c", `{ printf 'exit 9\n'; docker wait shell >/dev/null; } | script -qec 'docker attach shell' /dev/null`)
	w.want("^9$", "wait", "shell")
	w.docker("rm", "shell")
}

func testExec(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "exec", "busybox", "sleep", "1000")
	defer w.docker("rm", "-f", "exec")
	w.want("^hi$", "exec", "exec", "echo", "hi")
	w.fails(4, "^err", "exec", "exec", "sh", "-c", "echo err >&2; exit 4")
	if out, _, code := w.try("docker", "exec", "exec", "nosuchprogram"); code != 127 || !strings.Contains(out, "executable file not found") {
		t.Errorf("what cannot be executed: code %d, %q", code, out)
	}
	if out, _, _ := w.tryIn("in", "docker", "exec", "-i", "exec", "sh", "-c", "cat; echo end"); out != "inend\n" {
		t.Errorf("standard input came as %q", out)
	}
	if got := w.run("script", "-qec", "docker exec -it exec sh -c 'stty size; tty'", "/dev/null"); !strings.Contains(got, "/dev/pts/") {
		t.Errorf("at a terminal: %q", got)
	}
	w.docker("exec", "-d", "exec", "sh", "-c", "echo done >/tmp/done")
	w.soon("the command in the background is done", func() bool {
		out, _, _ := w.try("docker", "exec", "exec", "cat", "/tmp/done")
		return out == "done\n"
	})
	w.want("^/tmp 1$", "exec", "-w", "/tmp", "-e", "X=1", "exec", "sh", "-c", "echo $PWD $X")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if out, _, code := w.try("docker", "exec", "exec", "echo", fmt.Sprint(i)); out != fmt.Sprint(i, "\n") || code != 0 {
				t.Errorf("exec %d at the same time as others: %q, code %d", i, out, code)
			}
		})
	}
	all.Wait()
}

func testLife(t *testing.T, w *world) {
	w.docker("run", "-d", "--name", "life", "-l", "a=b", "--restart", "no", "--stop-timeout", "1", "busybox", "sh", "-c", "echo start; while :; do sleep 0.1; done")
	w.want("life", "ps", "--filter", "label=a=b", "--format", "{{.Names}}")
	w.want("^$", "ps", "-q", "--filter", "label=a=c")
	w.want("sh -c", "top", "life")
	w.soon("what it says is in the log", func() bool { return w.docker("logs", "life") != "" })
	w.want(`^\S+Z start$`, "logs", "-t", "life")
	w.want(`^.*%`, "stats", "--no-stream", "--format", "{{.CPUPerc}} {{.MemUsage}}", "life")
	w.docker("pause", "life")
	w.want("Paused", "ps", "--filter", "name=life", "--format", "{{.Status}}")
	w.fails(1, "paused", "exec", "life", "true")
	w.docker("unpause", "life")
	w.docker("rename", "life", "life2")
	w.docker("update", "--memory", "64m", "--memory-swap", "128m", "--restart", "on-failure:3", "life2")
	w.want("^on-failure 3$", "inspect", "-f", "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}", "life2")
	w.fails(1, "Memory limit should be smaller than already set memoryswap limit", "update", "--memory", "256m", "life2")
	w.docker("update", "--memory", "96m", "life2")
	w.want("^100663296 134217728$", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}", "life2")
	w.docker("restart", "-t", "0", "life2")
	w.docker("stop", "-t", "0", "life2")
	w.want("Exited .137.", "ps", "-a", "--filter", "name=life2", "--format", "{{.Status}}")
	w.docker("stop", "life2") // is no error
	w.fails(1, "not running", "kill", "life2")
	w.docker("run", "-d", "--name", "again", "--restart", "always", "busybox", "sh", "-c", "sleep 1; exit 4")
	w.want("^4$", "wait", "again") // of each end, also of one that another run follows
	w.docker("rm", "-f", "again")
	waited := make(chan string, 1)
	w.docker("start", "life2")
	go func() {
		out, _, _ := w.try("docker", "wait", "life2")
		waited <- strings.TrimSpace(out)
	}()
	time.Sleep(200 * time.Millisecond)
	w.fails(1, "(?i)stop the container before removing", "rm", "life2")
	w.docker("kill", "life2")
	if code := <-waited; code != "137" {
		t.Errorf("waited for %q", code)
	}
	w.fails(1, "already in use", "create", "--name", "life2", "busybox")
	w.docker("rm", "life2")
	w.fails(1, "No such container: life2", "start", "life2")
	w.docker("create", "--name", "made", "busybox", "sh", "-c", "echo attached; exit 3")
	w.fails(3, "", "start", "-a", "made")
	w.want("^attached$", "logs", "made")
	w.want("Deleted Containers", "container", "prune", "-f", "--filter", "label!=never")
}
