package main

import (
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// version returns the version teu was built from: the module version or tag where
// the toolchain recorded one, "devel" else.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return "devel"
	}
	return info.Main.Version
}

// apiVersion is the version of docker's API that teu serves.
const apiVersion = "1.56"

// dockerVersion is the release of docker that programs are told of which ask for docker's: they
// compare it, and know nothing of teu's own numbers.
const dockerVersion = "29.6.0"

// versionLine is the answer to --version. Where teu has the name of docker it is docker's: kind, for one,
// takes it for another program otherwise.
func versionLine(name string) string {
	if filepath.Base(name) == "docker" {
		return "Docker version " + dockerVersion + ", build teu-" + version()
	}
	return "teu version " + version()
}

func newVersionCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version of teu",
		Example: `  teu version
  teu version --format '{{.Version}}'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v := map[string]string{"Version": version(), "ApiVersion": apiVersion, "GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH}
			if format != "" {
				v["APIVersion"] = apiVersion // as docker's templates say it
				half := map[string]any{"Platform": map[string]string{"Name": "teu " + version()}}
				for k, s := range v {
					half[k] = s
				}
				half["Version"] = dockerVersion
				both := map[string]any{"Client": half, "Server": half} // docker's halves; here they are one
				for k, s := range v {
					both[k] = s
				}
				return a.ui.Describe(format, both)
			}
			a.ui.Printf("teu %s (%s, %s/%s)\n", v["Version"], v["GoVersion"], v["Os"], v["Arch"])
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print by a Go template, or \"json\"")
	return cmd
}
