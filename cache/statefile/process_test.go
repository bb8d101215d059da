package statefile

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

func FuzzParseStat(f *testing.F) {
	f.Add("1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0")
	f.Add("7 (a) R ) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 43 0 0")
	f.Add(") Z")
	f.Add("")
	f.Fuzz(func(t *testing.T, stat string) {
		state, _, err := parseStat(stat)
		if err == nil && state == "" {
			t.Errorf("%q: no state and no error", stat)
		}
	})
}

func TestParseStat(t *testing.T) {
	for stat, want := range map[string]uint64{
		"1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 0 0":        42,
		"7 (a) R ) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 43 0 0":    43,
		"8 (new\nline 9) Z 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 44 0 0": 44,
	} {
		if _, got, err := parseStat(stat); got != want || err != nil {
			t.Errorf("%q: got %d, %v, want %d", stat, got, err, want)
		}
	}
	if _, _, err := parseStat("1 (x) S 1 2"); err == nil {
		t.Error("a short line was taken")
	}
}

// TestHold: a process is seen to hold a document until it is killed or the document is another.
func TestHold(t *testing.T) {
	if path := os.Getenv("TEU_TEST_HOLD"); path != "" {
		if err := Hold(path); err != nil {
			t.Fatal(err)
		}
		os.Stdout.WriteString("!")
		io.ReadAll(os.Stdin)
		return
	}
	path := filepath.Join(t.TempDir(), "doc.json")
	if err := Write(path, 1, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	hold := func() (*exec.Cmd, Process) {
		cmd := exec.Command(os.Args[0], "-test.run=^TestHold$")
		cmd.Env = append(os.Environ(), "TEU_TEST_HOLD="+path)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		return cmd, Process{PID: cmd.Process.Pid}
	}
	end := func(cmd *exec.Cmd) {
		cmd.Process.Kill()
		cmd.Wait()
	}
	if (Process{}).Holds(path) || (Process{PID: os.Getpid()}).Holds(path) {
		t.Error("held before anybody holds it")
	}
	cmd, p := hold()
	if !p.Holds(path) || (Process{}).Holds(path) || (Process{PID: os.Getpid()}).Holds(path) {
		t.Error("not held by the one who holds it, or by another one")
	}
	end(cmd)
	if p.Holds(path) {
		t.Error("held by a process that was killed")
	}
	cmd, p = hold()
	defer end(cmd)
	if err := Write(path, 2, WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if p.Holds(path) {
		t.Error("a document that was written anew is held")
	}
	if p.Holds(path + ".none") {
		t.Error("a document that is not there is held")
	}
}

func TestAge(t *testing.T) {
	if a := (Process{PID: 1}).Age(); a != 0 {
		t.Errorf("a process without a start is %v old", a)
	}
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	before := self.Age()
	time.Sleep(30 * time.Millisecond)
	if now := self.Age(); now < before+30*time.Millisecond || now > time.Hour {
		t.Errorf("%v old after %v and 30ms", now, before)
	}
}
