package main

import (
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

func TestEntersNamespace(t *testing.T) {
	for args, want := range map[string]bool{
		"":                           false,
		"version":                    false,
		"pull --help":                false,
		"serve registry --root /srv": false,
		"oci run x":                  false,
		"serve engine":               true,
		"create -h box image":        true,
		"run image program --help":   true,
		"--root /r ps":               true,
		"exec box ls --help":         true,
	} {
		if got := readCommandLine(strings.Fields(args)).entersNamespace(); got != want {
			t.Errorf("teu %s: %v, want %v", args, got, want)
		}
	}
}

// Who has become another user by su has the directory of the first in the environment.
func TestUserRunRoot(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", dir)
	as := func(uid uintptr) (root string) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // never unlocked: the thread is another user's
			if _, _, errno := syscall.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
				t.Error(errno)
			}
			root = userRunRoot()
		}()
		<-done
		return root
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for uid, want := range map[uintptr]string{0: dir + "/teu", 4711: "/tmp/teu-4711/teu"} {
		if got := as(uid); got != want {
			t.Errorf("user %d: %s, want %s", uid, got, want)
		}
	}
}
