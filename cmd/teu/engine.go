package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/teu-dev/teu/cache/program"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// engine returns the engine of containers.
func (a *app) engine() *runner.Engine {
	if a.runner == nil {
		a.runner = runner.Open(runner.Parts{
			Root: a.root, RunRoot: a.runRoot, Store: a.store, Keeper: a.keeper, Exe: a.self.path, Change: changeConfig,
		})
	}
	return a.runner
}

// keeper returns the keeper's executable. It stays open until the process ends.
func (a *app) keeper() (*keeper.Binary, error) {
	a.sealing.Do(func() {
		b, err := keeper.Share(keeperELF, filepath.Join(a.runRoot, "keepers"), a.self.identity)
		if err != nil {
			err = fmt.Errorf("preparing the keeper: %w", err)
		}
		a.sealed, a.sealingError = b, err
	})
	return a.sealed, a.sealingError
}

const (
	// selfVariable tells the whole of teu, or the porter, which front has become it: identity and path.
	selfVariable = "TEU_SELF"
	// wholeVariable tells the front that the porter cannot do it.
	wholeVariable = "TEU_WHOLE"
)

// self is teu's executable as its user sees it.
type self struct {
	path     string // where keepers find it; if it was replaced meanwhile they use the new one
	identity string // see program.Self
}

func findSelf() self {
	path, err := os.Executable()
	if err != nil {
		path = "/proc/self/exe" // of whoever executes it: at worst nothing is finished now
	}
	identity, err := program.Self()
	if err != nil {
		identity = fmt.Sprint(os.Getpid()) // nobody else's
	}
	return self{path, identity}
}
