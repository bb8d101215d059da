package main

import (
	"fmt"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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

// The newest and the oldest version of docker's API that teu serves.
const (
	apiVersion    = "1.56"
	minAPIVersion = "1.24"
)

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
			if format != "" {
				return a.ui.Describe(format, versions())
			}
			a.ui.Printf("teu %s (%s, %s/%s)\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "print by a Go template, or \"json\"")
	return cmd
}

// versions has teu's own version and docker's halves, which are one here but for what only a client or an engine has.
func versions() map[string]any {
	own := map[string]any{
		"Version": version(), "ApiVersion": apiVersion, "APIVersion": apiVersion, // docker's JSON and its templates
		"GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH,
	}
	server := clientVersion()
	delete(server, "DefaultAPIVersion")
	delete(server, "Context")
	server["MinAPIVersion"], server["KernelVersion"], server["Experimental"] = minAPIVersion, kernelVersion(), false
	details := map[string]string{}
	for _, name := range []string{"ApiVersion", "Arch", "BuildTime", "GitCommit", "GoVersion", "KernelVersion", "MinAPIVersion", "Os"} {
		details[name] = fmt.Sprint(server[name])
	}
	details["Experimental"] = "false"
	server["Components"] = []map[string]any{
		{"Name": "Engine", "Version": dockerVersion, "Details": details},
		{"Name": "teu", "Version": version(), "Details": map[string]string{"GitCommit": ""}},
	}
	own["Client"], own["Server"] = clientVersion(), server
	return own
}

// clientVersion is what docker's command line tells of itself.
func clientVersion() map[string]any {
	return map[string]any{
		"Platform": map[string]string{"Name": "teu " + version()}, "Version": dockerVersion, "ApiVersion": apiVersion, "APIVersion": apiVersion,
		"DefaultAPIVersion": apiVersion, "GitCommit": "", "GoVersion": runtime.Version(), "Os": runtime.GOOS, "Arch": runtime.GOARCH,
		"BuildTime": "", "Context": contextName(),
	}
}

func kernelVersion() string {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}
