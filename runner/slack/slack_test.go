package slack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// program prints its timer slack, and that of a process which it starts as others are to be started.
const program = `package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/slack"
)

func main() {
	n, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil {
		panic(err)
	}
	fmt.Println(n)
	if len(os.Args) > 1 {
		return
	}
	slack.Usual(func() {
		out, err := exec.Command("/proc/self/exe", "again").CombinedOutput()
		fmt.Printf("%s%v\n", out, err)
	})
	slack.Usual(func() {
		out, err := exec.Command("cat", "/proc/self/timerslack_ns").CombinedOutput()
		fmt.Printf("%s%v\n", out, err)
	})
}
`

func TestSlackIsNotHandedOn(t *testing.T) {
	dir, err := os.MkdirTemp(".", "program-") // where the module is
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-ldflags=-E teu_slack", "-o", exe, "./"+dir)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(exe).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	usual := strings.TrimSpace(string(before))
	if want := "1000000\n1000000\n<nil>\n" + usual + "\n<nil>\n"; string(out) != want {
		t.Errorf("timer slacks %q, want %q", out, want)
	}
}
