//go:build !front && !porter

package main

import (
	_ "embed"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/program"
)

// outletELF is the process at the border of a user's network (cmd/teu-outlet), zstd, built
// by `make outlet`. It is a program of its own because teu would initialise its TCP/IP stack
// at every start.
//
//go:embed teu-outlet.zst
var outletELF string

// newNetworkOutletCommand becomes that process. The socket at the border is descriptor 3.
func newNetworkOutletCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "outlet MTU GATEWAY...",
		Short:  "Pass on what leaves the network of an ordinary user's containers",
		Hidden: true,
		RunE: func(_ *cobra.Command, args []string) error {
			exe, err := program.Executable(filepath.Join(a.root, "programs"), a.self.identity+"-outlet", "teu-outlet", unpacking(outletELF))
			if err == nil {
				err = unix.Exec(exe, append([]string{"teu-outlet"}, args...), nil)
			}
			return fmt.Errorf("executing the outlet: %w", err)
		},
	}
}
