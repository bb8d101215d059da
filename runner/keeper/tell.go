package keeper

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/event"
)

// Events says where the container's events are told and what is the same in all of them.
// Without a directory nothing is told.
type Events struct {
	Dir        string
	Attributes map[string]string
	NameFile   string // holds the container's name, which can change
}

// event adds an event of the container to the journal.
func (s *supervisor) event(action string, more map[string]string) {
	c := s.cfg.Events
	if c.Dir == "" {
		return
	}
	all := make(map[string]string, len(c.Attributes)+len(more)+1)
	maps.Copy(all, c.Attributes)
	if b, err := os.ReadFile(c.NameFile); err == nil {
		all["name"] = strings.TrimSpace(string(b))
	}
	maps.Copy(all, more)
	e := event.Event{Type: event.Container, Action: action, Actor: event.Actor{ID: s.cfg.ID, Attributes: all}}
	if err := (event.Journal{Dir: c.Dir}).Append(e); err != nil {
		fmt.Fprintln(os.Stderr, "telling of", action+":", err)
	}
}

// tellExit tells of the end of a run. mu is held.
func (s *supervisor) tellExit(e ExitStatus, ran time.Duration) {
	s.event("die", map[string]string{
		"exitCode": strconv.Itoa(e.Code), "execDuration": strconv.Itoa(int(ran / time.Second)),
	})
}

// send signals p and tells of it, before anybody tells of the end that it may bring.
func (s *supervisor) send(p *process, sig unix.Signal) error {
	s.mu.Lock() // which exit waits for
	defer s.mu.Unlock()
	if err := p.signal(sig); err != nil {
		return err
	}
	s.event("kill", map[string]string{"signal": strconv.Itoa(int(sig))})
	return nil
}

// ExecEnd is what a keeper notes of the end of a command that was executed in a container.
type ExecEnd struct {
	ExitCode int
	Time     time.Time
}

// noteExec tells how a command ended.
func (s *supervisor) noteExec(q request, status ExitStatus) {
	if q.Record != "" {
		end := ExecEnd{ExitCode: status.Code, Time: time.Now().UTC()}
		if err := statefile.Write(q.Record, &end, statefile.WriteOptions{}); err != nil && !os.IsNotExist(err) {
			fmt.Fprintln(os.Stderr, "noting the end of a command:", err)
		}
	}
	if q.ExecID != "" {
		s.event("exec_die", map[string]string{"execID": q.ExecID, "exitCode": strconv.Itoa(status.Code)})
	}
}
