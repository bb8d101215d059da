package launch

import (
	"os"
)

// Child is a process that has been started and not yet waited for.
type Child struct {
	PID     int      // as the starter's PID namespace sees it
	PIDFD   *os.File // never nil
	Console *os.File // master of the terminal the program made, or nil
}

// Exit is how a process ended: Code as a shell reports it (128+n for signal n).
type Exit struct {
	Code   int
	Signal int  // 0 if it exited by itself
	Core   bool // dumped core
}

// Start runs p in a new process and returns when the program has executed something,
// sent [Assembler.Ready] or failed. files become the descriptors of the child from 0 on;
// they stay the caller's. A failed operation is a [*StepError].
//
// Whoever waits for any child of the process (wait4(-1)) breaks Start and Wait.
func Start(p *Program, files []*os.File) (*Child, error) {
	return start(p, files)
}
