// Command teu builds, pushes, pulls, hosts and runs container images.
//
// This package is the only place where the parts of teu are wired together: app.go
// constructs them, one file per command uses them, exit.go turns errors into exit
// codes and package ui prints.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

func main() {
	growStack()
	debug.SetGCPercent(lazyGC)
	collectFromNowOn()
	os.Exit(execute(context.Background(), ui.New(os.Stdin, os.Stdout, os.Stderr), os.Args[1:]))
}

// growStack makes the stack 64 KB, which most commands need, while there is hardly anything on it. Grown by
// doubling it is copied three times with all that commands have on it by then, a twentieth of the work of `teu exec`.
//
//go:noinline
func growStack() {
	var frame [48 << 10]byte
	runtime.KeepAlive(&frame)
}

// oneWish is how long signals are the same wish to end: timeout(1) sends one to its child and, at once,
// another one to the group that the child is in.
const oneWish = 500 * time.Millisecond

// untilSignal returns the context of a command. The first signal cancels it, so that the command can
// clean up; one that comes later than oneWish after it has its default effect again. So has one that
// comes before the command has anything to clean up: nobody waits until signals are caught, which
// takes the runtime a thread and several turns of it for each; see awaitCatching.
func untilSignal(ctx context.Context) context.Context {
	ctx, catching := untilSignals(ctx, oneWish)
	return context.WithValue(ctx, catchingKey{}, catching)
}

type catchingKey struct{}

// awaitCatching returns when a signal cancels ctx, if untilSignal has made it.
func awaitCatching(ctx context.Context) {
	if catching, ok := ctx.Value(catchingKey{}).(<-chan struct{}); ok {
		<-catching
	}
}

func untilSignals(ctx context.Context, wish time.Duration) (_ context.Context, catching <-chan struct{}) {
	ctx, cancel := context.WithCancelCause(ctx)
	ready := make(chan struct{})
	go func() { // until the process ends
		caught := make(chan os.Signal, 1)
		signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
		close(ready)
		cancel(interruption(<-caught))
		time.Sleep(wish)
		signal.Stop(caught)
	}()
	return ctx, ready
}

// interruption is the context's cause when a signal has ended it. It is a context.Canceled.
func interruption(s os.Signal) error {
	if s == syscall.SIGTERM {
		return errTerminated
	}
	return context.Canceled
}

var errTerminated = fmt.Errorf("terminated: %w", context.Canceled)

// The growth of the heap in percent until the first collection, and after it. Most commands end before
// their heap has reached 32 MB and need none; the others would take nine times what they need.
const (
	lazyGC  = 800
	usualGC = 150
)

// collectFromNowOn makes the collector work as usual after its first time, unless the command has said how.
func collectFromNowOn() {
	type mark struct{ self *mark }
	m := &mark{}
	m.self = m // a pointer in it keeps it out of the blocks that small values share
	runtime.AddCleanup(m, func(struct{}) {
		if said := debug.SetGCPercent(usualGC); said != lazyGC {
			debug.SetGCPercent(said)
		}
	}, struct{}{})
}
