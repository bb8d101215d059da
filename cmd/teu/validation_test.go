package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/teu-dev/teu/test/built"
	"github.com/teu-dev/teu/test/privilege"
)

// TestValidation runs the public validation programs of runtime-tools against teu as an
// OCI runtime. Whatever they find must be in the table of docs/oci-runtime.md, with the
// reason.
func TestValidation(t *testing.T) {
	if testing.Short() {
		t.Skip("end-to-end tests are not part of -short")
	}
	privilege.NeedRoot(t)
	dir := scratch(t)
	programs := buildValidation(t, dir)
	if err := os.Symlink(built.Teu(t), filepath.Join(dir, "teu-oci")); err != nil {
		t.Fatal(err)
	}
	known := knownMisses(t)
	// Those about cgroups all use the same group. The others sleep most of the time.
	var lanes [4][]string
	for i, p := range programs {
		lane := 1 + i%3
		if strings.HasPrefix(p, "linux_cgroups") || strings.HasPrefix(p, "delete") {
			lane = 0
		}
		lanes[lane] = append(lanes[lane], p)
	}
	var running sync.WaitGroup
	for _, lane := range lanes {
		running.Go(func() {
			for _, p := range lane {
				validate(t, dir, p, known[p])
			}
		})
	}
	running.Wait()
}

// buildValidation builds the programs and returns their names.
func buildValidation(t *testing.T, dir string) (programs []string) {
	t.Helper()
	list := func(args ...string) []string {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Stderr = "../../test/validation", os.Stderr
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("go %q: %v", args, err)
		}
		return strings.Fields(string(out))
	}
	imports := list("list", "-e", "-tags", "tools", "-f", "{{join .Imports \" \"}}", ".")
	list(append([]string{"build", "-trimpath", "-o", dir + "/"}, imports...)...)
	tools := list("list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-tools")
	archives, err := filepath.Glob(tools[0] + "/rootfs-*.tar.gz")
	if err != nil || len(archives) == 0 {
		t.Fatal("no root file system", err)
	}
	for _, a := range archives {
		b, err := os.ReadFile(a)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(a)), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range imports {
		if name := filepath.Base(p); name != "runtimetest" {
			programs = append(programs, name)
		}
	}
	return programs
}

// knownMisses reads the table: program, what it says, reason.
func knownMisses(t *testing.T) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/oci-runtime.md")
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| (.*?) \\| .+ \\|$").FindAllStringSubmatch(string(b), -1) {
		known[m[1]] = append(known[m[1]], m[2])
	}
	if len(known) == 0 {
		t.Fatal("docs/oci-runtime.md has no table of misses")
	}
	return known
}

func validate(t *testing.T, dir, program string, known []string) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tmp, err := os.MkdirTemp(dir, "tmp-")
	if err != nil {
		t.Error(err)
		return
	}
	cmd := exec.CommandContext(ctx, filepath.Join(dir, program))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+filepath.Join(dir, "teu-oci"), "TMPDIR="+tmp)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err = cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Errorf("%s: %v", program, err)
		return
	}
	failures := failuresOf(out.String())
	if err != nil {
		failures = append(failures, fmt.Sprintf("%v: %s", err, strings.ReplaceAll(stderr.String(), "\n", " ")))
	}
	for _, f := range failures {
		if !slices.ContainsFunc(known, func(k string) bool { return strings.Contains(f, k) }) {
			t.Errorf("%s: %s\n%s%s", program, f, out.String(), stderr.String())
		}
	}
}

// failuresOf are the failed lines of TAP output, and the errors of programs that only
// print those.
func failuresOf(tap string) (list []string) {
	for line := range strings.Lines(tap) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "not ok") || strings.HasPrefix(line, `"error":`) && strings.Contains(tap, "1..0") {
			list = append(list, line)
		}
	}
	return list
}
