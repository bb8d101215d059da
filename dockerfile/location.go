package dockerfile

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
)

// locate turns BuildKit's errors with a place into ours.
func locate(err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	var placed *Error
	if errors.As(err, &placed) {
		return placed
	}
	for _, src := range bkerrdefs.Sources(err) {
		if where := location(src.Info, src.Ranges); where.Start > 0 {
			return &Error{Where: where, Err: classify(err)}
		}
	}
	return classify(err)
}

// classify says that the input is wrong where the frontend does not say what is.
func classify(err error) error {
	for _, known := range []func(error) bool{
		errdefs.IsNotFound, errdefs.IsNotImplemented, errdefs.IsUnavailable, errdefs.IsInternal,
		errdefs.IsUnauthorized, errdefs.IsPermissionDenied, errdefs.IsInvalidArgument,
	} {
		if known(err) {
			return err
		}
	}
	return &invalidError{err}
}

// An invalidError is a Dockerfile that is not right.
type invalidError struct{ err error }

func (e *invalidError) Error() string        { return e.err.Error() }
func (e *invalidError) Unwrap() error        { return e.err }
func (e *invalidError) Is(target error) bool { return target == errdefs.ErrInvalidArgument }

// location returns the lines that ranges cover.
func location(info *pb.SourceInfo, ranges []*pb.Range) Location {
	var l Location
	for _, r := range ranges {
		start, end := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
		if start < 1 || end < start {
			continue
		}
		if l.Start == 0 || start < l.Start {
			l.Start = start
		}
		l.End = max(l.End, end)
	}
	if info == nil || l.Start == 0 {
		return Location{}
	}
	l.File, l.Text = info.Filename, info.Data
	return l
}
