package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/teu-dev/teu/test/built"
)

// TestTerminateWhileStarting sends SIGTERM to a server at moments of its start, which for the most
// part is the unpacking of the whole of teu: it ends, whenever that is.
func TestTerminateWhileStarting(t *testing.T) {
	bin, dir := built.Teu(t), scratch(t)
	for i := range 15 {
		cmd := exec.Command(bin, "serve", "registry", "--addr", "127.0.0.1:0", "--root", filepath.Join(dir, "registry"))
		root := filepath.Join(dir, "store") // the later ones find the whole unpacked
		cmd.Env = append(os.Environ(), "TEU_ROOT="+root, "TEU_RUN_ROOT="+root+"/run")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i*i) * time.Millisecond)
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // by the signal, or by a drain
		if !guard.Stop() {
			t.Fatalf("the server did not hear of a SIGTERM %d ms after its start", i*i)
		}
	}
}
