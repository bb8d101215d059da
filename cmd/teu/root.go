package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner/userns"
)

// command is a top-level command before it is made.
type command struct {
	name string
	make func(*app) *cobra.Command
}

// shortCommands live for milliseconds: the front of teu has them, and so has the whole.
func shortCommands() []command {
	return []command{
		{"run", newRunCommand},
		{"create", newCreateCommand},
		{"start", newStartCommand},
		{"stop", newStopCommand},
		{"restart", newRestartCommand},
		{"kill", newKillCommand},
		{"rm", newRmCommand},
		{"ps", newPsCommand},
		{"logs", newLogsCommand},
		{"exec", newExecCommand},
		{"attach", newAttachCommand},
		{"wait", newWaitCommand},
		{"top", newTopCommand},
		{"port", newPortCommand},
		{"pause", newPauseCommand},
		{"unpause", newUnpauseCommand},
		{"rename", newRenameCommand},
		{"inspect", newInspectCommand},
		{"images", newImagesCommand},
		{"stats", newStatsCommand},
		{"oci", newOCICommand},
		{"version", newVersionCommand},
	}
}

// carried are the names of carryingCommands, which the front does not have.
func carried() []string {
	return []string{"pull", "push", "rmi", "tag", "history", "save", "load", "search", "copy", "manifest", "login", "logout", "log-relay"}
}

// plain says that a signal may end a command at once, as there is nothing to be cleaned up or
// put back, or that it catches signals itself where there is. That takes two threads, a
// twentieth of the life of such a command.
func (c command) plain() bool {
	return slices.Contains([]string{"exec", "images", "inspect", "oci", "port", "ps", "top", "version"}, c.name)
}

// commandLine is what has to be known of the arguments before the commands are made.
type commandLine struct {
	root    string   // value of --root, or empty
	runRoot string   // the same of --run-root
	words   []string // from the name of the command on
	version bool     // teu --version, and nothing else
}

func readCommandLine(args []string) commandLine {
	l := commandLine{version: len(args) == 1 && (args[0] == "--version" || args[0] == "-v")}
	for i := 0; i < len(args); i++ {
		name, value, ok := strings.Cut(args[i], "=")
		if !strings.HasPrefix(name, "-") {
			l.words = args[i:]
			break
		}
		if !ok && i+1 < len(args) && slices.Contains([]string{"--root", "--run-root", "--config", "--log-format", "--log-level", "-l", "--host", "-H", "--context", "-c"}, name) {
			i++
			value = args[i]
		}
		switch name {
		case "--root":
			l.root = value
		case "--run-root":
			l.runRoot = value
		}
	}
	return l
}

// named returns the command of that name.
func named(all []command, name string) (command, bool) {
	n := slices.IndexFunc(all, func(c command) bool { return c.name == name })
	if n < 0 {
		return command{}, false
	}
	return all[n], true
}

// wanted returns the commands the arguments can mean: the one named, or all where that
// takes knowing all. Making every command with its flags would cost a tenth of `teu run`.
func (l commandLine) wanted() []command {
	all := commands()
	if len(l.words) > 0 {
		if c, ok := named(all, l.words[0]); ok {
			return []command{c}
		}
	}
	return all
}

// execute runs teu with args and returns the exit code of the process.
func execute(ctx context.Context, u *ui.UI, args []string) int {
	a := newApp(u)
	if ociName(os.Args[0]) {
		args = append([]string{"oci"}, args...)
	}
	line := readCommandLine(args)
	a.words = line.words
	if line.entersNamespace() && userns.Needed() {
		err := a.becomeRoot(untilSignal(ctx), line)
		if os.Geteuid() != 0 {
			return report(u, err)
		}
		a.confined = err // root can do some things all the same
	}
	if line.handsOver() {
		if line.root != "" {
			a.root = line.root
		}
		return report(u, a.handOver(line)) // no signal is caught yet, which the other would not hear of
	}
	wanted := line.wanted()
	if len(wanted) > 1 || !wanted[0].plain() {
		ctx = untilSignal(ctx)
	}
	root := newRootCommand(a, wanted)
	root.SetArgs(args)
	err := cmp.Or(root.ExecuteContext(ctx), u.WriteError())
	if err == context.Canceled && ctx.Err() != nil {
		err = interrupted(ctx)
	}
	return report(u, a.explain(err))
}

