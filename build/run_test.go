package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
)

func TestRun(t *testing.T) {
	b := newBench(t)
	res, l := b.must(Options{Args: map[string]string{"V": "arg"}},
		"FROM busybox AS make",
		"ARG V",
		"RUN echo made-$V > /out && id -u && hostname && cat /proc/self/status | grep CapEff",
		"FROM busybox",
		"WORKDIR /w",
		"RUN rm /etc/group && echo hi && mkdir sub && echo text > sub/f && chown 1000:2000 sub/f && ln sub/f hard",
		"USER app",
		"RUN id -un > /tmp/user",
		"COPY --from=make /out /copied")
	want := []string{
		"copied 644 0:0 made-arg",
		"etc/ 755 0:0", "etc/.wh.group 0 0:0",
		"tmp/ 1777 0:0", "tmp/user 644 1000:2000 app",
		"w/ 755 0:0",
		"w/ 755 0:0", "w/hard 644 1000:2000 text", "w/sub/ 755 0:0", "w/sub/f 644 1000:2000 -> w/hard",
	}
	if diff := cmp.Diff(want, b.files(res)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, want := range []string{"hi\n", "0\n", "buildkitsandbox\n", "00000000a80425fb"} {
		if !strings.Contains(l.output.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, l.output.String())
		}
	}
	if _, l = b.must(Options{Args: map[string]string{"V": "arg"}}); len(l.ran) != 0 {
		t.Errorf("the second build ran %q", l.ran)
	}
	if _, l = b.must(Options{Args: map[string]string{"V": "other"}}); len(l.ran) != 2 {
		t.Errorf("with another argument, ran %q", l.ran)
	}
}

// TestRunBehindCopy is the mistake that is made: the context changed, the file did not.
func TestRunBehindCopy(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"a": "1", "noise": "1"})
	lines := []string{"FROM busybox", "COPY a /a", "RUN cat /a > /b", "RUN cat /b > /c"}
	b.must(Options{}, lines...)
	b.write(map[string]string{"noise": "2"})
	if _, l := b.must(Options{}, lines...); len(l.ran) != 0 {
		t.Errorf("ran %q", l.ran)
	}
}

func TestRunFails(t *testing.T) {
	b := newBench(t)
	_, _, err := b.build(Options{}, "FROM busybox", "RUN true", "RUN echo the reason >&2; exit 7")
	var e *Error
	var exit *op.ExitError
	if !errors.As(err, &e) || !errors.As(err, &exit) || exit.Code != 7 {
		t.Fatalf("got %v", err)
	}
	if len(e.Where) != 1 || e.Where[0].Start != 3 || string(e.Output) != "the reason\n" {
		t.Errorf("got %+v", e)
	}
	if !strings.Contains(err.Error(), "exit code: 7") {
		t.Errorf("got %v", err)
	}
	if _, _, err := b.build(Options{}, "FROM busybox", `RUN ["/nowhere"]`); !errors.As(err, &exit) || exit.Code != 127 {
		t.Errorf("a command that is not there: %v", err)
	}
}

func TestMounts(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"src/f": "from context"})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("hush"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TEU_TEST_SECRET", "env-hush")
	o := Options{Secrets: map[string]Secret{"s": {File: secret}, "e": {Env: "TEU_TEST_SECRET"}}}
	res, l := b.must(o,
		"FROM busybox",
		"RUN --mount=type=bind,source=src,target=/mnt cat /mnt/f && ! echo x 2>&- > /mnt/f",
		"RUN --mount=type=bind,source=src,target=/mnt,rw echo changed > /mnt/f && cat /mnt/f",
		"RUN --mount=type=tmpfs,target=/t echo x > /t/x && df /t | grep tmpfs",
		"RUN --mount=type=secret,id=s --mount=type=secret,id=e,env=E cat /run/secrets/s && stat -c %a:%u /run/secrets/s && echo /$E/",
		"RUN --mount=type=cache,target=/cache echo one >> /cache/list",
		"RUN --mount=type=cache,target=/cache echo two >> /cache/list && cat /cache/list")
	for _, want := range []string{"from context", "changed\n", "hush400:0\n", "/env-hush/", "one\ntwo\n"} {
		if !strings.Contains(l.output.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, l.output.String())
		}
	}
	if got := b.files(res); slices.ContainsFunc(got, func(s string) bool {
		return strings.Contains(s, "hush") || strings.HasPrefix(s, "cache/") || strings.HasPrefix(s, "mnt/f")
	}) {
		t.Errorf("what was mounted is in the image: %q", got)
	}
	if got, _ := os.ReadFile(filepath.Join(b.dir, "src/f")); string(got) != "from context" {
		t.Errorf("the context was changed to %q", got)
	}
	if _, _, err := b.build(Options{}, "FROM busybox", "RUN --mount=type=secret,id=none,required=true true"); err == nil {
		t.Error("a missing secret was no error")
	}
}

