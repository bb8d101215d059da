// Command teu builds, pushes, pulls, hosts and runs container images.
//
// This package is the only place where the parts of teu are wired together: app.go
// constructs them, one file per command uses them, exit.go turns errors into exit
// codes and package ui prints.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

func main() {
	// Most commands end before their heap has reached 32 MB and need no collection.
	debug.SetGCPercent(800)
	// The first signal cancels the command so that it can clean up; the next one
	// has its default effect again.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	u := ui.New(os.Stdin, os.Stdout, os.Stderr)
	os.Exit(execute(ctx, u, os.Args[1:]))
}
