package launch

import (
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// Follow lets a paused program go on and returns when it has executed its command or
// failed with a [*StepError], or waits at its next [Assembler.Pause]. fifo is the reading end of its FIFO; reads of it must wait
// for the program, and end with it.
func Follow(p *Program, fifo io.Reader) error {
	var buf [msgSize]byte
	_, err := io.ReadFull(fifo, buf[:])
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return fmt.Errorf("following a launch program: %w", err)
	}
	m := *(*message)(unsafe.Pointer(&buf))
	switch m.kind {
	case msgFailed:
		return p.stepError(m)
	case msgReady:
		return nil
	}
	return fmt.Errorf("following a launch program: message %d", m.kind)
}
