package runner

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/keeper"
)

// Why explains in plain words, a line each, what a container is doing or how it ended: exit
// code, signal and who sent it, memory, restarts, health, and the last lines of output.
func (e *Engine) Why(ctx context.Context, ref string) ([]string, error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return nil, err
	}
	s := c.State
	var lines []string
	say := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	switch s.Status {
	case keeper.Created:
		say("%s was created %s and has not run.", c.Name, when(c.Created))
	case keeper.Running, keeper.Paused:
		say("%s is %s since %s as process %d.", c.Name, s.Status, when(s.StartedAt), s.Init.PID)
	case keeper.Restarting:
		say("%s waits to be started again by its policy %q.", c.Name, c.Options.Restart.Name)
	default:
		say("%s ended %s after %s with the exit code %d.", c.Name, when(s.FinishedAt), s.FinishedAt.Sub(s.StartedAt).Round(time.Millisecond), s.ExitCode)
	}
	if s.OOMKilled {
		say("The kernel killed one of its processes because the memory limit was reached.%s", memoryHint(c))
		for _, victim := range oomVictims(c.ID) {
			say("Kernel: %s", victim)
		}
	}
	if s.Status == keeper.Exited || s.Status == keeper.Dead || s.Status == keeper.Restarting {
		e.explainExit(ctx, c, say)
	}
	if s.RestartCount > 0 {
		say("It has been started again %d times by its policy %q.", s.RestartCount, c.Options.Restart.Name)
	}
	if s.Error != "" {
		say("Error: %s", s.Error)
	}
	if h := s.Health; h != nil && len(h.Log) > 0 {
		last := h.Log[len(h.Log)-1]
		say("Health: %s; the last check ended with %d: %s", h.Status, last.ExitCode, strings.TrimSpace(last.Output))
	}
	return append(lines, e.lastWords(ctx, c)...), nil
}

func when(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// explainExit says what an exit code means and who caused it, as far as is known.
func (e *Engine) explainExit(ctx context.Context, c *Container, say func(string, ...any)) {
	s := c.State
	switch code := s.ExitCode; {
	case code == 125:
		say("125: teu could not start it.")
	case code == 126:
		say("126: the command cannot be executed; is it executable, and for this architecture?")
	case code == 127:
		say("127: the command, or the interpreter it names, was not found.")
	case code > 128 && code <= 128+64:
		sig := unix.Signal(code - 128)
		say("%d = 128+%d: %s ended it%s.", code, code-128, unix.SignalName(sig), signalMeaning(sig))
	}
	kill, stopped := e.lastKill(ctx, c)
	switch {
	case kill != "" && stopped:
		say("Its user stopped it (signal %s), so its policy lets it be.", kill)
	case kill != "":
		say("A teu command or its health check sent it the signal %s just before.", kill)
	case s.ExitCode == 137 && !s.OOMKilled && s.Error == "":
		say("No teu command killed it: something else on the host did, or the program itself.")
	}
}

func signalMeaning(sig unix.Signal) string {
	switch sig {
	case unix.SIGSEGV, unix.SIGBUS:
		return ", an access to memory that is not there"
	case unix.SIGABRT:
		return ", which a program sends itself when it gives up"
	case unix.SIGILL:
		return ", an instruction this processor does not have"
	}
	return ""
}

func memoryHint(c *Container) string {
	if r := c.Options.Resources; r != nil && r.Memory != nil && r.Memory.Limit != nil {
		return fmt.Sprintf(" The limit is %d bytes (--memory).", *r.Memory.Limit)
	}
	return ""
}

// lastKill is the last signal that was sent to the container by teu during its last run.
func (e *Engine) lastKill(ctx context.Context, c *Container) (signal string, stopped bool) {
	r := event.Range{Since: c.State.StartedAt, Until: c.State.FinishedAt.Add(time.Second)}
	if time.Now().Before(r.Until) {
		r.Until = time.Now()
	}
	e.journal().Follow(ctx, r, func(ev event.Event) error {
		if ev.Actor.ID == c.ID && ev.Action == "kill" {
			signal = ev.Actor.Attributes["signal"]
		}
		return nil
	})
	return signal, c.State.Stopped
}

// oomVictims are the kernel's own words, if we may read them.
func oomVictims(id string) (lines []string) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "kmsg")
	defer f.Close()
	buf := make([]byte, 8192)
	ours := false
	for range 100000 {
		n, err := unix.Read(fd, buf)
		if err == unix.EPIPE { // overwritten meanwhile
			continue
		}
		if err != nil || n <= 0 {
			return lines
		}
		_, text, _ := strings.Cut(string(buf[:n]), ";")
		text, _, _ = strings.Cut(text, "\n")
		if strings.HasPrefix(text, "oom-kill:") {
			ours = strings.Contains(text, id)
		} else if ours && strings.Contains(text, "Killed process") {
			lines, ours = append(lines, text), false
		}
	}
	return lines
}

// lastWords are the last lines of output.
func (e *Engine) lastWords(ctx context.Context, c *Container) []string {
	var b bytes.Buffer
	if err := e.Logs(ctx, c.ID, LogOptions{Tail: 5}, &b, &b); err != nil || b.Len() == 0 {
		return nil
	}
	lines := []string{"Its last words:"}
	for line := range strings.Lines(b.String()) {
		lines = append(lines, "  "+strings.TrimRight(line, "\r\n"))
	}
	return lines
}