func TestNetworks(t *testing.T) {
	b := newBench(t)
	_, l := b.must(Options{},
		"FROM busybox",
		"RUN ip addr show eth0 | grep 'inet ' && cat /etc/resolv.conf | wc -l",
		"RUN --network=none ! ip addr show eth0 2>&- && echo none")
	for _, want := range []string{"inet 172.", "none\n"} {
		if !strings.Contains(l.output.String(), want) {
			t.Errorf("no %q in the output:\n%s", want, l.output.String())
		}
	}
	if _, _, err := b.build(Options{}, "FROM busybox", "RUN --network=host true"); err == nil || !strings.Contains(err.Error(), "network.host") {
		t.Errorf("the host's network without being allowed: %v", err)
	}
	b.must(Options{Entitlements: []string{"network.host"}}, "FROM busybox", "RUN --network=host true")
}

// TestNetworkOfEachStep: no two steps have the same network, also those whose network was made ahead; and
// none is left, of a build that failed either.
func TestNetworkOfEachStep(t *testing.T) {
	b := newBench(t)
	look := "RUN echo peer-$(cat /sys/class/net/eth0/iflink); exit " // the host never gives that number again
	lines := []string{"FROM busybox"}
	for i := range 5 {
		lines = append(lines, look+"0 "+strings.Repeat(" ", i)) // each is a step of its own
	}
	_, l := b.must(Options{}, lines...)
	seen := map[string]bool{}
	for line := range strings.Lines(l.output.String()) {
		if strings.HasPrefix(line, "peer-") {
			seen[line] = true
		}
	}
	if len(seen) != 5 {
		t.Fatalf("the steps said %q", l.output.String())
	}
	if _, _, err := b.build(Options{NoCache: true}, append(lines[:3:3], look+"1", "RUN true")...); err == nil {
		t.Error("the step did not fail")
	}
	for _, dir := range []string{"netns", "network/endpoints"} {
		if left, err := os.ReadDir(filepath.Join(b.Store.RunRoot(), dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	groups, err := filepath.Glob(fmt.Sprintf("/sys/fs/cgroup/*/teu/build-%d-*", os.Getpid()))
	if err != nil || len(groups) > 0 {
		t.Errorf("control groups are left: %q, %v", groups, err)
	}
}

// TestCancel leaves nothing behind, and the next build works.
func TestCancel(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"Dockerfile": "FROM busybox\nRUN echo started && sleep 1000\n"})
	ctx, cancel := context.WithCancel(t.Context())
	l := &log{}
	_, err := b.Build(ctx, Options{Context: b.dir, Events: func(e solver.Event) {
		l.event(e)
		if strings.Contains(string(e.Data), "started") {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), b.Store.Root()) || strings.Contains(string(mounts), b.Store.RunRoot()+"/build") {
		t.Errorf("mounts are left:\n%s", mounts)
	}
	left, err := os.ReadDir(filepath.Join(b.Store.RunRoot(), "build"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
	b.must(Options{}, "FROM busybox", "RUN true")
}

func TestStagesRunAtOnce(t *testing.T) {
	b := newBench(t)
	// Each waits for the other, over a cache mount that both see.
	wait := func(mine, other string) string {
		return "RUN --mount=type=cache,target=/c touch /c/" + mine + "; for i in $(seq 100); do test -e /c/" + other + " && exit 0; sleep 0.1; done; exit 1"
	}
	b.must(Options{Parallel: 2},
		"FROM busybox AS a", wait("a", "b"), "RUN touch /a",
		"FROM busybox AS b", wait("b", "a"), "RUN touch /b",
		"FROM busybox", "COPY --from=a /a /", "COPY --from=b /b /")
}

// TestTooLongCommands: a command is too long for Linux, whatever it is that cannot take it.
func TestTooLongCommands(t *testing.T) {
	b := newBench(t)
	for _, lines := range []int{200 << 6, 9 << 16} {
		_, _, err := b.build(Options{}, "FROM busybox", "RUN <<E\n"+strings.Repeat(": xxxxxxxxxxxxx\n", lines)+"E")
		if err == nil || !strings.Contains(err.Error(), "argument list too long") {
			t.Errorf("%d KiB: %v", lines>>6, err)
		}
	}
}
