package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/teu-dev/teu/runner"
)

// attached is this process's time with a container's streams.
type attached struct {
	a       *app
	session *runner.Session
	id      string
	tty     bool
	stdin   bool
	keys    []byte       // that detach
	signals *signalProxy // nil: none are passed on

	attachedLater bool // by `attach`, where docker makes an error of the keys that detach
}

// errEscaped ends attach and exec when the user typed the keys that detach: docker's words
// and exit code (1), which tell it from the end of the command.
func errEscaped() error { return withExitCode(exitFailure, errors.New("read escape sequence")) }

// run copies streams until the container ends or the user detaches, and returns the
// container's exit code as an error.
func (t *attached) run(ctx context.Context) error {
	if t.signals != nil || t.tty {
		ctx = context.WithoutCancel(ctx) // signals are the container's; else they detach
	}
	restore, err := t.raw()
	if err != nil {
		return err
	}
	defer restore()
	if t.signals != nil {
		t.signals.serve(func(s unix.Signal) { t.a.engine().Kill(ctx, t.id, fmt.Sprint(int(s))) })
	}
	if t.tty {
		stop := t.a.followSize(func(columns, rows uint16) {
			t.session.Resize(ctx, columns, rows) // a container that just ended has none
		})
		defer stop()
	}
	if t.stdin {
		go t.copyInput() // ends with the process: reading a terminal cannot be interrupted
	}
	status, err := t.session.Copy(ctx, t.a.ui.Out, t.a.ui.Err)
	restore()
	switch {
	case errors.Is(err, io.EOF) && t.attachedLater:
		return errEscaped()
	case errors.Is(err, io.EOF): // detached
		return nil
	case ctx.Err() != nil: // by a signal
		return interrupted(ctx)
	case err != nil:
		return err
	case status.Code != 0:
		return &exitError{code: status.Code}
	}
	return nil
}

// raw gives the container the keys as they are typed. restore may be called twice.
func (t *attached) raw() (restore func(), err error) {
	if !t.tty || !t.stdin || !t.a.ui.InTerminal() {
		return func() {}, nil
	}
	fd := int(t.a.ui.InFile().Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("setting the terminal: %w", err)
	}
	return sync.OnceFunc(func() { term.Restore(fd, before) }), nil
}

// followSize calls resize with the size of our terminal, if there is one, now and whenever it changes.
func (a *app) followSize(resize func(columns, rows uint16)) (stop func()) {
	if !a.ui.OutTerminal() && !a.ui.InTerminal() {
		return func() {}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			columns, rows := a.ui.Size()
			resize(uint16(columns), uint16(rows))
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	})
	return func() {
		signal.Stop(changed)
		close(done)
		wg.Wait()
	}
}

// copyInput gives the container our input until its end, or until the keys that detach.
func (t *attached) copyInput() {
	in := t.a.ui.In
	if t.tty {
		in = &runner.DetachReader{R: in, Keys: t.keys}
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			if _, err := t.session.Write(buf[:n]); err != nil {
				return
			}
		}
		switch {
		case errors.Is(err, runner.ErrDetached):
			t.session.Detach()
			return
		case err != nil:
			if !t.tty {
				t.session.CloseInput()
			}
			return
		}
	}
}

// signalProxy catches the signals that a container in the foreground gets in our place,
// from its making to the end of the process.
type signalProxy struct {
	caught   chan os.Signal
	catching chan struct{} // closed when it does
}

// catchSignals starts to catch. What a terminal sends when it goes away or comes back is
// not for a container that has one of its own: it stays, to be attached to again.
func catchSignals(tty bool) *signalProxy {
	p := &signalProxy{caught: make(chan os.Signal, 128), catching: make(chan struct{})}
	go func() { // beside the making of the container: the runtime takes its time for each
		defer close(p.catching)
		signal.Notify(p.caught, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
			unix.SIGALRM, unix.SIGABRT, unix.SIGIO, unix.SIGPWR)
		if !tty {
			signal.Notify(p.caught, unix.SIGHUP, unix.SIGCONT)
		}
	}()
	return p
}

// serve passes the signals on, also those caught before.
func (p *signalProxy) serve(send func(unix.Signal)) {
	<-p.catching
	go func() {
		for s := range p.caught {
			if n, ok := s.(unix.Signal); ok {
				send(n)
			}
		}
	}()
}
