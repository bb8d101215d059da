// Package built gives tests the program that users get.
package built

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Teu returns the path of bin/teu, built, for a test two directories below the root of the repository. With
// TEU_TEST_BUILT it was built before: tests that run at once must not replace the program of each other.
func Teu(t testing.TB) string {
	t.Helper()
	const root = "../.."
	if os.Getenv("TEU_TEST_BUILT") == "" {
		if out, err := exec.Command("make", "-C", root, "build").CombinedOutput(); err != nil {
			t.Fatalf("make build: %v\n%s", err, out)
		}
	}
	path, err := filepath.Abs(filepath.Join(root, "bin/teu"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
