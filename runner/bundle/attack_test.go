package bundle

import (
	"bytes"
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// turns is how often an attack gets its chance; soak is for the long run.
func turns(few, soak int) int {
	if os.Getenv("TEU_SOAK") != "" {
		return soak
	}
	return few
}

func sum(t *testing.T, file string) [32]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(b)
}

// A container watches while commands are started in it, to reach whoever starts them
// (CVE-2016-9962, CVE-2019-5736). Without CAP_SYS_PTRACE it sees neither a file nor the
// program. With it, and no user namespace, it may look at every process of its PID
// namespace, but cannot write to the program and finds no environment.
func TestWatchedExec(t *testing.T) {
	const look = `while :; do for p in /proc/[2-9]* /proc/1?*; do
e=$(readlink $p/exe); case $e in ''|/bin/busybox) ;; *) $SAW "exe $e"; echo x >>$p/exe && echo wrote ;; esac
for f in $p/fd/*; do [ -e $f ] && case $(readlink $f) in ''|/out|*/out|/proc/*|pipe:*|/null|/dev/null|/) ;; *) $SAW "fd $(readlink $f)";; esac; done
grep -l KEEPERSECRET $p/environ; done; done 2>/dev/null`
	caps := []string{"CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"}
	t.Run("blind", func(t *testing.T) { watchExecs(t, "SAW=echo; "+look, caps) })
	t.Run("tracer", func(t *testing.T) { watchExecs(t, "SAW=:; "+look, append(caps, "CAP_SYS_PTRACE")) })
}

func watchExecs(t *testing.T, script string, caps []string) {
	p := newPlace(t)
	before := sum(t, "/proc/self/exe")
	c, err := p.create(t, "a", script, func(s *specs.Spec) {
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("KEEPERSECRET", "KEEPERSECRET")
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range turns(8, 1000) {
		q := &specs.Process{Args: []string{"sh", "-c", ":"}, Cwd: "/", Env: []string{"PATH=/bin"}, Capabilities: &specs.LinuxCapabilities{}}
		if _, err := c.Exec(q, ExecOptions{Stdio: p.stdio()}); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Kill(unix.SIGKILL, KillOptions{}); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, specs.StateStopped)
	if out := p.output(t); out != "" {
		t.Errorf("the container saw:\n%.2000s", out)
	}
	if after := sum(t, "/proc/self/exe"); !bytes.Equal(before[:], after[:]) {
		t.Error("the program was changed")
	}
}

// A command whose interpreter is /proc/self/exe does not execute what starts it (CVE-2019-5736).
func TestSelfAsInterpreter(t *testing.T) {
	p := newPlace(t)
	before := sum(t, "/proc/self/exe")
	if err := os.WriteFile(p.bundle+"/rootfs/bin/self", []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	c, err := p.create(t, "a", "", func(s *specs.Spec) { s.Process.Args = []string{"self"} })
	if err == nil {
		if err = c.Start(t.Context()); err == nil {
			wantStatus(t, c, specs.StateStopped)
		}
		if _, err := c.Delete(t.Context(), DeleteOptions{Force: true}); err != nil {
			t.Error(err)
		}
	}
	if c, err = p.create(t, "b", "while :; do :; done", nil); err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.Exec(&specs.Process{Args: []string{"self"}, Cwd: "/", Env: []string{"PATH=/bin"}}, ExecOptions{Stdio: p.stdio()})
	if out := p.output(t); strings.Contains(out, "keeper") || strings.Contains(out, "PASS") {
		t.Errorf("what starts was executed: %q", out)
	}
	if after := sum(t, "/proc/self/exe"); before != after {
		t.Error("the program was changed")
	}
}

// What the image has as /etc/passwd is read without waiting and without end (CVE-2024-9676).
func TestHostilePasswd(t *testing.T) {
	root := t.TempDir()
	if err := os.Mkdir(root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := root + "/etc/passwd"
	for name, plant := range map[string]func() error{
		"FIFO":             func() error { return unix.Mkfifo(passwd, 0o666) },
		"directory":        func() error { return os.Mkdir(passwd, 0o755) },
		"link to endless":  func() error { return os.Symlink("/dev/zero", passwd) },
		"link to the host": func() error { return os.Symlink("../../../../../etc/passwd", passwd) },
		"huge": func() error {
			f, err := os.Create(passwd)
			if err != nil {
				return err
			}
			defer f.Close()
			return f.Truncate(1 << 40)
		},
		"NUL":      func() error { return os.WriteFile(passwd, []byte("a:x:5:5::/x\x00y:/bin/sh\n"), 0o644) },
		"relative": func() error { return os.WriteFile(passwd, []byte("a:x:5:5::x:/bin/sh\n"), 0o644) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if got := homeOf(root, 5); got != "/" {
			t.Errorf("%s: %q", name, got)
		}
		if err := os.RemoveAll(passwd); err != nil {
			t.Fatal(err)
		}
	}
}
