package main

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// A process of a container does not count, and a tool's own does, though both are its children.
func TestTreeMemoryLeavesContainersOut(t *testing.T) {
	const held = 32 << 20
	if os.Getenv("BENCH_TEST_HOLD") != "" {
		b := make([]byte, held)
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		os.Stdout.WriteString("\n")
		os.Stdin.Read(b[:1])
		return
	}
	for _, test := range []struct {
		name  string
		flags uintptr
		want  bool
	}{
		{"child", 0, true},
		{"container", syscall.CLONE_NEWPID, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.flags != 0 {
				needRoot(t)
			}
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTreeMemoryLeavesContainersOut$")
			cmd.Env = append(os.Environ(), "BENCH_TEST_HOLD=1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: test.flags}
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer stdin.Close()
			if _, err := bufio.NewReader(stdout).ReadByte(); err != nil {
				t.Fatal(err)
			}
			with := treeMemory(os.Getpid())
			without := processMemory(os.Getpid())
			if got := with-without > held/1024/2; got != test.want {
				t.Errorf("%d kB with the child, %d kB without: it counts: %v, want %v", with, without, got, test.want)
			}
		})
	}
}

func needRoot(t testing.TB) {
	switch {
	case os.Getenv("TEU_TEST_ROOT") == "":
		t.Skip("set TEU_TEST_ROOT=1 to run tests that need root")
	case os.Geteuid() != 0:
		t.Fatal("TEU_TEST_ROOT is set but this is not root")
	}
}
