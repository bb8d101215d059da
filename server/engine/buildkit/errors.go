package buildkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/dockerfile"
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
		return located(&worded{text, b.Err}, b.Where)
	case errors.As(err, &d):
		return located(&worded{d.Err.Error(), d.Err}, []graph.Location{{File: d.Where.File, Text: d.Where.Text, Start: d.Where.Start, End: d.Where.End}})
	}
	return err
}

// located adds places to err, unless it has one: a source for each of where, but lines of one file that follow each
// other are one. The last is the first that clients find, as with BuildKit.
func located(err error, where []graph.Location) error {
	if len(where) == 0 || where[0].Start == 0 || len(bkerrdefs.Sources(err)) > 0 {
		return err
	}
	var sources []*bkerrdefs.Source
	for i, w := range where[:min(len(where), maxLines)] {
		if i == 0 || w.File != where[i-1].File {
			src := &bkerrdefs.Source{Info: sourceInfo(w.File, w.Text)}
			src.Info.Definition, src.Info.Language = w.Definition, cmp.Or(w.Language, src.Info.Language)
			sources = append(sources, src)
		}
		last := sources[len(sources)-1]
		last.Ranges = append(last.Ranges, ranges(w.Start, w.End)...)
	}
	for _, src := range sources {
		err = bkerrdefs.WithSource(err, src)
	}
	return err
}

// process is BuildKit's message about a command that failed, which people and tools look for.
func process(err error) string {
	var exit *op.ExitError
	if !errors.As(err, &exit) || exit.Command == "" {
		return ""
	}
	return fmt.Sprintf("process %q did not complete successfully: %v", exit.Command, err)
}

// A worded error has words of its own.
type worded struct {
	text string
	err  error
}

func (w *worded) Error() string { return w.text }
func (w *worded) Unwrap() error { return w.err }

// codeOf are the codes of gRPC for the classes of errors. What is not available is none of them: to clients that code
// means that this server is not.
var codeOf = []struct {
	class func(error) bool
	code  codes.Code
}{
	{errdefs.IsInvalidArgument, codes.InvalidArgument},
	{errdefs.IsNotImplemented, codes.Unimplemented},
	{errdefs.IsNotFound, codes.NotFound},
	{errdefs.IsAlreadyExists, codes.AlreadyExists},
	{errdefs.IsPermissionDenied, codes.PermissionDenied},
	{errdefs.IsFailedPrecondition, codes.FailedPrecondition},
	{errdefs.IsResourceExhausted, codes.ResourceExhausted},
	{errdefs.IsOutOfRange, codes.OutOfRange},
	{errdefs.IsInternal, codes.Internal},
}

// coded gives err the code of its class, unless it has a code. What went wrong in a step or stands in a Dockerfile
// has none, as with BuildKit: clients show the code, and people know such errors without.
func coded(err error) error {
	var w *worded
	if err == nil || grpcerrors.Code(err) != codes.Unknown || errors.As(err, &w) {
		return err
	}
	for _, c := range codeOf {
		if c.class(err) {
			return grpcerrors.WrapCode(err, c.code)
		}
	}
	return err
}

// A call that panics fails alone.
func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("internal error: %v: %w", p, errdefs.ErrInternal)
	}
}

func unaryRecovered(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (_ any, err error) {
	defer func() { err = coded(err) }()
	defer recovered(&err)
	return next(ctx, req)
}

func streamRecovered(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() { err = coded(err) }()
	defer recovered(&err)
	return next(srv, ss)
}
