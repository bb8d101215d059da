package main

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/teu-dev/teu/runner"
)

// execFlags are the flags of exec.
type execFlags struct {
	runner.ExecOptions
	env, envFiles []string
	detach        bool
	interactive   bool
	detachKeys    string
}

func newExecCommand(a *app) *cobra.Command {
	var x execFlags
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] CONTAINER COMMAND [ARG...]",
		Short: "Execute a command in a running container",
		Example: `  teu exec -it web sh
  teu exec -u postgres db pg_dumpall`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := execIn(cmd.Context(), a, &x, args[0], args[1:])
			if x.detach { // the command has no exit code to take
				return withExitCode(exitFailure, err)
			}
			return execFailure(err)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&x.interactive, "interactive", "i", false, "keep standard input open")
	f.BoolVarP(&x.TTY, "tty", "t", false, "give the command a terminal")
	f.BoolVarP(&x.detach, "detach", "d", false, "run in the background")
	listVar(f, &x.env, "env", "e", "set an environment variable")
	listVar(f, &x.envFiles, "env-file", "", "read environment variables from a file")
	f.StringVarP(&x.User, "user", "u", "", "user[:group], by name or number")
	f.StringVarP(&x.WorkingDir, "workdir", "w", "", "working directory")
	f.BoolVar(&x.Privileged, "privileged", false, "give the command all rights")
	f.StringVar(&x.detachKeys, "detach-keys", "", "keys that detach (default ctrl-p,ctrl-q)")
	check(f, "env", checkEnv)
	f.SetInterspersed(false) // flags after the container are those of the command
	return cmd
}

// execFailure: docker exec exits with 1 if there is no container to execute in, else
// with the codes of run.
func execFailure(err error) error {
	if code := exitCode(engineFailure(err)); err != nil && code == exitEngine {
		return withExitCode(exitFailure, err)
	}
	return engineFailure(err)
}

func execIn(ctx context.Context, a *app, x *execFlags, ref string, args []string) error {
	keys, err := detachKeys(x.detachKeys, x.TTY)
	if err != nil {
		return err
	}
	if x.TTY && x.interactive && !x.detach && !a.ui.InTerminal() {
		if _, err := a.engine().Get(ctx, ref); err != nil {
			return err
		}
		return errors.New("the input device is not a TTY")
	}
	for _, path := range x.envFiles {
		lines, err := readEnvFile(path)
		if err != nil {
			return err
		}
		x.Env = append(x.Env, valued(expandEnv(lines))...)
	}
	x.Env = append(x.Env, expandEnv(x.env)...)
	x.Args, x.Stdin, x.Output = args, x.interactive && !x.detach, !x.detach
	p, err := a.engine().Exec(ctx, ref, x.ExecOptions)
	if err != nil {
		return err
	}
	defer p.Close()
	if x.detach {
		return nil
	}
	return followExec(ctx, a, p, x, keys)
}

// followExec copies the streams of an exec until it ends, or a signal ends us, as docker has
// it: the exec goes on then.
func followExec(ctx context.Context, a *app, p *runner.Exec, x *execFlags, keys []byte) error {
	if p.Console != nil && x.interactive && a.ui.InTerminal() {
		fd := int(a.ui.InFile().Fd())
		before, err := term.MakeRaw(fd)
		if err != nil {
			return err
		}
		defer term.Restore(fd, before)
		ctx = untilSignal(ctx)
	}
	if p.Console != nil {
		stop := a.followSize(func(columns, rows uint16) { p.Resize(columns, rows) })
		defer stop()
	}
	detached := make(chan struct{})
	if p.Stdin != nil && x.Stdin {
		go copyExecInput(a, p, keys, detached) // ends with the process
	}
	over, ended := make(chan struct{}), make(chan error, 1)
	var copied sync.WaitGroup
	unwritten := make(chan error, 1)
	copied.Go(func() {
		if err := p.CopyOutput(over, a.ui.Out, a.ui.Err); err != nil {
			unwritten <- withExitCode(exitFailure, err)
		}
	})
	go func() {
		status, err := p.Wait(context.WithoutCancel(ctx))
		if err == nil && status.Code != 0 {
			err = &exitError{code: status.Code}
		}
		close(over)
		ended <- err
	}()
	select {
	case err := <-ended:
		copied.Wait()
		select {
		case err = <-unwritten:
		default:
		}
		return err
	case err := <-unwritten: // the command goes on, as with docker
		return err
	case <-detached:
		return errEscaped()
	case <-ctx.Done():
		return interrupted(ctx)
	}
}

func copyExecInput(a *app, p *runner.Exec, keys []byte, detached chan<- struct{}) {
	if p.Console == nil {
		io.Copy(p.Stdin, a.ui.In)
		p.Stdin.Close()
		return
	}
	if err := runner.CopyTyped(p.Stdin, &runner.DetachReader{R: a.ui.In, Keys: keys}); errors.Is(err, runner.ErrDetached) {
		close(detached)
	}
}
