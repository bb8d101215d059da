package engine

import (
	"runtime"
	"runtime/debug"
	"time"
)

// restAfter is how long nothing has been asked for when the server counts as being at rest.
const restAfter = 5 * time.Second

// rest gives the memory that requests took back to the system once none has ended for a
// while: a server that is asked now and then keeps no more than one that never was.
type rest struct{ timer *time.Timer }

func newRest() rest {
	t := time.AfterFunc(restAfter, func() {
		runtime.GC() // what a sync.Pool holds goes with the second collection
		debug.FreeOSMemory()
	})
	t.Stop()
	return rest{t}
}

// delay begins the time anew.
func (r rest) delay() { r.timer.Reset(restAfter) }

func (r rest) end() { r.timer.Stop() }
