// Package slack keeps the runtime of Go from waking short processes for nothing.
//
// One thread of every Go process, its monitor, sleeps for 20 microseconds again and again while
// there is work. Each time it wakes it interrupts that work: a command that lives for ten
// milliseconds is interrupted a hundred times, for a tenth of the processor time it takes. The
// kernel lets a thread sleep longer by its timer slack (PR_SET_TIMERSLACK(2const)), and threads
// inherit it. So programs that are linked with `-E teu_slack` set a large one before the runtime
// makes its threads. Deadlines and timers are as late as that, one millisecond, and nothing else.
//
// Processes inherit it too, and a container is not to have it: see [Usual].
package slack

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// usual is the timer slack the process was started with, in nanoseconds, or 0 if it has that still.
var usual uintptr

// Usual runs f, which makes or executes another program, on a thread with the timer slack that
// this process was started with. The thread keeps it: to take it back would be a system call more, and
// the monitor has a thread of its own.
func Usual(f func()) {
	if usual == 0 {
		f()
		return
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0)
	f()
}