func newRootCommand(a *app, commands []command) *cobra.Command {
	showVersion := false
	root := &cobra.Command{
		Use:   "teu [OPTIONS] COMMAND",
		Short: "Build, push, pull, host and run container images",
		Example: `  teu build -t registry.example/app .
  teu run --rm -p 8080:80 registry.example/app
  teu serve registry --addr 127.0.0.1:5000 --root /srv/registry`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
		Args:              cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if showVersion {
				a.ui.Println(versionLine(os.Args[0]))
				return nil
			}
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.DisableFlagsInUseLine = true
	root.SetIn(a.ui.In)
	root.SetOut(a.ui.Out)
	root.SetErr(a.ui.Err)
	// Global flags stand before the command, as docker's do.
	f := root.Flags()
	f.StringVar(&a.root, "root", a.root, "directory of the store (TEU_ROOT)")
	f.StringVar(&a.runRoot, "run-root", a.runRoot, "directory of volatile state (TEU_RUN_ROOT)")
	f.StringVar(&a.configFile, "config", a.configFile, "configuration file (TEU_CONFIG), or docker's directory of config.json (DOCKER_CONFIG)")
	f.BoolVarP(&a.debug, "debug", "D", false, "say more on standard error")
	f.StringVar(&a.logFormat, "log-format", "text", "format of log lines: text or json")
	f.StringVarP(&a.logLevel, "log-level", "l", "", "least important log lines to show: debug, info, warn or error (default warn)")
	f.BoolVarP(&showVersion, "version", "v", false, "print the version")
	f.BoolVar(&a.noColor, "no-color", false, "never use colour")
	f.StringArrayVarP(&a.wishes.hosts, "host", "H", nil, "docker's: a unix socket, which has no effect")
	f.StringVarP(&a.wishes.context, "context", "c", "", "docker's: one of this machine, which has no effect")
	f.MarkHidden("host")
	f.MarkHidden("context")
	root.TraverseChildren = true
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.prepare(); err != nil {
			return err
		}
		if err := a.wishes.check(); err != nil {
			return withExitCode(exitEngine, err)
		}
		a.warnElsewhere(cmd)
		return nil
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return withExitCode(exitEngine, &usageError{command: cmd.CommandPath(), err: err})
	})
	root.SetHelpTemplate(helpTemplate)
	root.SetUsageTemplate(helpTemplate)
	for _, c := range commands {
		root.AddCommand(c.make(a))
	}
	teachHelp(root)
	adoptUsageErrors(root)
	teachCompletion(a, root)
	return root
}

// teachHelp makes it an error, as docker does, to ask for help about what there is not.
func teachHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	help, _, err := root.Find([]string{"help"})
	if err != nil || help == root {
		return // the root has no commands
	}
	help.Run = nil
	help.RunE = func(_ *cobra.Command, args []string) error {
		topic, rest, err := root.Find(args)
		if err != nil || len(rest) > 0 {
			return fmt.Errorf("unknown help topic: %s", strings.Join(args, " "))
		}
		topic.InitDefaultHelpFlag()
		return topic.Help()
	}
}

// helpTemplate is one screen: what the command does, examples, then the rest.
const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if .HasExample}}Examples:
{{.Example}}

{{end}}Usage:
  {{.UseLine}}
{{if .HasAvailableSubCommands}}
Commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
Options:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}{{if .HasAvailableSubCommands}}
"{{.CommandPath}} COMMAND --help" tells more about a command.
{{end}}`

// unknownCommand is the error for a mistyped command, with the nearest ones.
func unknownCommand(cmd *cobra.Command, name string) error {
	text := fmt.Sprintf("unknown command %q", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		text += ", did you mean " + strings.Join(near, " or ") + "?"
	}
	return &usageError{command: cmd.CommandPath(), err: errors.New(text)}
}

// wrongCount says in docker's words what cobra says of a number of arguments.
func wrongCount(cmd *cobra.Command, err error) error {
	arguments := func(n int) string {
		if n == 1 {
			return "1 argument"
		}
		return fmt.Sprint(n, " arguments")
	}
	text, want := err.Error(), ""
	var least, most int
	scan := func(format string, to ...any) bool {
		n, _ := fmt.Sscanf(text, format, to...)
		return n == len(to)
	}
	switch {
	case scan("requires at least %d", &least):
		want = "requires at least " + arguments(least)
	case scan("accepts at most %d", &most):
		want = "requires at most " + arguments(most)
	case scan("accepts between %d and %d", &least, &most):
		want = fmt.Sprintf("requires at least %d and at most %s", least, arguments(most))
	case scan("accepts %d", &least):
		want = "requires " + arguments(least)
	case strings.HasPrefix(text, "unknown command"):
		want = "accepts no arguments"
	default:
		return err
	}
	return fmt.Errorf("'%s' %s", cmd.CommandPath(), want)
}

// adoptUsageErrors makes wrong argument counts of cmd and all below it usage errors,
// and gives groups of commands (image, volume, serve) the same help and errors as the root.
func adoptUsageErrors(cmd *cobra.Command) {
	if args := cmd.Args; args != nil {
		cmd.Args = func(c *cobra.Command, list []string) error {
			if err := args(c, list); err != nil {
				return &usageError{command: c.CommandPath(), err: wrongCount(c, err)}
			}
			return nil
		}
	}
	if cmd.HasSubCommands() && cmd.RunE == nil && cmd.Run == nil {
		cmd.Use = cmd.Name() + " COMMAND"
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, list []string) error {
			if len(list) == 0 {
				return c.Help()
			}
			return unknownCommand(c, list[0])
		}
	}
	cmd.DisableFlagsInUseLine = true
	for _, sub := range cmd.Commands() {
		adoptUsageErrors(sub)
	}
}
