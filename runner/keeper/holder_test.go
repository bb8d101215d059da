package keeper

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// unluckyKeeper is what a keeper does with a holder, up to a point: it says the holder's pid and
// reads its standard input, so that it can be killed there.
func unluckyKeeper(point, runDir string) error {
	pidfd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	streams := &stdio{cfg: &Config{RunDir: runDir}}
	h, err := forkHolder(os.NewFile(uintptr(pidfd), "pidfd"), streams)
	if err == nil && point != "forked" {
		err = h.putOnRecord(runDir, recordPrefix)
	}
	if err == nil && point == "told" {
		_, err = h.stay.Write([]byte{1})
	}
	if err == nil {
		fmt.Println(h.id.PID)
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}

// killAt kills an unluckyKeeper at a point, and returns its holder.
func killAt(t *testing.T, point, runDir string) statefile.Process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", point, runDir)
	cmd.Args[0] = "unlucky-keeper"
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	pid, _ := strconv.Atoi(strings.TrimSpace(line))
	h, idErr := statefile.Identify(pid)
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil || idErr != nil {
		t.Fatalf("%q: %v, %v", line, err, idErr)
	}
	return h
}

// Wherever a keeper is killed, there is no holder that nobody finds.
func TestNoHolderIsLost(t *testing.T) {
	for _, point := range []string{"forked", "recorded"} {
		if h := killAt(t, point, t.TempDir()); !await(func() bool { return !h.Alive() }) {
			unix.Kill(h.PID, unix.SIGKILL)
			t.Errorf("%s: the holder lives on", point)
		}
	}
	dir := t.TempDir()
	h := killAt(t, "told", dir)
	if _, err := (&holder{id: h}).take(heldPidfd); err != nil {
		t.Error(err)
	}
	if err := EndHolders(dir, State{}); err != nil {
		t.Fatal(err)
	}
	if !await(func() bool { return !h.Alive() }) {
		unix.Kill(h.PID, unix.SIGKILL)
		t.Error("told: the holder lives on")
	}
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// Two who end the holders of one container at the same time do not disturb each other.
func TestEndHoldersTogether(t *testing.T) {
	dir := t.TempDir()
	for pid := 1; pid < 1000; pid++ {
		dead := &holder{id: statefile.Process{PID: pid, BootID: "another"}}
		if err := dead.putOnRecord(dir, recordPrefix); err != nil {
			t.Fatal(err)
		}
	}
	results := make(chan error, 8)
	for range cap(results) {
		go func() { results <- EndHolders(dir, State{}) }()
	}
	for range cap(results) {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// A keeper that is killed while it replaces a holder leaves two, or two records. The next has
// one of those that live, and ends the other.
func TestAdoptFindsHolder(t *testing.T) {
	dir := t.TempDir()
	a, b := killAt(t, "told", dir), killAt(t, "told", dir)
	s := newSupervisor(&Config{RunDir: dir}, nil)
	s.state.Holder = a
	h := s.findHolder()
	if h.id != a || !a.Alive() || !await(func() bool { return !b.Alive() }) {
		t.Errorf("found %v of %v and %v", h.id, a, b)
	}
	h.end()
	if !await(func() bool { return !a.Alive() }) {
		t.Error("the holder lives on")
	}
	c := killAt(t, "told", dir)
	if h = s.findHolder(); h.id != c || s.state.Holder != c {
		t.Errorf("found %v, want %v", h.id, c)
	}
	h.end()
	if left, err := recorded(dir, recordPrefix); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}
