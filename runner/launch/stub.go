package launch

import "os"

const targetScratch = 8192
const (
	msgConsole = iota + 1
	msgReady
)

func start(p *Program, files []*os.File) (*Child, error)   { panic("todo") }
func (p *Program) validate() error                         { return nil }
func (a *Assembler) add(nr uint32, c Cond, args []Arg) Ref { return 0 }
func (a *Assembler) Str(s string) Arg                      { return Arg{} }
func (a *Assembler) Bytes(b []byte) Arg                    { return Arg{} }
func (a *Assembler) Buffer(n int) Arg                      { return Arg{} }

// MarshalBinary returns the form UnmarshalBinary reads.
func (p *Program) MarshalBinary() ([]byte, error) { panic("todo") }

// UnmarshalBinary reads and checks what MarshalBinary wrote.
func (p *Program) UnmarshalBinary(b []byte) error { panic("todo") }

// String prints the plan, one operation a line.
func (p *Program) String() string { return "" }

// Wait waits until the child has ended, reaps it and closes PIDFD.
func (c *Child) Wait() (Exit, error) { panic("todo") }

// Signal sends a signal to the child.
func (c *Child) Signal(sig os.Signal) error { panic("todo") }
