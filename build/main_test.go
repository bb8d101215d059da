package build

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/teu-dev/teu/runner/keeper"
)

// keeperFile is the keeper, built for these tests.
var keeperFile string

// TestMain runs the tests that need root in namespaces of their own: bridges and mounts they
// make are nobody else's, and are gone with them.
func TestMain(m *testing.M) {
	if os.Getenv("TEU_TEST_ROOT") == "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	code, err := func() (int, error) {
		if os.Getenv("TEU_TEST_INSIDE") == "" {
			return inside()
		}
		dir, err := os.MkdirTemp("", "teu-keeper-")
		if err != nil {
			return 1, err
		}
		defer os.RemoveAll(dir)
		keeperFile = filepath.Join(dir, "teu-keeper")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", keeperFile, "../cmd/teu-keeper")
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return 1, fmt.Errorf("building the keeper: %w\n%s", err, out)
		}
		return m.Run(), nil
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

// inside runs this program again in its own namespaces.
func inside() (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "TEU_TEST_INSIDE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), nil
	}
	if err != nil {
		return 1, err
	}
	return 0, nil
}

func sealedKeeper(t testing.TB) *keeper.Binary {
	t.Helper()
	elf, err := os.ReadFile(keeperFile)
	if err != nil {
		t.Fatal(err)
	}
	b, err := keeper.Seal(elf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}
