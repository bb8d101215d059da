package tinyelf

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

func executable(t *testing.T, code []byte) string {
	t.Helper()
	fd, err := Memfd("tiny", code)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)
}

// TestSleep holds that the process lives until it is killed, once it has got its byte.
func TestSleep(t *testing.T) {
	cmd := exec.Command(executable(t, Sleep()))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	in.Close()
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it ended: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := <-ended; !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("it ended by %v, want a kill", err)
	}
}

// TestSleepIsClosed holds that the process lets nobody in who has not the right to trace it.
func TestSleepIsClosed(t *testing.T) {
	privilege.NeedRoot(t)
	fd, err := Memfd("tiny", Sleep())
	if err != nil {
		t.Fatal(err)
	}
	code := os.NewFile(uintptr(fd), "tiny")
	defer code.Close()
	const user = 1234
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{code}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: user, Gid: user}}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	owner := func() uint32 { // root, of a process that is not dumpable; proc(5)
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Uid
	}
	if got := owner(); got != user {
		t.Fatalf("before its byte it belongs to %d", got)
	}
	if _, err := in.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if owner() == 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("it is dumpable")
}

// TestSleepWithoutByte holds that the process ends when nobody can give it its byte, or
// there is no standard input.
func TestSleepWithoutByte(t *testing.T) {
	cmd := exec.Command(executable(t, Sleep()))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := exec.Command("/bin/sh", "-c", `exec "$0" <&-`, executable(t, Sleep())).Run(); err != nil {
		t.Error(err)
	}
}

// TestEnterFails holds that a failure ends the process with its errno.
func TestEnterFails(t *testing.T) {
	cmd := exec.Command(executable(t, Enter(77, 78)))
	cmd.Args = []string{"/bin/true", "/", "true"}
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != int(unix.EBADF) || string(out) != complaint {
		t.Errorf("Enter of no namespaces ended with %v and %q, want the code %d", err, out, unix.EBADF)
	}
	if len(complaint)%4 != 0 || len(complaint) > 127 {
		t.Errorf("the complaint has %d bytes: instructions follow it", len(complaint))
	}
}

// TestExecute runs the last part of Enter alone: directory, arguments and environment
// arrive; and an errno does not.
func TestExecute(t *testing.T) {
	code := appendExecute(append([]byte(nil), failure...))
	cmd := exec.Command(executable(t, code))
	cmd.Args = []string{"/bin/sh", "/tmp", "sh", "-c", `echo "$PWD" "$A" "$0" "$@"`, "zero", "one", "two words"}
	cmd.Env = []string{"A=b c", "PWD=/tmp"}
	out, err := cmd.CombinedOutput()
	if want := "/tmp b c zero one two words\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
	for _, args := range [][]string{{"/bin/true", "/no/such", "true"}, {"/no/such", "/", "true"}} {
		cmd := exec.Command(executable(t, code))
		cmd.Args = args
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != int(unix.ENOENT) {
			t.Errorf("%v ended with %v, want the code %d", args, err, unix.ENOENT)
		}
	}
}

// TestSleepIn holds that the process is root of the user namespace it joins, with a namespace of its
// own that belongs to that, and that a call that fails is told.
func TestSleepIn(t *testing.T) {
	privilege.NeedRoot(t)
	owner := exec.Command("sleep", "1000")
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 70000, Size: 10}}
	owner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{}}
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		owner.Process.Kill()
		owner.Wait()
	}()
	user, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", owner.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer user.Close()
	start := func(flags uintptr) (cmd *exec.Cmd, stop func(), said []byte) {
		cmd = exec.Command(executable(t, SleepIn(3, flags)))
		cmd.ExtraFiles = []*os.File{user}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		said = make([]byte, 1)
		n, _ := io.ReadFull(out, said)
		return cmd, func() { in.Close() }, said[:n]
	}
	cmd, stop, said := start(syscall.CLONE_NEWNET)
	if len(said) != 1 {
		t.Fatal("it has not said that it is there")
	}
	link := func(pid int, name string) string {
		s, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, name))
		if err != nil {
			t.Error(err)
		}
		return s
	}
	if a, b := link(cmd.Process.Pid, "user"), link(owner.Process.Pid, "user"); a != b {
		t.Errorf("it is in %s, want %s", a, b)
	}
	if a, b := link(cmd.Process.Pid, "net"), link(os.Getpid(), "net"); a == b {
		t.Errorf("it is in our network %s", a)
	}
	if err := cmd.Process.Signal(syscall.Signal(0)); err != nil {
		t.Error(err)
	}
	stop()
	cmd.Wait()
	cmd, stop, said = start(1) // no flag of unshare's
	defer stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); len(said) != 0 || !errors.As(err, &exit) || exit.ExitCode() == 0 {
		t.Errorf("it said %q and ended with %v", said, err)
	}
}
