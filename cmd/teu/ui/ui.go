// Package ui is everything teu prints.
//
// The rules of output:
//   - results go to Out, everything else (progress, warnings, errors) to Err;
//   - an error is at most two lines, `teu: what failed` and `hint: what to do`;
//   - a live region is drawn only when Err is a terminal that can do it, not with TERM=dumb; else one line per event;
//   - what images, containers, registries and commands of builds say is shown on a terminal as text: it does not
//     move the cursor or change anything there. To a file or pipe it goes as it is;
//   - colour only on a terminal, never as the only carrier of meaning, and never
//     with NO_COLOR, TERM=dumb or --no-color;
//   - nothing asks a question when In is no terminal.
package ui

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/term"
)

// UI is the streams of one command and what is known about them.
type UI struct {
	In       io.Reader
	Out, Err io.Writer
	Color    bool

	in, out, err *os.File // nil when the stream is not a file

	mu        sync.Mutex
	unwritten error // the first of Printf and Println
}

// New returns the UI of a process with these standard streams.
func New(in, out, err *os.File) *UI {
	return &UI{
		In: in, Out: out, Err: err,
		Color: os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && isTerminal(err),
		in:    in, out: out, err: err,
	}
}

func isTerminal(f *os.File) bool { return f != nil && term.IsTerminal(int(f.Fd())) }

// InTerminal reports whether standard input is a terminal.
func (u *UI) InTerminal() bool { return isTerminal(u.in) }

// OutTerminal reports whether standard output is a terminal.
func (u *UI) OutTerminal() bool { return isTerminal(u.out) }

// ErrTerminal reports whether standard error is a terminal.
func (u *UI) ErrTerminal() bool { return isTerminal(u.err) }

// draws reports whether a region of lines can be drawn on standard error.
func (u *UI) draws() bool { return u.ErrTerminal() && os.Getenv("TERM") != "dumb" }

// InFile returns standard input as a file, or nil in tests that gave none.
func (u *UI) InFile() *os.File { return u.in }

// OutFile returns standard output as a file, or nil.
func (u *UI) OutFile() *os.File { return u.out }

// ErrFile returns standard error as a file, or nil.
func (u *UI) ErrFile() *os.File { return u.err }

// Size returns columns and rows of the terminal on standard output or error, or 80
// and 24 where there is none.
func (u *UI) Size() (columns, rows int) {
	for _, f := range []*os.File{u.out, u.err, u.in} {
		if f == nil {
			continue
		}
		if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
			return w, h
		}
	}
	return 80, 24
}

// Printf writes a result. See [UI.WriteError].
func (u *UI) Printf(format string, args ...any) {
	_, err := fmt.Fprintf(textFor(u.Out, u.OutTerminal()), format, args...)
	u.wrote(err)
}

// Println writes a result line. See [UI.WriteError].
func (u *UI) Println(args ...any) {
	_, err := fmt.Fprintln(textFor(u.Out, u.OutTerminal()), args...)
	u.wrote(err)
}

func (u *UI) wrote(err error) {
	if err == nil {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unwritten = cmp.Or(u.unwritten, err)
}

// WriteError says why a result of Printf or Println was not written, such as on a full disk, or is
// nil. A command whose results are lost has failed.
func (u *UI) WriteError() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.unwritten
}

// Notef writes a line about what is going on, to standard error.
func (u *UI) Notef(format string, args ...any) { fmt.Fprintf(u.errText(), format+"\n", args...) }

// Warnf writes a warning line to standard error.
func (u *UI) Warnf(format string, args ...any) {
	fmt.Fprintf(u.errText(), "WARNING: "+format+"\n", args...)
}

// errText is standard error for text that others had a part in.
func (u *UI) errText() io.Writer { return textFor(u.Err, u.ErrTerminal()) }

// hinter is an error that knows what the user can do about it.
type hinter interface{ Hint() string }

// classTeller is an error whose class, at the end of its message, is part of it.
type classTeller interface{ TellsClass() bool }

// message is an error in words for people: those of its class, at the end, usually say nothing more.
func message(err error) string {
	text := strings.TrimRight(err.Error(), "\n")
	if t := classTeller(nil); errors.As(err, &t) && t.TellsClass() {
		return text
	}
	for _, class := range []error{errdefs.ErrInvalidArgument, errdefs.ErrConflict, errdefs.ErrNotFound, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition} {
		if errors.Is(err, class) {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
	}
	return text
}

// maxMessage is how many bytes of an error are printed: it may name a path, or a command, of a megabyte.
const maxMessage = 8 << 10

// shortened leaves the middle of a text out that is longer than most bytes: an error ends with what is most useful.
func shortened(text string, most int) string {
	if len(text) <= most {
		return text
	}
	head, tail := text[:most/2], text[len(text)-most/2:]
	return fmt.Sprintf("%s [%d bytes left out] %s", strings.ToValidUTF8(head, ""), len(text)-len(head)-len(tail), strings.ToValidUTF8(tail, ""))
}

// Error prints err, and its hint if it has one.
func (u *UI) Error(err error) {
	w := u.errText()
	fmt.Fprintf(w, "teu: %s\n", shortened(message(err), maxMessage))
	var h hinter
	if errors.As(err, &h) && h.Hint() != "" {
		fmt.Fprintf(w, "hint: %s\n", h.Hint())
	}
}
