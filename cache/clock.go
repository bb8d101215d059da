package cache

import (
	"time"

	"golang.org/x/sys/unix"
)

// A clock notices when the time of day, which files get their times from, is set back. Otherwise what
// is used after that would look as if it had been used before, and be collected.
type clock struct {
	// Offset is the time of day at the moment from which the kernel counts, in nanoseconds after the
	// epoch. It changes only when the time of day is set.
	Offset int64 `json:"clockOffset"`
}

func readClock() (clock, error) {
	var day, boot unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &day); err != nil {
		return clock{}, err
	}
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot); err != nil {
		return clock{}, err
	}
	return clock{day.Nano() - boot.Nano()}, nil
}

// correct returns t, a time of when the clock was c, moved back as far as the time of day was since.
func (c clock) correct(t time.Time, now clock) time.Time {
	// Between the two calls of readClock it may have been preempted, which must not count.
	const noise = int64(time.Millisecond)
	if back := c.Offset - now.Offset; back > noise {
		return t.Add(-time.Duration(back))
	}
	return t
}
