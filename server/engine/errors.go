package engine

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner/keeper"
)

// errorBody is the answer to what went wrong (swagger, ErrorResponse).
type errorBody struct {
	Message string `json:"message"`
}

// statusError is an error with a status that no class has.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string { return e.message }

// wordedError has a class and a message in docker's words, without the class's own.
type wordedError struct {
	class   error
	message string
}

func (e *wordedError) Error() string { return e.message }
func (e *wordedError) Unwrap() error { return e.class }

func worded(class error, format string, args ...any) error {
	return &wordedError{class: class, message: fmt.Sprintf(format, args...)}
}

func notImplemented(what string) error {
	return worded(errdefs.ErrNotImplemented, "%s is not supported by teu", what)
}

// status maps an error's class to docker's status (daemon/server/httpstatus).
func status(err error) int {
	var own *statusError
	var launch *keeper.LaunchError
	var remote *registry.Error
	switch {
	case errors.As(err, &own):
		return own.status
	case errors.As(err, &launch):
		if launch.Code == 126 || launch.Code == 127 {
			return http.StatusBadRequest
		}
		return http.StatusInternalServerError
	case errors.As(err, &remote) && remote.Status == http.StatusUnauthorized:
		return http.StatusInternalServerError // docker's clients take 401 for the daemon's own
	case errors.As(err, &remote) && remote.Status >= 500, registry.NoAnswer(err):
		return http.StatusInternalServerError // 503 is for what the daemon itself cannot do now
	case errdefs.IsNotFound(err):
		return http.StatusNotFound
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest
	case errdefs.IsConflict(err), errdefs.IsAlreadyExists(err):
		return http.StatusConflict
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden
	case errdefs.IsNotModified(err):
		return http.StatusNotModified
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented
	case errdefs.IsUnavailable(err):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// message is an error in the words a client shows: the class's own words say nothing that
// the status does not.
func message(err error) string {
	text := err.Error()
	var step *build.Error
	if errors.As(err, &step) && step.TellsClass() {
		return text
	}
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrConflict, errdefs.ErrAlreadyExists,
		errdefs.ErrNotImplemented, errdefs.ErrFailedPrecondition, errdefs.ErrUnavailable, errdefs.ErrPermissionDenied,
	} {
		if errors.Is(err, class) {
			text = strings.TrimSuffix(text, ": "+class.Error())
		}
	}
	return text
}

// fail answers with an error.
func (s *Server) fail(w http.ResponseWriter, r *request, err error) {
	code := status(err)
	switch {
	case errors.Is(err, errClientGone), errors.Is(err, context.Canceled) && r.Context().Err() != nil:
		return
	case code == http.StatusInternalServerError:
		s.Log.Warn("a request failed", "method", r.Method, "path", r.URL.Path, "status", code, "error", err)
	default:
		s.Log.Debug("a request was refused", "method", r.Method, "path", r.URL.Path, "status", code, "error", err)
	}
	if code == http.StatusNotModified {
		w.WriteHeader(code)
		return
	}
	writeJSON(w, code, errorBody{Message: message(err)})
}
