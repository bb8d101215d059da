//go:build !front

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teu-dev/teu/registry"
)

// loginFlags are the flags of login.
type loginFlags struct {
	user, password string
	stdin          bool
}

func newLoginCommand(a *app) *cobra.Command {
	var f loginFlags
	cmd := &cobra.Command{
		Use:   "login [OPTIONS] [SERVER]",
		Short: "Log in to a registry",
		Long:  "Log in to a registry, Docker Hub if none is named. The credential goes where docker keeps its own.",
		Example: `  teu login -u ci --password-stdin registry.example < token
  teu login`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(cmd.Flags().Changed); err != nil {
				return err
			}
			a.warnAuthVariable()
			return login(cmd.Context(), a, f, append(args, "")[0])
		},
	}
	s := cmd.Flags()
	s.StringVarP(&f.user, "username", "u", "", "user name")
	s.StringVarP(&f.password, "password", "p", "", "password or access token; others on this machine may see it")
	s.BoolVar(&f.stdin, "password-stdin", false, "read the password or access token from standard input")
	return cmd
}

// warnAuthVariable says that what is stored, or not any more, is not what counts.
func (a *app) warnAuthVariable() {
	if os.Getenv(registry.AuthVariable) != "" {
		a.ui.Warnf("%s is set, and its credentials come before those that are stored", registry.AuthVariable)
	}
}

func (f *loginFlags) check(changed func(string) bool) error {
	if f.password == "-" {
		f.password, f.stdin = "", true
	}
	switch {
	case f.stdin && f.password != "":
		return errors.New("conflicting options: cannot specify both --password and --password-stdin")
	case f.stdin && !changed("username"):
		return errors.New("the --password-stdin option requires --username to be set")
	case changed("username") && f.user == "":
		return errors.New("username is empty")
	case changed("password") && f.password == "" && !f.stdin:
		return errors.New("password is empty")
	}
	return nil
}

func login(ctx context.Context, a *app, f loginFlags, server string) error {
	if f.password != "" {
		a.ui.Warnf("using --password is insecure, others may see it; use --password-stdin")
	}
	domain := registry.Domain(server)
	if f == (loginFlags{}) && a.loginStored(ctx, domain) {
		a.ui.Println("Login Succeeded")
		return nil
	}
	if err := a.askCredential(&f); err != nil {
		return err
	}
	done, err := a.registry().Login(ctx, domain, registry.Credential{Username: f.user, Secret: f.password})
	if err != nil {
		return fmt.Errorf("login to %s: %w", domain, err)
	}
	if done.Helper == "" {
		a.ui.Warnf("the credential is stored unencrypted in %s; a credential helper would keep it safe", done.Path)
	}
	a.ui.Println("Login Succeeded")
	return nil
}

// loginStored tries what is stored, as docker does before it asks for a name.
func (a *app) loginStored(ctx context.Context, domain string) bool {
	user, err := a.registry().LoginStored(ctx, domain)
	switch {
	case errdefs.IsNotFound(err):
	case err != nil:
		a.ui.Warnf("what is stored for %s does not log in: %v", domain, err)
	default:
		a.ui.Notef("Authenticated with the stored credential of %s; for another account say `teu logout` first", user)
		return true
	}
	return false
}

// askCredential gets what the flags do not say: from standard input, or from the user.
func (a *app) askCredential(f *loginFlags) error {
	if f.stdin {
		b, err := io.ReadAll(io.LimitReader(a.ui.In, 1<<20))
		if err != nil {
			return fmt.Errorf("reading the password: %w", err)
		}
		f.password = strings.TrimRight(string(b), "\r\n")
		if strings.TrimSpace(f.password) == "" {
			return errors.New("password is empty")
		}
		return nil
	}
	if f.user != "" && f.password != "" {
		return nil
	}
	if !a.ui.InTerminal() {
		return errors.New("cannot perform an interactive login from a non-TTY device")
	}
	in := a.ui.InFile()
	if f.user == "" {
		fmt.Fprint(a.ui.Err, "Username: ")
		line, err := bufio.NewReader(in).ReadString('\n')
		if f.user = strings.TrimSpace(line); err != nil || f.user == "" {
			return errors.New("username is empty")
		}
	}
	if f.password == "" {
		var err error
		if f.password, err = a.askPassword(in); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) askPassword(in *os.File) (string, error) {
	fmt.Fprint(a.ui.Err, "Password: ")
	b, err := term.ReadPassword(int(in.Fd()))
	fmt.Fprintln(a.ui.Err)
	if err == nil && len(b) == 0 {
		err = errors.New("password is empty")
	}
	return string(b), err
}

func newLogoutCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "logout [SERVER]",
		Short: "Log out from a registry",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			a.warnAuthVariable()
			domain := registry.Domain(append(args, "")[0])
			err := a.registry().Logout(cmd.Context(), domain)
			if errdefs.IsNotFound(err) {
				a.ui.Println("Not logged in to", domain)
				return nil
			}
			if err == nil {
				a.ui.Println("Removing login credentials for", domain)
			}
			return err
		},
	}
}
