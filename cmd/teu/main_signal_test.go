//go:build !front && !porter

package main

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

// TestSignalsAtOnce: the second of two signals at once does not end a command that cleans up, a later one does.
func TestSignalsAtOnce(t *testing.T) {
	wish := map[string]time.Duration{"at once": time.Hour, "later": 0}
	if name := os.Getenv("TEU_TEST_SIGNALS"); name != "" {
		signalTwice(t, wish[name], name == "later")
		return
	}
	for name, want := range map[string]string{"at once": "alive", "later": "signal: interrupt"} {
		// What a shell starts in the background ignores the signal.
		cmd := exec.CommandContext(t.Context(), "env", "--default-signal=INT", os.Args[0], "-test.run=^TestSignalsAtOnce$")
		cmd.Env = append(os.Environ(), "TEU_TEST_SIGNALS="+name)
		out, err := cmd.CombinedOutput()
		said := string(out)
		if err != nil {
			said += err.Error()
		}
		if !strings.Contains(said, want) {
			t.Errorf("%s: got %q, want %q", name, said, want)
		}
	}
}

func signalTwice(t *testing.T, wish time.Duration, again bool) {
	ctx, catching := untilSignals(t.Context(), wish)
	<-catching
	runtime.LockOSThread() // a signal to it has its effect before the call returns
	send := func() {
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGINT); err != nil {
			t.Fatal(err)
		}
	}
	send()
	<-ctx.Done()
	send()
	for i := 0; again && i < 10000; i++ { // until it is no longer caught
		time.Sleep(time.Millisecond)
		send()
	}
	os.Stdout.WriteString("alive")
}

// TestSignalAtQuestion: a signal means no as soon as there is a question.
func TestSignalAtQuestion(t *testing.T) {
	if os.Getenv("TEU_TEST_QUESTION") != "" {
		runtime.GOMAXPROCS(1) // nothing else runs before somebody waits
		runtime.LockOSThread()
		ctx := untilSignal(t.Context())
		in, silent, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		if newApp(&ui.UI{In: in, Out: toldOff{}}).confirm(ctx, "") {
			t.Error("that was a yes")
		}
		return
	}
	cmd := exec.CommandContext(t.Context(), "env", "--default-signal=TERM", os.Args[0], "-test.run=^TestSignalAtQuestion$")
	cmd.Env = append(os.Environ(), "TEU_TEST_QUESTION=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// toldOff is an output that gets a signal for what it writes.
type toldOff struct{}

func (toldOff) Write(p []byte) (int, error) {
	return len(p), unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGTERM)
}
