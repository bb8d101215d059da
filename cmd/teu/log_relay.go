//go:build !front

package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner/logrelay"
)

// newLogRelayCommand is what keepers execute to reach a log server that wants TLS.
func newLogRelayCommand(*app) *cobra.Command {
	var o logrelay.Options
	cmd := &cobra.Command{
		Use:    "log-relay [OPTIONS] HOST:PORT",
		Short:  "Connect standard input, a socket, to a log server with TLS",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return logrelay.Run(cmd.Context(), os.Stdin, args[0], o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.CA, "ca", "", "a file with certificates that are trusted besides the system's")
	f.StringVar(&o.Cert, "cert", "", "a file with the certificate that the server is shown")
	f.StringVar(&o.Key, "key", "", "a file with its key")
	f.BoolVar(&o.SkipVerify, "skip-verify", false, "do not look at the server's certificate")
	return cmd
}
