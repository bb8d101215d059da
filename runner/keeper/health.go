package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/launch"
)

// HealthCheck is how a keeper finds out whether its container is well. Durations are not
// zero.
type HealthCheck struct {
	// Probe is HTTP, TCP or UNIX, with Target as the URL, address or path, done by the keeper
	// from inside the container; or COMMAND, which runs the program in the file "health".
	Probe, Target         string
	Interval, Timeout     time.Duration
	Period, StartInterval time.Duration // Period may be zero
	Retries               int
	OnFailure             string // "", restart, stop or kill
	StopSignal            int
	StopTimeout           time.Duration // negative: no SIGKILL follows
}

// The statuses of docker's health.
const (
	HealthStarting  = "starting"
	HealthHealthy   = "healthy"
	HealthUnhealthy = "unhealthy"
)

const (
	healthProgramName = "health"
	healthLogLength   = 5    // results kept, moby daemon/health.go
	healthOutput      = 4096 // bytes of output kept of each
)

// watchHealth probes a run until ctx ends. It knows what moby's monitor does
// (daemon/health.go): a failure during the start period does not count until the first
// success, and a paused container is left alone.
func (s *supervisor) watchHealth(ctx context.Context, p *process) {
	h := s.cfg.Health
	began := time.Now().Add(-p.id.Age()) // another keeper may have been there before
	for {
		wait := h.Interval
		if s.healthStarting() && time.Since(began) < h.Period {
			wait = h.StartInterval
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if s.isPaused() {
			continue
		}
		r := HealthResult{Start: time.Now().UTC()}
		probe, cancel := context.WithTimeout(ctx, h.Timeout)
		r.ExitCode, r.Output = s.probe(probe, p)
		if probe.Err() == context.DeadlineExceeded {
			late := fmt.Sprintf("Health check exceeded timeout (%v)", h.Timeout)
			if r.Output != "" {
				late += ": " + r.Output
			}
			r.ExitCode, r.Output = -1, late
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
		r.End = time.Now().UTC()
		s.noteHealth(p, r, time.Since(began) < h.Period)
	}
}

func (s *supervisor) healthStarting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Health != nil && s.state.Health.Status == HealthStarting
}

func (s *supervisor) isPaused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Status == Paused
}

// beginHealth starts watching a run. mu is held.
func (s *supervisor) beginHealth(p *process) {
	if s.cfg.Health == nil {
		return
	}
	if s.state.Health == nil {
		s.state.Health = &Health{Status: HealthStarting}
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.endHealth = cancel
	go s.watchHealth(ctx, p)
}

// noteHealth records a result, and acts if it makes the container unhealthy.
func (s *supervisor) noteHealth(p *process, r HealthResult, starting bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.proc != p {
		return
	}
	old := s.state.Health
	if old == nil {
		old = &Health{Status: HealthStarting}
	}
	// A new value: somebody may be encoding the old one.
	h := &Health{Status: old.Status, FailingStreak: old.FailingStreak}
	h.Log = append(append(h.Log, old.Log...), r)
	h.Log = h.Log[max(0, len(h.Log)-healthLogLength):]
	switch {
	case r.ExitCode == 0:
		h.Status, h.FailingStreak = HealthHealthy, 0
	case starting && h.Status == HealthStarting:
	default:
		if h.FailingStreak++; h.FailingStreak >= s.cfg.Health.Retries {
			h.Status = HealthUnhealthy
		}
	}
	s.state.Health = h
	s.save()
	if h.Status == old.Status {
		return
	}
	s.event("health_status: "+h.Status, nil)
	if h.Status == HealthUnhealthy && s.cfg.Health.OnFailure != "" {
		go s.unhealthy(p)
	}
}

// unhealthy does what the user wants done with a container that is not well.
func (s *supervisor) unhealthy(p *process) {
	h := s.cfg.Health
	sig := unix.Signal(h.StopSignal)
	switch h.OnFailure {
	case "kill":
		sig = unix.SIGKILL
	case "restart":
		s.mu.Lock()
		s.renew = s.proc == p
		s.mu.Unlock()
	case "stop":
		s.mu.Lock()
		s.forbidRestart(true)
		s.mu.Unlock()
	}
	if s.send(p, sig); h.StopTimeout < 0 { // it may take its time
		return
	}
	time.Sleep(h.StopTimeout)
	p.signal(unix.SIGKILL) // ESRCH if it has ended, as p is never another process
}

// probe looks once whether the container is well.
func (s *supervisor) probe(ctx context.Context, p *process) (code int, output string) {
	var err error
	switch h := s.cfg.Health; h.Probe {
	case "COMMAND":
		return s.probeCommand(ctx, p)
	case "HTTP":
		output, err = probeHTTP(ctx, p, h.Target)
	case "TCP":
		err = probeTCP(ctx, p, h.Target)
	case "UNIX":
		err = probeUnix(ctx, p, h.Target)
	}
	if err != nil {
		return 1, err.Error()
	}
	return 0, output
}

// probeCommand executes the program of the health check in the container.
func (s *supervisor) probeCommand(ctx context.Context, p *process) (int, string) {
	b, err := os.ReadFile(filepath.Join(s.cfg.RunDir, healthProgramName))
	program := new(launch.Program)
	if err == nil {
		err = program.UnmarshalBinary(b)
	}
	if err != nil {
		return 1, err.Error()
	}
	child, out, err := s.startProbe(p, program)
	if err != nil {
		return codeOf(err), err.Error()
	}
	defer context.AfterFunc(ctx, func() { child.Signal(unix.SIGKILL) })()
	kept := make(chan string, 1)
	go func() { kept <- readOutput(out) }()
	e, err := child.Wait()
	// What it left behind may hold the pipe.
	out.SetReadDeadline(time.Now().Add(time.Second))
	text := <-kept
	out.Close()
	if err != nil {
		return 1, err.Error()
	}
	return e.Code, text
}

func (s *supervisor) startProbe(p *process, program *launch.Program) (*launch.Child, *os.File, error) {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	ours, theirs, err := Pipe(s.cfg.RunDir, s.cfg.Label)
	if err != nil {
		return nil, nil, err
	}
	unix.SetNonblock(ours, true)
	r, w := os.NewFile(uintptr(ours), "output"), os.NewFile(uintptr(theirs), "output")
	defer w.Close()
	unix.Fchown(theirs, s.cfg.UID, s.cfg.GID)
	var child *launch.Child
	err = p.use(func(pidfd *os.File) (err error) {
		slots := []*os.File{null, w, w}
		if program.Slots() == len(slots)+1 {
			slots = append(slots, pidfd)
		}
		s.oom.normal(func() { child, err = launch.Start(program, slots) })
		return err
	})
	if err != nil {
		r.Close()
		return nil, nil, err
	}
	return child, r, nil
}

// readOutput reads everything and keeps the beginning.
func readOutput(r *os.File) string {
	kept := make([]byte, 0, healthOutput)
	buf := make([]byte, healthOutput)
	for {
		n, err := r.Read(buf)
		kept = append(kept, buf[:min(n, healthOutput-len(kept))]...)
		if err != nil {
			return string(kept)
		}
	}
}
