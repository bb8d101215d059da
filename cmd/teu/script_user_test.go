package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// userScripts are the stories that hold for an ordinary user as they do for root, and those
// of such users alone.
func userScripts() (files []string) {
	for _, name := range []string{
		"user/rootless", "user/userns", "run_basics", "run_life", "run_tty", "run_volumes", "run_restart", "run_health", "networks",
		"build_stages", "build_mounts", "build_why", "images",
	} {
		files = append(files, filepath.Join("testdata/script", name+".txtar"))
	}
	return files
}

// testUID is the user of these tests, who is in no file of the host.
const testUID = 4711

// userWorld is a world whose teu is run by an ordinary user with subordinate IDs. The user
// exists in a mount namespace only.
type userWorld struct {
	*world
	bin string // a directory for PATH
}

func newUserWorld(t *testing.T, w *world) *userWorld {
	t.Helper()
	u := &userWorld{world: w, bin: filepath.Join(w.tmp, "user")}
	script := `set -e
umask 022
chmod 711 "$1"
mkdir "$1/user"
cp "$2" "$1/user/teu-real"
for f in passwd group subuid subgid; do cat /etc/$f >"$1/user/$f" 2>/dev/null || :; done
echo "tester:x:$3:$3::/nonexistent:/bin/sh" >>"$1/user/passwd"
echo "tester:x:$3:" >>"$1/user/group"
for f in subuid subgid; do echo "tester:3000000:65536" >>"$1/user/$f"; done`
	if out, err := exec.Command("sh", "-c", script, "sh", w.tmp, w.teu, fmt.Sprint(testUID)).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	pid := u.holdMounts(t)
	wrapper := fmt.Sprintf(`#!/bin/sh
exec nsenter --mount=/proc/%d/ns/mnt setpriv --reuid %d --regid %d --clear-groups sh -c 'cd "$0" && exec "$@"' "$PWD" %s "$@"
`, pid, testUID, testUID, filepath.Join(u.bin, "teu-real"))
	if err := os.WriteFile(filepath.Join(u.bin, "teu"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	return u
}

// holdMounts starts a process in a mount namespace where the user exists, until the test ends.
func (u *userWorld) holdMounts(t *testing.T) int {
	t.Helper()
	cmd := exec.Command("sh", "-c", `set -e
for f in passwd group subuid subgid; do mount --bind "$0/$f" /etc/$f; done
echo ready
exec cat`, u.bin)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	ready := make([]byte, len("ready"))
	if _, err := io.ReadFull(stdout, ready); err != nil {
		t.Fatal(err)
	}
	return cmd.Process.Pid
}

// setup gives the script to the user.
func (u *userWorld) setup(e *testscript.Env) error {
	as := *u.world
	as.teu = filepath.Join(u.bin, "teu")
	if err := as.setup(e); err != nil {
		return err
	}
	e.Setenv("REAL", filepath.Join(u.bin, "teu-real"))
	// The directories above are open to nobody but root.
	if err := os.Chmod(filepath.Dir(e.WorkDir), 0o711); err != nil {
		return err
	}
	for _, dir := range []string{e.WorkDir, e.Getenv("STORE"), e.Getenv("PEER")} {
		if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", testUID, testUID), dir).CombinedOutput(); err != nil {
			return fmt.Errorf("chown: %w: %s", err, strings.TrimSpace(string(out)))
		}
	}
	return nil
}
