//go:build !front && !porter

package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cache/listing"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

// What a shell is told when somebody presses the tab key: `teu completion` prints the scripts,
// which run `teu __complete` with what has been typed. An error is no suggestion.

// A suggester returns words, each followed by a tab and a description if there is one.
type suggester func(ctx context.Context, a *app) []string

// suggestions says what the arguments of commands are, the last for all that follow; nil is a
// file, or something that another program knows. Those of container and image are found by
// their own names too.
func suggestions() map[string][]suggester {
	some := func(s ...suggester) []suggester { return s }
	every, running := containers(), containers(keeper.Running)
	alive := containers(keeper.Running, keeper.Restarting, keeper.Paused)
	return map[string][]suggester{
		"attach": some(running, none), "exec": some(running, nil), "pause": some(running), "unpause": some(containers(keeper.Paused)),
		"kill": some(alive), "stop": some(alive), "stats": some(alive), "top": some(alive, none), "port": some(alive, none),
		"start": some(containers(keeper.Created, keeper.Exited, keeper.Dead)), "restart": some(every), "rm": some(every), "wait": some(every),
		"update": some(every), "logs": some(every, none), "rename": some(every, none), "diff": some(every, none), "export": some(every, none),
		"why": some(every, none), "commit": some(every, images), "container inspect": some(every),
		"run": some(images, nil), "create": some(images, nil), "tag": some(images, images, none), "push": some(images, none),
		"pull": some(images, none), "history": some(images, none), "save": some(images), "rmi": some(images), "images": some(images, none),
		"image rm": some(images), "image inspect": some(images), "image ls": some(images, none), "inspect": some(anything),
		"network rm": some(networks), "network inspect": some(networks), "network connect": some(networks, every, none),
		"network disconnect": some(networks, alive, none), "network create": some(none),
		"volume rm": some(volumes), "volume inspect": some(volumes), "volume create": some(none),
	}
}

// flagSuggestions are those of flags, of every command that has the flag.
func flagSuggestions() map[string]suggester {
	return map[string]suggester{
		"network": networks, "net": networks, "volumes-from": containers(),
		"restart": words("no", "on-failure", "always", "unless-stopped"), "pull": words("missing", "always", "never"),
		"log-driver": words(append(runner.LogDrivers(), "none")...), "health-on-failure": words("none", "restart", "stop", "kill"),
		"signal": words("HUP", "INT", "QUIT", "KILL", "USR1", "USR2", "TERM"), "progress": words("auto", "plain", "tty", "json"),
		"format": words("json", "table"), "cap-add": words("ALL", "NET_ADMIN", "SYS_ADMIN", "SYS_PTRACE", "SYS_TIME"),
		"driver": words("bridge", "macvlan", "ipvlan"), "gpus": words("all"), "log-format": words("text", "json"), "log-level": words("debug", "info", "warn", "error"),
	}
}

func none(context.Context, *app) []string { return nil }

// words are always the same.
func words(list ...string) suggester {
	return func(context.Context, *app) []string { return list }
}

// containers are those with one of the statuses, or all.
func containers(statuses ...keeper.Status) suggester {
	return func(ctx context.Context, a *app) (list []string) {
		all, err := a.engine().List(ctx)
		if err != nil {
			return nil
		}
		for _, c := range all {
			if len(statuses) == 0 || slices.Contains(statuses, c.State.Status) {
				list = append(list, c.Name+"\t"+string(c.State.Status)+", "+c.Options.Image)
			}
		}
		return list
	}
}

func images(ctx context.Context, a *app) (list []string) {
	store, err := a.store()
	if err != nil {
		return nil
	}
	all, err := store.Images.All(ctx)
	if err != nil {
		return nil
	}
	for _, r := range all {
		if name := listing.Familiar(r.Name); !strings.Contains(name, "@") {
			list = append(list, name, strings.TrimSuffix(name, ":latest"))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func networks(ctx context.Context, a *app) (list []string) {
	all, err := a.engine().Networks(ctx, nil)
	if err != nil {
		return nil
	}
	for _, n := range all {
		list = append(list, n.Name+"\t"+n.Driver)
	}
	return list
}

func volumes(_ context.Context, a *app) (list []string) {
	all, err := a.engine().Volumes(nil)
	if err != nil {
		return nil
	}
	for _, v := range all {
		list = append(list, v.Name)
	}
	return list
}

func anything(ctx context.Context, a *app) []string {
	return slices.Concat(containers()(ctx, a), images(ctx, a), networks(ctx, a), volumes(ctx, a))
}

func newCompletionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "Print the script with which a shell completes teu's words",
		Long: `Print the script with which a shell completes commands, flags, containers, images, networks
and volumes. That of bash needs the package bash-completion.`,
		Example: `  teu completion bash >/etc/bash_completion.d/teu
  teu completion zsh >"${fpath[1]}/_teu"
  teu completion fish >~/.config/fish/completions/teu.fish`,
		ValidArgs: []string{"bash", "zsh", "fish"},
		Args:      cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch args[0] {
			case "bash":
				return cmd.Root().GenBashCompletionV2(a.ui.Out, true)
			case "zsh":
				return cmd.Root().GenZshCompletion(a.ui.Out)
			case "fish":
				return cmd.Root().GenFishCompletion(a.ui.Out, true)
			}
			return &usageError{command: cmd.CommandPath(), err: fmt.Errorf("no completion for %q, but for bash, zsh and fish", args[0])}
		},
	}
}

// teachCompletion gives cmd and all below it their suggestions.
func teachCompletion(a *app, cmd *cobra.Command) {
	arguments, flags := suggestions(), flagSuggestions()
	var teach func(cmd *cobra.Command)
	teach = func(cmd *cobra.Command) {
		path := strings.TrimPrefix(cmd.CommandPath(), "teu ")
		list, ok := arguments[path]
		if group, name, in := strings.Cut(path, " "); !ok && in && (group == "container" || group == "image") {
			list, ok = arguments[name]
		}
		if ok {
			cmd.ValidArgsFunction = func(cmd *cobra.Command, before []string, typed string) ([]string, cobra.ShellCompDirective) {
				return suggest(cmd.Context(), a, list[min(len(before), len(list)-1)], before, typed)
			}
		}
		for name, s := range flags {
			if cmd.Flags().Lookup(name) != nil {
				_ = cmd.RegisterFlagCompletionFunc(name, func(cmd *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
					return suggest(cmd.Context(), a, s, nil, typed)
				})
			}
		}
		for _, sub := range cmd.Commands() {
			teach(sub)
		}
	}
	teach(cmd)
}

// suggest returns what begins as was typed, without the arguments before.
func suggest(ctx context.Context, a *app, s suggester, before []string, typed string) ([]string, cobra.ShellCompDirective) {
	if s == nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if err := a.prepare(); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	list := slices.DeleteFunc(slices.Clone(s(ctx, a)), func(text string) bool {
		word, _, _ := strings.Cut(text, "\t")
		return !strings.HasPrefix(word, typed) || slices.Contains(before, word)
	})
	return list, cobra.ShellCompDirectiveNoFileComp
}
