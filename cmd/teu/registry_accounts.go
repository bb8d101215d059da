//go:build !front && !porter

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/server/registry"
)

func newRegistryUserCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "user",
		Short: "Who may log in to a registry that is served with --accounts",
		Example: `  teu registry user set ann --group dev --password-stdin < password
  teu registry user ls`,
	}
	cmd.AddCommand(newRegistryUserSetCommand(a), newRegistryUserListCommand(a, "ls", "List users", false), newRegistryUserRemoveCommand(a, "user"))
	return cmd
}

func newRegistryTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Keys for robots, such as CI jobs, which log in with their name and the key",
		Example: `  teu registry token create ci --expires 2160h
  teu registry acl add 'team/**' ci pull,push`,
	}
	cmd.AddCommand(newRegistryTokenCreateCommand(a), newRegistryUserListCommand(a, "ls", "List robots", true), newRegistryUserRemoveCommand(a, "robot"))
	return cmd
}

func newRegistryUserSetCommand(a *app) *cobra.Command {
	var at registryPlace
	var groups []string
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "set [OPTIONS] NAME",
		Short: "Add a user, or change the password or the groups of one",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			// With groups alone, a user that is there keeps the password.
			password := f.stdin || !cmd.Flags().Changed("group")
			if f.user = args[0]; password {
				if err := a.askCredential(&f); err != nil {
					return err
				}
			}
			return registry.EditAccounts(cmd.Context(), at.options(a), func(c *registry.Accounts) error {
				return setUser(c, args[0], f.password, groups, password, cmd.Flags().Changed("group"))
			})
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().BoolVar(&f.stdin, "password-stdin", false, "read the password from standard input")
	cmd.Flags().StringSliceVar(&groups, "group", nil, "groups the user is in")
	return cmd
}

func setUser(c *registry.Accounts, name, password string, groups []string, setPassword, setGroups bool) error {
	if setPassword {
		if err := c.SetPassword(name, password); err != nil {
			return err
		}
	}
	u, ok := c.Users[name]
	if !ok {
		return fmt.Errorf("no user %s: %w", name, errdefs.ErrNotFound)
	}
	for _, g := range groups {
		if err := registry.CheckUserName(g); err != nil {
			return err
		}
	}
	if setGroups {
		u.Groups = groups
	}
	c.Users[name] = u
	return nil
}

func newRegistryTokenCreateCommand(a *app) *cobra.Command {
	var at registryPlace
	var groups []string
	var expires time.Duration
	cmd := &cobra.Command{
		Use:   "create [OPTIONS] NAME",
		Short: "Make a robot and print its key, which is kept nowhere",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var key string
			err := registry.EditAccounts(cmd.Context(), at.options(a), func(c *registry.Accounts) (err error) {
				var end time.Time
				if expires > 0 {
					end = time.Now().Add(expires).UTC()
				}
				key, err = c.AddRobot(args[0], groups, end)
				return err
			})
			if err != nil {
				return err
			}
			a.ui.Println(key)
			return nil
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringSliceVar(&groups, "group", nil, "groups the robot is in")
	cmd.Flags().DurationVar(&expires, "expires", 0, "how long the key is good, 0 for ever")
	return cmd
}

func newRegistryUserListCommand(a *app, use, short string, robots bool) *cobra.Command {
	var at registryPlace
	var format string
	cmd := &cobra.Command{
		Use:   use + " [OPTIONS]",
		Short: short,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := registry.ReadAccounts(cmd.Context(), at.options(a))
			if err != nil {
				return err
			}
			table := columns("Name", "Groups", "Created", "Expires")
			var rows []ui.Row
			for _, name := range slices.Sorted(maps.Keys(c.Users)) {
				if u := c.Users[name]; u.Robot() == robots {
					rows = append(rows, ui.Row{"Name": name, "Groups": strings.Join(u.Groups, ","), "Created": showDate(u.Created), "Expires": showDate(u.Expires)})
				}
			}
			return a.ui.List(table, format, rows)
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	return cmd
}

// columns is a table of fields with their names as headings.
func columns(fields ...string) (t ui.Table) {
	for _, f := range fields {
		t.Fields = append(t.Fields, ui.Field{Name: f, Header: strings.ToUpper(f)})
	}
	t.Default = fields
	return t
}

func showDate(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format(time.RFC3339)
}

func newRegistryUserRemoveCommand(a *app, what string) *cobra.Command {
	var at registryPlace
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] NAME...",
		Short: "Remove a " + what + ": what it had is no good from then on",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return registry.EditAccounts(cmd.Context(), at.existing(a), func(c *registry.Accounts) error {
				for _, name := range args {
					if _, ok := c.Users[name]; !ok || c.Users[name].Robot() != (what == "robot") {
						return fmt.Errorf("no %s %s: %w", what, name, errdefs.ErrNotFound)
					}
					delete(c.Users, name)
					c.Rules = slices.DeleteFunc(c.Rules, func(r registry.AccessRule) bool { return r.Who == name })
				}
				return nil
			})
		},
	}
	at.flags(cmd.Flags())
	return cmd
}

func newRegistryACLCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "acl",
		Short: "Who may do what in which repositories of a registry",
		Long: `Who may do what in which repositories of a registry that is served with --accounts.

REPOSITORIES is a name, with * for anything up to the next slash and ** for anything. WHO is
a user or robot, @GROUP, * for everybody who has logged in, or anonymous for everybody.
ACTIONS are some of pull, push and delete. What no rule allows is forbidden.`,
		Example: `  teu registry acl add 'team/**' @dev pull,push,delete
  teu registry acl add 'public/**' anonymous pull
  teu registry acl ls`,
	}
	cmd.AddCommand(newRegistryACLAddCommand(a), newRegistryACLListCommand(a), newRegistryACLRemoveCommand(a))
	return cmd
}

func newRegistryACLAddCommand(a *app) *cobra.Command {
	var at registryPlace
	cmd := &cobra.Command{
		Use:   "add [OPTIONS] REPOSITORIES WHO ACTIONS",
		Short: "Allow something",
		Args:  cobra.ExactArgs(3),
		RunE: func(cmd *cobra.Command, args []string) error {
			rule := registry.AccessRule{Repositories: args[0], Who: args[1]}
			for _, action := range strings.Split(args[2], ",") {
				rule.Actions = append(rule.Actions, registry.Action(action))
			}
			if err := rule.Check(); err != nil {
				return err
			}
			return registry.EditAccounts(cmd.Context(), at.options(a), func(c *registry.Accounts) error {
				c.Rules = append(slices.DeleteFunc(c.Rules, sameRule(rule)), rule)
				return nil
			})
		},
	}
	at.flags(cmd.Flags())
	return cmd
}

// sameRule tells whether a rule speaks of the same repositories and the same people.
func sameRule(r registry.AccessRule) func(registry.AccessRule) bool {
	return func(o registry.AccessRule) bool { return o.Repositories == r.Repositories && o.Who == r.Who }
}

func newRegistryACLRemoveCommand(a *app) *cobra.Command {
	var at registryPlace
	cmd := &cobra.Command{
		Use:   "rm [OPTIONS] REPOSITORIES WHO",
		Short: "Take a rule back",
		Args:  cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return registry.EditAccounts(cmd.Context(), at.existing(a), func(c *registry.Accounts) error {
				before := len(c.Rules)
				c.Rules = slices.DeleteFunc(c.Rules, sameRule(registry.AccessRule{Repositories: args[0], Who: args[1]}))
				if len(c.Rules) == before {
					return fmt.Errorf("no rule for %s in %s: %w", args[1], args[0], errdefs.ErrNotFound)
				}
				return nil
			})
		},
	}
	at.flags(cmd.Flags())
	return cmd
}

func newRegistryACLListCommand(a *app) *cobra.Command {
	var at registryPlace
	var format string
	cmd := &cobra.Command{
		Use:   "ls [OPTIONS]",
		Short: "List the rules",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := registry.ReadAccounts(cmd.Context(), at.options(a))
			if err != nil {
				return err
			}
			table := columns("Repositories", "Who", "Actions")
			var rows []ui.Row
			for _, r := range c.Rules {
				var actions []string
				for _, action := range r.Actions {
					actions = append(actions, string(action))
				}
				rows = append(rows, ui.Row{"Repositories": r.Repositories, "Who": r.Who, "Actions": strings.Join(actions, ",")})
			}
			return a.ui.List(table, format, rows)
		},
	}
	at.flags(cmd.Flags())
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	return cmd
}
