package build

import (
	"errors"
	"fmt"

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

// explain adds to err where it comes from.
func (r *run) explain(err error) error {
	var line *dockerfile.Error
	var vertex *solver.VertexError
	switch {
	case errors.As(err, &vertex):
		e := &Error{Step: vertex.Name, Output: r.journal.tail(vertex.Vertex), Err: vertex.Err}
		if v := r.journal.vertex(vertex.Vertex); v != nil {
			e.Where = v.Source
		}
		return e
	case errors.As(err, &line):
		w := line.Where
		return &Error{Where: []graph.Location{{File: w.File, Text: w.Text, Start: w.Start, End: w.End}}, Err: line.Err}
	}
	return err
}
