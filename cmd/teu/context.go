//go:build !front && !porter

package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/registry"
)

// newContextCommand tells of docker's contexts: scripts ask which is the current one and where its engine is, and choose
// the default one. There are no commands to make others, which teu would not follow.
func newContextCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "context", Short: "Show docker's contexts",
		Long: `Show docker's contexts.

teu works on this machine, whichever is the current one. The default context is that of
"teu serve engine".`,
		Example: `  teu context ls
  teu context inspect --format '{{.Endpoints.docker.Host}}'
  teu context use default`,
	}
	cmd.AddCommand(newContextInspectCommand(a), newContextLsCommand(a), newContextShowCommand(a), newContextUseCommand(a))
	return cmd
}

// A dockerContext is a context as docker shows it.
type dockerContext struct {
	Name        string
	Metadata    map[string]any
	Endpoints   map[string]contextEndpoint
	TLSMaterial map[string][]string
	Storage     contextStorage
}

type contextEndpoint struct {
	Host          string `json:",omitempty"`
	SkipTLSVerify bool
}

type contextStorage struct{ MetadataPath, TLSPath string }

// defaultContext is the one that is always there: DOCKER_HOST, or where the engine's socket is.
func (a *app) defaultContext() dockerContext {
	host := envOr("DOCKER_HOST", "unix://"+a.engineSocket())
	return dockerContext{
		Name: "default", Metadata: map[string]any{}, Endpoints: map[string]contextEndpoint{"docker": {Host: host}}, TLSMaterial: map[string][]string{},
		Storage: contextStorage{"<IN MEMORY>", "<IN MEMORY>"},
	}
}

// findContext returns the context called name. It is an errdefs.ErrNotFound if there is none.
func (a *app) findContext(name string) (dockerContext, error) {
	if name == "default" {
		return a.defaultContext(), nil
	}
	c, err := readContext(contextID(name))
	if err != nil || c.Name != name {
		return c, fmt.Errorf("context %q: context not found: %w", name, errdefs.ErrNotFound)
	}
	return c, nil
}

// readContext reads what docker has stored of a context.
func readContext(id string) (c dockerContext, err error) {
	dir := filepath.Join(dockerDir(), "contexts")
	b := readDockerFile(filepath.Join("contexts/meta", id, "meta.json"))
	if err := json.Unmarshal(b, &c); err != nil {
		return c, err
	}
	c.Storage = contextStorage{filepath.Join(dir, "meta", id), filepath.Join(dir, "tls", id)}
	c.TLSMaterial = map[string][]string{}
	endpoints, err := os.ReadDir(c.Storage.TLSPath)
	if err != nil {
		return c, nil // it has none
	}
	for _, e := range endpoints {
		files, err := os.ReadDir(filepath.Join(c.Storage.TLSPath, e.Name()))
		if err != nil {
			return c, err
		}
		for _, f := range files {
			c.TLSMaterial[e.Name()] = append(c.TLSMaterial[e.Name()], f.Name())
		}
	}
	return c, nil
}

// contexts returns all, by name. What cannot be read is left out.
func (a *app) contexts() []dockerContext {
	list := []dockerContext{a.defaultContext()}
	files, err := os.ReadDir(filepath.Join(dockerDir(), "contexts/meta"))
	if err != nil {
		return list
	}
	for _, f := range files {
		if c, err := readContext(f.Name()); err == nil {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b dockerContext) int { return naturally(a.Name, b.Name) })
	return list
}

func newContextLsCommand(a *app) *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use: "ls [OPTIONS]", Aliases: []string{"list"}, Short: "List contexts", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if quiet && format == "" {
				format = "{{.Name}}"
			}
			return a.listContexts(format)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "names only")
	cmd.Flags().StringVar(&format, "format", "", "table, json or a template")
	return cmd
}

func (a *app) listContexts(format string) error {
	current := contextName()
	var rows []ui.Row
	for _, c := range a.contexts() {
		description, _ := c.Metadata["Description"].(string)
		if c.Name == "default" {
			description = "Current DOCKER_HOST based configuration"
		}
		isCurrent, host := c.Name == current, c.Endpoints["docker"].Host
		if format == "json" {
			line := struct {
				Current                                  bool
				Description, DockerEndpoint, Error, Name string
			}{isCurrent, description, host, "", c.Name}
			if err := a.ui.JSONLine(line); err != nil {
				return err
			}
			continue
		}
		row := ui.Row{"Name": c.Name, "Current": strconv.FormatBool(isCurrent), "Description": description, "DockerEndpoint": host}
		if isCurrent && (format == "" || format == "table") {
			row["Name"] += " *"
		}
		rows = append(rows, row)
	}
	if format == "json" {
		return nil
	}
	return a.ui.List(ui.Table{
		Fields: []ui.Field{
			{Name: "Name", Header: "NAME"}, {Name: "Description", Header: "DESCRIPTION"}, {Name: "DockerEndpoint", Header: "DOCKER ENDPOINT"},
			{Name: "Error", Header: "ERROR"}, {Name: "Current", Header: "CURRENT"},
		},
		Default: []string{"Name", "Description", "DockerEndpoint", "Error"},
	}, format, rows)
}

func newContextShowCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Print the name of the current context", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			a.ui.Println(contextName())
			return nil
		},
	}
}

func newContextInspectCommand(a *app) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use: "inspect [OPTIONS] [CONTEXT...]", Short: "Show everything about contexts, the current one if none is named",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				args = []string{contextName()}
			}
			return inspectAll(a, format, args, func(name string) (any, error) { return a.findContext(name) })
		},
	}
	cmd.Flags().StringVarP(&format, "format", "f", "", "json or a template")
	return cmd
}

func newContextUseCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "use CONTEXT", Short: "Make a context of this machine the current one of docker's command", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return a.useContext(cmd.Context(), args[0]) },
	}
}

func (a *app) useContext(ctx context.Context, name string) error {
	c, err := a.findContext(name)
	if err != nil {
		return err
	}
	if choice := (dockerChoice{context: name, host: c.Endpoints["docker"].Host}); choice.elsewhere() {
		return &elsewhereError{choice}
	}
	if name != cmp.Or(currentContext(), "default") {
		if err := registry.SetContext(ctx, name); err != nil {
			return err
		}
	}
	a.ui.Println(name)
	a.ui.Notef("Current context is now %q", name)
	return nil
}
