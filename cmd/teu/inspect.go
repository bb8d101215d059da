package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/runner/inspect"
)

func newInspectCommand(a *app) *cobra.Command {
	var format, kind string
	var size bool
	cmd := &cobra.Command{
		Use:   "inspect [OPTIONS] NAME|ID [NAME|ID...]",
		Short: "Show everything about containers, images, networks and volumes",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if kinds := []string{"", "container", "image", "network", "volume"}; !slices.Contains(kinds, kind) {
				return fmt.Errorf(`unknown type: %q: must be one of "%s"`, kind, strings.Join(kinds[1:], `", "`))
			}
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
	if kind == "" || kind == "container" {
		in, err := a.inspectContainer(ctx, ref, size)
		if err == nil || kind != "" || !isNotFound(err) {
			return in, err
		}
	}
	return a.inspectOther(ctx, kind, ref)
}

// inspectContainer is what the API answers in its version 1.51, the last whose
// NetworkSettings have the address that scripts look for.
func (a *app) inspectContainer(ctx context.Context, ref string, size bool) (*inspect.Container, error) {
	in, err := a.engine().Inspect(ctx, ref)
	if err != nil {
		return nil, err
	}
	out := inspect.New(in, 51)
	if size {
		out.SetSizes(a.engine().RootSizes(in.ID))
	}
	return out, nil
}

// inspectAll prints the objects that were found, then fails if one was not.
func inspectAll(a *app, format string, refs []string, find func(ref string) (any, error)) error {
	objects := []any{}
	var failure error
	for _, ref := range refs {
		o, err := find(ref)
		if err != nil {
			if failure != nil {
				a.ui.Error(failure)
			}
			failure = err
			continue
		}
		objects = append(objects, o)
	}
	return cmp.Or(a.ui.Inspect(format, objects), failure)
}
