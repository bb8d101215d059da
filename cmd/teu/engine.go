package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// engine returns the engine of containers.
func (a *app) engine() *runner.Engine {
	if a.runner == nil {
		a.runner = runner.Open(runner.Parts{Root: a.root, RunRoot: a.runRoot, Store: a.store, Keeper: a.keeper, Exe: executable()})
	}
	return a.runner
}

// keeper returns the keeper's executable. It stays open until the process ends.
func (a *app) keeper() (*keeper.Binary, error) {
	a.sealing.Do(func() {
		b, err := keeper.Share(keeperELF, filepath.Join(a.runRoot, "keepers"))
		if err != nil {
			err = fmt.Errorf("preparing the keeper: %w", err)
		}
		a.sealed, a.sealingError = b, err
	})
	return a.sealed, a.sealingError
}

// executable is where keepers find teu. If it was replaced meanwhile they use the new one.
func executable() string {
	path, err := os.Executable()
	if err != nil {
		return "/proc/self/exe" // of whoever executes it: at worst nothing is finished now
	}
	return path
}
