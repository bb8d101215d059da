//go:build !front && !porter

package main

import (
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/server/engine/buildkit"
)

// newBuildxCommand is `docker buildx`, as far as scripts use it. There is one builder, which is always there.
func newBuildxCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "buildx", Short: "The words of docker buildx", Hidden: true}
	build := newBuildCommand(a)
	build.Aliases = []string{"b"}
	cmd.AddCommand(build, newBuilderDuCommand(a), newBuilderPruneCommand(a), newBuildxCreateCommand(a), newBuildxInspectCommand(a), newBuildxLsCommand(a))
	for _, word := range []string{"use", "rm", "stop", "install", "uninstall"} {
		cmd.AddCommand(&cobra.Command{
			Use: word, Hidden: true, DisableFlagParsing: true,
			Short: "Does nothing: teu has one builder, which is always there",
			RunE:  func(*cobra.Command, []string) error { return nil },
		})
	}
	cmd.AddCommand(&cobra.Command{
		Use: "version", Short: "Show which buildx teu stands for", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a.ui.Printf("github.com/docker/buildx v%s teu-%s\n", buildxVersion, version())
			return nil
		},
	})
	return cmd
}

// buildxVersion is the release of buildx whose flags there are: scripts compare it.
const buildxVersion = "0.38.2"

// newBuildxCreateCommand makes no builder, but says its name as docker buildx does: scripts go on with it.
func newBuildxCreateCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use: "create [OPTIONS] [CONTEXT|ENDPOINT]", Short: "Print the name of a builder: teu has one, which is always there",
		Hidden: true, FParseErrWhitelist: cobra.FParseErrWhitelist{UnknownFlags: true},
		RunE: func(*cobra.Command, []string) error {
			a.ui.Println(name)
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "default", "name that is printed")
	return cmd
}

func newBuildxInspectCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "inspect [NAME]", Short: "Show the builder", Hidden: true, Args: cobra.MaximumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			name := append(args, "default")[0]
			a.ui.Printf("Name:          %s\nDriver:        docker\n\nNodes:\nName:             %s\nEndpoint:         default\n"+
				"Status:           running\nBuildKit version: %s\nPlatforms:        %s\n",
				name, name, buildkit.Version, content.PlatformString(content.Host()))
			return nil
		},
	}
	cmd.Flags().Bool("bootstrap", false, "has no effect: it runs already")
	ignoreBuilder(cmd)
	return cmd
}

func newBuildxLsCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Short: "List the builder", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			builder := ui.Row{"Name": "default", "DriverEndpoint": "docker"}
			node := ui.Row{
				"Name": "default", "DriverEndpoint": "default", "Status": "running", "Buildkit": buildkit.Version,
				"Platforms": content.PlatformString(content.Host()),
			}
			if format == "" || format == "table" {
				builder["Name"], node["Name"], node["DriverEndpoint"] = "default*", ` \_ default`, ` \_ default`
			}
			return a.ui.List(ui.Table{
				Fields: []ui.Field{
					{Name: "Name", Header: "NAME/NODE"}, {Name: "DriverEndpoint", Header: "DRIVER/ENDPOINT"}, {Name: "Status", Header: "STATUS"},
					{Name: "Buildkit", Header: "BUILDKIT"}, {Name: "Platforms", Header: "PLATFORMS"}, {Name: "LastActivity", Header: "LAST ACTIVITY"},
					{Name: "Error", Header: "ERROR"},
				},
				Default: []string{"Name", "DriverEndpoint", "Status", "Buildkit", "Platforms"},
			}, format, []ui.Row{builder, node})
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "table, json or a template")
	cmd.Flags().Bool("no-trunc", false, "has no effect: nothing is shortened")
	ignoreBuilder(cmd)
	return cmd
}
