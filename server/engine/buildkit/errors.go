package buildkit

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"google.golang.org/grpc"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/dockerfile"
)

var (
	errPolicies     = fmt.Errorf("source policies are not enforced here; build without: %w", errdefs.ErrNotImplemented)
	errAttestations = fmt.Errorf("attestations that a client makes are not taken: %w", errdefs.ErrNotImplemented)
)

// outward gives err the form in which clients of BuildKit show where in the Dockerfile it comes from.
func outward(err error) error {
	var b *build.Error
	var d *dockerfile.Error
	switch {
	case errors.As(err, &b):
		text := b.Err.Error()
		if cause := process(b.Err); cause != "" {
			text = cause
		} else if b.Step != "" && len(b.Where) == 0 {
			text = b.Step + ": " + text
		}
		if hint := b.Hint(); hint != "" {
			text += " (" + hint + ")"
		}
		var where graph.Location
		if len(b.Where) > 0 {
			where = b.Where[0]
		}
		return located(&worded{text, b.Err}, where)
	case errors.As(err, &d):
		return located(d.Err, graph.Location(d.Where))
	}
	return err
}

// located adds a place to err, unless it has one.
func located(err error, w graph.Location) error {
	if w.Start == 0 || len(bkerrdefs.Sources(err)) > 0 {
		return err
	}
	return bkerrdefs.WithSource(err, &bkerrdefs.Source{Info: sourceInfo(w.File, w.Text), Ranges: ranges(w.Start, w.End)})
}

// process is BuildKit's message about a command that failed, which people and tools look for.
func process(err error) string {
	var exit *op.ExitError
	if !errors.As(err, &exit) || exit.Command == "" {
		return ""
	}
	return fmt.Sprintf("process %q did not complete successfully: %v", exit.Command, exit)
}

// A worded error has words of its own.
type worded struct {
	text string
	err  error
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.err }

// A call that panics fails alone.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("internal error: %v: %w", p, errdefs.ErrInternal)
	}
}

func unaryRecovered(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer recovered(&err)
	return next(ctx, req)
}

func streamRecovered(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer recovered(&err)
	return next(srv, ss)
}
