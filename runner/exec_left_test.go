package runner

import (
	"os"
	"path/filepath"
	"testing"
)

// TestExecOutlivesItsClient: a command goes on, and can write, when who executed it has gone; so does what a command
// leaves behind. With docker too.
func TestExecOutlivesItsClient(t *testing.T) {
	e := newEngine(t)
	dir := t.TempDir()
	o := sh("sleep 600")
	o.Mounts = []MountRequest{{Type: "bind", Source: dir, Target: "/told"}}
	detached(t, e, "box", o)
	// More than a pipe or a terminal holds.
	const much = `for i in $(seq 3000); do echo "$i 4567890123456789012345678901234567890123456789"; done; echo late >&2; echo >`
	for _, tt := range []struct {
		name, command string
		o             ExecOptions
		ends          bool // before its client goes
	}{
		{name: "pipes", command: "sleep 0.5; " + much + "/told/pipes", o: ExecOptions{Output: true}},
		{name: "input", command: "sleep 0.5; " + much + "/told/input", o: ExecOptions{Output: true, Stdin: true}},
		{name: "terminal", command: "sleep 0.5; " + much + "/told/terminal", o: ExecOptions{Output: true, TTY: true}},
		{name: "detached", command: "sleep 0.5; " + much + "/told/detached", o: ExecOptions{TTY: true}},
		{name: "behind", command: "(sleep 0.5; " + much + "/told/behind) &", o: ExecOptions{Output: true}, ends: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.o.Args = []string{"sh", "-c", tt.command}
			x, err := e.Exec(t.Context(), "box", tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if tt.ends {
				if s, err := x.Wait(t.Context()); err != nil || s.Code != 0 {
					t.Errorf("%+v, %v", s, err)
				}
			}
			closeFiles([]*os.File{x.Stdin, x.Stdout, x.Stderr})
			x.Close()
			await(t, "the end of the command", func() bool {
				_, err := os.Stat(filepath.Join(dir, tt.name))
				return err == nil
			})
		})
	}
}
