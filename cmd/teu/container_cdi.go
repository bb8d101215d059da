//go:build !front

package main

import (
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/cdi"
)

// injectCDI gives o what its devices with CDI names need.
func (a *app) injectCDI(o *runner.Options) error {
	if len(o.CDIDevices) == 0 {
		return nil
	}
	return cdi.Inject(o, a.cdiDirs(), o.CDIDevices)
}

func (a *app) cdiDirs() []string {
	if a.config.CDISpecDirs != nil {
		return a.config.CDISpecDirs
	}
	return cdi.DefaultDirs()
}
