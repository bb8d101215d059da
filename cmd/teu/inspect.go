//go:build !front

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
)

func newInspectCommand(a *app) *cobra.Command {
	var format, kind string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Show everything about containers, images, networks and volumes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return inspectAll(a, format, args, func(ref string) (any, error) { return a.inspect(cmd.Context(), kind, ref, size) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	cmd.Flags().StringVar(&kind, "type", "", "container, image, network or volume only")
	cmd.Flags().BoolVarP(&size, "size", "s", false, "also how large the files of containers are")
	return cmd
}

// inspect finds an object of any kind, in docker's order.
func (a *app) inspect(ctx context.Context, kind, ref string, size bool) (any, error) {
	finders := []struct {
		kind string
		find func() (any, error)
	}{
		{"container", func() (any, error) { return a.inspectContainer(ctx, ref, size) }},
		{"image", func() (any, error) { return a.inspectImage(ctx, ref) }},
		{"network", func() (any, error) { return a.engine().InspectNetwork(ctx, ref) }},
		{"volume", func() (any, error) { return a.engine().Volume(ref) }},
	}
	known := kind == ""
	for _, f := range finders {
		if kind != "" && kind != f.kind {
			continue
		}
		known = true
		o, err := f.find()
		if err == nil || kind != "" || !isNotFound(err) {
			return o, err
		}
	}
	if !known {
		return nil, fmt.Errorf("unknown type: %q", kind)
	}
	return nil, fmt.Errorf("no such object: %s", ref)
}
