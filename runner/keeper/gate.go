package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"

	"github.com/teu-dev/teu/runner/launch"
)

// passGates does what is to be done while the program waits, and lets it go on.
func (s *supervisor) passGates(child *launch.Child) error {
	for _, g := range s.cfg.Gates {
		if err := s.runGate(g, child.PID); err != nil {
			return err
		}
		if g.FIFO == "" {
			continue
		}
		if err := launch.Release(s.program, g.FIFO, child.PIDFD, nil); err != nil {
			return err
		}
	}
	return nil
}

// maxComplaint is how much is kept of what a command says.
const maxComplaint = 16 << 10

func (s *supervisor) runGate(g Gate, pid int) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args := append(slices.Clip(g.Command), strconv.Itoa(pid))
	var p *os.Process
	s.oom.normal(func() {
		p, err = startProcess(args, &os.ProcAttr{Dir: "/", Env: s.cfg.Env, Files: []*os.File{nil, nil, w}})
	})
	w.Close()
	if err != nil {
		return err
	}
	said, _ := io.ReadAll(io.LimitReader(r, maxComplaint))
	r.Close()
	state, err := p.Wait()
	if err == nil && state.Success() {
		return nil
	}
	if said = bytes.TrimPrefix(bytes.TrimSpace(said), []byte("teu: ")); len(said) > 0 {
		return errors.New(string(said))
	}
	return errors.Join(err, fmt.Errorf("%s: %s", g.Command[0], state))
}
