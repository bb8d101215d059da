package build

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// An Error is a build that a line of the Dockerfile made fail.
type Error struct {
	Step   string           // what failed; "" if the Dockerfile cannot be compiled
	Where  []graph.Location // none if it is not known
	Output []byte           // the last that the step printed
	Err    error
	Advice string // what the user can do about it; "" if that is not known
}

// Hint returns the advice of e, or that of its cause.
func (e *Error) Hint() string {
	var cause interface{ Hint() string }
	if e.Advice == "" && errors.As(e.Err, &cause) {
		return cause.Hint()
	}
	return e.Advice
}

func (e *Error) Error() string {
	text := e.Err.Error()
	var exit *op.ExitError
	switch {
	case e.Step != "" && errors.As(e.Err, &exit):
		text = fmt.Sprintf("%s did not complete successfully: %v", e.Step, e.Err)
	case e.Step != "":
		text = e.Step + ": " + text
	}
	if len(e.Where) > 0 {
		text = fmt.Sprintf("%s:%d: %s", e.Where[0].File, e.Where[0].Start, text)
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// TellsClass says whether the class of e says what is wrong: of a file that is not there, its path is all
// that stands before it.
func (e *Error) TellsClass() bool { return errdefs.IsNotFound(e.Err) }

// hidden says which rule keeps a file that v wants out of the context, if that is why it failed.
func (r *run) hidden(v *graph.Vertex, err error) string {
	if !errdefs.IsNotFound(err) {
		return ""
	}
	for _, a := range v.Op.GetFile().GetActions() {
		c := a.GetCopy()
		if c == nil || a.SecondaryInput < 0 || int(a.SecondaryInput) >= len(v.Inputs) {
			continue
		}
		src := v.Inputs[a.SecondaryInput].Vertex.Op.GetSource()
		name, ok := strings.CutPrefix(src.GetIdentifier(), "local://")
		if !ok {
			continue
		}
		paths := []string{c.Src}
		if len(c.IncludePatterns) > 0 { // of COPY --parents, whose Src is where they begin
			paths = c.RequiredPaths
		}
		for _, p := range paths {
			if pattern, hidden := r.env.HiddenBy(name, src.Attrs, p); hidden {
				return fmt.Sprintf("%s is in the context, but the rule %q of .dockerignore hides it", p, pattern)
			}
		}
	}
	return ""
}

// full says whether err comes from a disk without room.
func full(err error) bool {
	var exit *op.ExitError
	return errors.Is(err, unix.ENOSPC) || errors.As(err, &exit) && exit.DiskFull
}

// explain adds to err where it comes from.
func (r *run) explain(err error) error {
	var line *dockerfile.Error
	var vertex *solver.VertexError
	switch {
	case errors.As(err, &vertex):
		e := &Error{Step: vertex.Name, Output: r.journal.tail(vertex.Vertex), Err: vertex.Err}
		if v := r.journal.vertex(vertex.Vertex); v != nil {
			e.Where, e.Advice = r.journal.where(v), r.hidden(v, vertex.Err)
		}
		if full(vertex.Err) {
			e.Advice = "the disk of " + r.b.Store.Root() + " is full; `teu builder prune` or `teu system prune` makes room"
		}
		return e
	case errors.As(err, &line):
		w := line.Where
		return &Error{Where: []graph.Location{{File: w.File, Text: w.Text, Start: w.Start, End: w.End}}, Err: line.Err}
	}
	return err
}
