// Package privilege decides whether a test that needs root may run.
//
// Without TEU_TEST_ROOT such a test is skipped. With it a missing privilege is a
// failure, so a suite that was meant to run as root cannot silently shrink.
package privilege

import (
	"os"
	"testing"
)

// NeedRoot skips t unless TEU_TEST_ROOT is set, and fails it when the variable is
// set but the process is not root.
func NeedRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Getenv("TEU_TEST_ROOT") == "":
		t.Skip("set TEU_TEST_ROOT=1 to run tests that need root")
	case os.Geteuid() != 0:
		t.Fatal("TEU_TEST_ROOT is set but this is not root")
	}
}
