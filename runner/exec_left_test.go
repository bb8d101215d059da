package runner

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExecOutlivesItsClient: a command goes on, and can write, when who executed it has gone, and the keeper after that; so
// does what a command leaves behind. With docker too.
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
		killed        bool // its keeper, after that
	}{
		{name: "pipes", command: "sleep 0.5; " + much + "/told/pipes", o: ExecOptions{Output: true}},
		{name: "input", command: "sleep 0.5; " + much + "/told/input", o: ExecOptions{Output: true, Stdin: true}},
		{name: "terminal", command: "sleep 0.5; " + much + "/told/terminal", o: ExecOptions{Output: true, TTY: true}},
		{name: "detached", command: "sleep 0.5; " + much + "/told/detached", o: ExecOptions{TTY: true}},
		{name: "behind", command: "(sleep 0.5; " + much + "/told/behind) &", o: ExecOptions{Output: true}, ends: true},
		{name: "pipes2", command: "sleep 2; " + much + "/told/pipes2", o: ExecOptions{Output: true}, killed: true},
		{name: "terminal2", command: "sleep 2; " + much + "/told/terminal2", o: ExecOptions{Output: true, TTY: true}, killed: true},
		{name: "detached2", command: "sleep 2; " + much + "/told/detached2", o: ExecOptions{TTY: true}, killed: true},
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
			if tt.killed {
				c := get(t, e, "box")
				await(t, "a holder", func() bool {
					held, _ := filepath.Glob(filepath.Join(e.runDir(c.ID), "command.*"))
					return len(held) > 0
				})
				killKeeper(t, c)
				get(t, e, "box") // adopts it
			}
			await(t, "the end of the command", func() bool {
				_, err := os.Stat(filepath.Join(dir, tt.name))
				return err == nil
			})
			await(t, "the end of its holder", func() bool {
				held, err := filepath.Glob(filepath.Join(e.runDir(get(t, e, "box").ID), "command.*"))
				return err == nil && len(held) == 0
			})
		})
	}
}

// TestHolderOfCommandEnds: with the container.
func TestHolderOfCommandEnds(t *testing.T) {
	e := newEngine(t)
	for _, killed := range []bool{false, true} {
		c := detached(t, e, "", sh("sleep 600"))
		x, err := e.Exec(t.Context(), c.ID, ExecOptions{Args: []string{"sleep", "600"}, TTY: true})
		if err != nil {
			t.Fatal(err)
		}
		x.Close()
		var held []string
		await(t, "a holder", func() bool {
			held, _ = filepath.Glob(filepath.Join(e.runDir(c.ID), "command.*"))
			return len(held) == 1
		})
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Ext(held[0]), "."))
		if err != nil {
			t.Fatal(err)
		}
		if killed {
			killKeeper(t, c)
		}
		if err := e.Remove(t.Context(), c.ID, RemoveOptions{Force: true}); err != nil {
			t.Fatal(err)
		}
		await(t, "the end of the holder", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
	}
}
