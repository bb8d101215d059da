package launch

import (
	"errors"
	"fmt"
	"io"
	"unsafe"
)

// Follow lets a paused program go on and returns when it has executed its command or
// failed with a [*StepError], or waits at its next [Assembler.Pause]. fifo is the reading
// end of its FIFO; reads of it must wait for the program, and end with it. listener is
// called with what [Assembler.SendNumber] sends, and may be nil.
func Follow(p *Program, fifo io.Reader, listener func(fd int) error) error {
	for {
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
		case msgListener:
			if listener != nil {
				err = listener(int(m.value))
			}
			if err != nil {
				return err
			}
			continue
		}
		return fmt.Errorf("following a launch program: message %d", m.kind)
	}
}
