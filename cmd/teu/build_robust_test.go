package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/teu-dev/teu/test/privilege"
)

// A site is a store with the image busybox in it, and a context to build, for builds that end badly.
type site struct {
	t    *testing.T
	dir  string // of everything
	env  []string
	pids []int // of builds that were killed
}

func newSite(t *testing.T) *site {
	t.Helper()
	if testing.Short() {
		t.Skip("end-to-end tests are not part of -short")
	}
	privilege.NeedRoot(t)
	if out, err := exec.Command("make", "-C", "../..", "build").CombinedOutput(); err != nil {
		t.Fatalf("make build: %v\n%s", err, out)
	}
	s := &site{t: t, dir: scratch(t)}
	s.env = append(os.Environ(), "TEU_ROOT="+s.path("root"), "TEU_RUN_ROOT="+s.path("run"), "STORE="+s.dir)
	if err := os.MkdirAll(s.path("base"), 0o755); err != nil {
		t.Fatal(err)
	}
	makeBusybox(t, s.path("base/rootfs.tar"))
	s.write("base/Dockerfile", "FROM scratch\nADD rootfs.tar /\n")
	s.must("build", "-q", "-t", "busybox", s.path("base"))
	if err := os.Mkdir(s.path("ctx"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.clean)
	return s
}

// clean holds that nothing is left, takes the store away, and the groups of builds that were killed.
func (s *site) clean() {
	if left := leftovers(s.dir); left != "" {
		s.t.Errorf("left behind:\n%s", left)
	}
	for _, pid := range s.pids {
		groups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/teu/build-%d-*", pid))
		unified, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/teu/build-%d-*", pid))
		for _, g := range append(groups, unified...) {
			if err := syscall.Rmdir(g); err != nil && !errors.Is(err, os.ErrNotExist) {
				s.t.Errorf("the group of a killed build: %s: %v", g, err)
			}
		}
	}
	if out, err := exec.Command("env", append(s.env[len(s.env)-3:], "../../bin/teu", "system", "reset", "--force")...).CombinedOutput(); err != nil {
		s.t.Errorf("system reset: %v\n%s", err, out)
	}
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) read(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// command is teu with args, which ends with the test.
func (s *site) command(args ...string) *exec.Cmd {
	s.t.Helper()
	bin, err := filepath.Abs("../../bin/teu")
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.CommandContext(s.t.Context(), bin, args...)
	cmd.Env = s.env
	return cmd
}

func (s *site) run(args ...string) (string, error) {
	s.t.Helper()
	out, err := s.command(args...).CombinedOutput()
	return string(out), err
}

func (s *site) must(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatalf("teu %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// TestBuildsThatEndBadly holds that whatever ends a build leaves nothing behind and a cache that tells
// the truth.
func TestBuildsThatEndBadly(t *testing.T) {
	s := newSite(t)
	for name, test := range map[string]func(*testing.T){
		"killed": s.testKilledBuilds, "killed and pruned": s.testPruneAfterAKill, "interrupted": s.testInterruptedBuild, "daemonizing": s.testDaemonizingStep,
		"talkative": s.testTalkativeStep, "full disk": s.testFullDisk,
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			defer func() { s.t = nil }()
			test(t)
			if left := leftovers(s.dir); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
	s.t = t
}

// testKilledBuilds kills builds at random moments. The next build of the same must make what its
// Dockerfile says, and the store must be sound.
func (s *site) testKilledBuilds(t *testing.T) {
	kills := 6
	if os.Getenv("TEU_SOAK") != "" {
		kills = 200
	}
	s.write("ctx/Dockerfile", `FROM busybox AS one
COPY n /n
RUN for i in $(seq 200); do cat /n > /one-$i; done
FROM busybox AS two
RUN --mount=type=bind,source=n,target=/n --mount=type=cache,target=/c cat /n > /two && echo x >> /c/log
FROM busybox
COPY --from=one /one-* /all/
COPY --from=two /two /all/
RUN cat /all/* | md5sum > /sum && ls /all | wc -l > /count
FROM scratch
COPY --from=2 /sum /count /
`)
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	for i := range kills {
		n := strings.Repeat(fmt.Sprintf("content %d\n", i), 1000)
		s.write("ctx/n", n)
		cmd := s.command("build", "-q", "-t", "app", s.path("ctx"))
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		s.pids = append(s.pids, cmd.Process.Pid)
		time.Sleep(time.Duration(random.Intn(400)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		s.must("build", "-o", s.path("out"), s.path("ctx"))
		md5, err := exec.Command("sh", "-c", `for i in $(seq 201); do cat "$1"; done | md5sum`, "sh", s.path("ctx/n")).Output()
		if err != nil {
			t.Fatal(err)
		}
		if got := s.read("out/sum"); got != string(md5) || s.read("out/count") != "201\n" {
			t.Fatalf("after kill %d the build made %q of %q, want %q", i, got, s.read("out/count"), md5)
		}
	}
	if out := s.must("system", "check"); !strings.Contains(out, "store: no problem found") {
		t.Errorf("the store:\n%s", out)
	}
	s.must("build", "-q", "-t", "app", s.path("ctx")) // takes back what the last of the killed had
	if left, err := os.ReadDir(s.path("run/build")); err != nil || len(left) > 0 {
		t.Errorf("volatile state is left: %v, %v", left, err)
	}
}

// untilBegun reads what a build prints until its command has.
func untilBegun(t *testing.T, stderr io.Reader) *bytes.Buffer {
	t.Helper()
	seen := &bytes.Buffer{}
	buf := make([]byte, 4096)
	for !strings.Contains(seen.String(), " begun\n") { // not the line of the Dockerfile
		n, err := stderr.Read(buf)
		if err != nil {
			t.Fatalf("the build ended: %v\n%s", err, seen.String())
		}
		seen.Write(buf[:n])
	}
	return seen
}

// testPruneAfterAKill kills a build in a step with a network. Either prune takes away what it left.
func (s *site) testPruneAfterAKill(t *testing.T) {
	s.write("ctx/Dockerfile", "FROM busybox\nRUN echo begun; exec sleep 1000\n")
	for _, what := range []string{"builder", "system"} {
		cmd := s.command("build", "--progress=plain", s.path("ctx"))
		stderr, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		s.pids = append(s.pids, cmd.Process.Pid)
		untilBegun(t, stderr)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // it was killed
		if left := s.left("run/netns/build-*"); len(left) != 1 {
			t.Errorf("network namespaces before the prune: %v, want one", left)
		}
		s.must(what, "prune", "--force")
		if left := s.left("run/netns/*", "run/build/*", "run/network/endpoints/*", "root/snapshots/build-*"); len(left) > 0 {
			t.Errorf("%s prune leaves %v", what, left)
		}
	}
}

// left returns what matches the patterns in the directory of s.
func (s *site) left(patterns ...string) (found []string) {
	for _, p := range patterns {
		names, err := filepath.Glob(s.path(p))
		if err != nil {
			s.t.Fatal(err)
		}
		found = append(found, names...)
	}
	return found
}

// testInterruptedBuild presses Ctrl-C while steps run that do not want to end.
func (s *site) testInterruptedBuild(t *testing.T) {
	s.write("ctx/Dockerfile", `FROM busybox AS one
RUN trap '' INT TERM; (setsid sleep 1000 &); echo begun; sleep 1000
FROM busybox AS two
RUN --mount=type=cache,target=/c,sharing=locked sleep 1000
FROM busybox
COPY --from=one /x /
COPY --from=two /x /
`)
	cmd := s.command("build", "--progress=plain", s.path("ctx"))
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	seen := untilBegun(t, stderr)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	_, _ = io.Copy(seen, stderr)
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted {
		t.Errorf("the build ended with %v:\n%s", err, seen.String())
	}
	t.Logf("the build ended after %v", time.Since(began)) // a second on a quiet machine is what it may take
	if groups, _ := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/teu/build-%d-*", cmd.Process.Pid)); len(groups) > 0 {
		t.Errorf("groups are left: %v", groups)
	}
	if names, err := filepath.Glob(s.path("run/netns/*")); err != nil || len(names) > 0 {
		t.Errorf("network namespaces are left: %v, %v", names, err)
	}
	s.write("ctx/Dockerfile", "FROM busybox\nRUN --mount=type=cache,target=/c,sharing=locked true\n")
	s.must("build", s.path("ctx"))
}

// testDaemonizingStep has a step that leaves a process behind.
func (s *site) testDaemonizingStep(t *testing.T) {
	s.write("ctx/Dockerfile", "FROM busybox\nRUN (setsid sleep 1000 >/dev/null 2>&1 &); (setsid sleep 1000 &); echo done > /f\nFROM scratch\nCOPY --from=0 /f /\n")
	s.must("build", "-o", s.path("out"), s.path("ctx"))
	if got := s.read("out/f"); got != "done\n" {
		t.Errorf("the step made %q", got)
	}
}

// testTalkativeStep has a step that prints more than anybody wants to read.
func (s *site) testTalkativeStep(t *testing.T) {
	megabytes := 100
	if os.Getenv("TEU_SOAK") != "" {
		megabytes = 1000
	}
	s.write("ctx/Dockerfile", fmt.Sprintf("FROM busybox\nRUN yes a line of some length | head -c %d000000; echo the end; exit 9\n", megabytes))
	cmd := s.command("build", "--progress=plain", s.path("ctx"))
	out, err := cmd.CombinedOutput()
	if err == nil || cmd.ProcessState.ExitCode() != exitFailure {
		t.Errorf("the build ended with %v", err)
	}
	if len(out) > 10<<20 {
		t.Errorf("%d bytes were printed", len(out))
	}
	for _, want := range []string{"[output clipped, log limit 2MiB reached]", "the end", "exit code: 9"} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("the output has no %q", want)
		}
	}
	if peak := cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss; peak > 200<<10 {
		t.Errorf("it took %d KiB of memory", peak)
	}
}

// testFullDisk builds on a store that is too small for a step.
func (s *site) testFullDisk(t *testing.T) {
	small := s.path("small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("small", small, "tmpfs", 0, "size=24m"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := syscall.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	}()
	archive := s.path("busybox.tar")
	s.must("save", "-o", archive, "busybox")
	env := s.env
	defer func() { s.env = env }()
	s.env = append(slices.Clone(env), "TEU_ROOT="+filepath.Join(small, "root"))
	s.must("load", "-i", archive)
	for name, dockerfile := range map[string]string{
		"a step":   "FROM busybox\nRUN head -c 100000000 /dev/zero > /big\n",
		"a copy":   "FROM busybox\nCOPY big /big\n",
		"a result": "FROM busybox\nRUN head -c 9000000 /dev/urandom > /a\nRUN head -c 9000000 /dev/urandom > /b\nRUN head -c 9000000 /dev/urandom > /c\n",
	} {
		s.write("ctx/Dockerfile", dockerfile)
		if err := os.Truncate(mustCreate(t, s.path("ctx/big")), 50<<20); err != nil {
			t.Fatal(err)
		}
		if name == "a copy" { // not sparse
			if err := os.WriteFile(s.path("ctx/big"), bytes.Repeat([]byte("x"), 50<<20), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		out, err := s.run("build", "-t", "app", s.path("ctx"))
		if err == nil || !strings.Contains(out, " is full; ") {
			t.Errorf("%s that is too big: %v\n%s", name, err, out)
		}
		s.must("builder", "prune", "-af")
		s.write("ctx/Dockerfile", "FROM busybox\nRUN head -c 1000000 /dev/zero > /fits\n")
		s.must("build", "--no-cache", "-t", "app", s.path("ctx"))
		if out := s.must("system", "check"); !strings.Contains(out, "store: no problem found") {
			t.Errorf("the store after %s:\n%s", name, out)
		}
	}
}

func mustCreate(t *testing.T, path string) string {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
