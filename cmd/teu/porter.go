//go:build porter

package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/slack"
)

// commands lists what the porter does by itself. See front.go for what it is.
func commands() []command { return carryingCommands() }

func (l commandLine) handsOver() bool {
	if len(l.words) == 0 {
		return true
	}
	_, mine := named(commands(), l.words[0])
	return !mine
}

func (a *app) handOver(commandLine) error { return a.becomeWhole() }

// becomeWhole executes the front again, which has the whole of teu. It returns if it cannot.
func (a *app) becomeWhole() error {
	var err error
	slack.Usual(func() { err = unix.Exec(a.self.path, os.Args, append(os.Environ(), wholeVariable+"=1")) })
	return fmt.Errorf("executing %s: %w", a.self.path, err)
}

// handOverFor lets the whole of teu go on if the store is held to a size: for that it knows the build cache.
func (a *app) handOverFor(c config) error {
	if c.Storage.Max == "" {
		return nil
	}
	return a.becomeWhole()
}

// holdBudget has nothing to do: see handOverFor.
func (a *app) holdBudget(context.Context) {}
