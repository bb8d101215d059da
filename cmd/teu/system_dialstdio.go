//go:build !front && !porter

package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// newDialStdioCommand is what docker's clients execute at the other end of ssh.
func newDialStdioCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    "dial-stdio",
		Short:  "Connect standard input and output to the engine's socket",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE:   func(cmd *cobra.Command, _ []string) error { return dialStdio(cmd.Context(), a) },
	}
}

func dialStdio(ctx context.Context, a *app) error {
	path := a.engineSocket()
	if host, ok := strings.CutPrefix(os.Getenv("DOCKER_HOST"), "unix://"); ok {
		path = host
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return fmt.Errorf("%w (is `teu serve engine` running?)", err)
	}
	defer conn.Close()
	go func() { // ends with the process: standard input cannot be interrupted
		io.Copy(conn, a.ui.In)
		conn.(*net.UnixConn).CloseWrite()
	}()
	_, err = io.Copy(a.ui.Out, conn)
	return err
}
