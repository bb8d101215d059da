package engine

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/keeper"
)

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// startContainer answers POST /containers/ID/start. A HostConfig in the body, as clients
// before 1.24 sent it, is refused.
func (s *Server) startContainer(w http.ResponseWriter, r *request) error {
	if r.ContentLength > 7 || r.ContentLength == -1 && r.Header.Get("Content-Type") != "" {
		var body map[string]any
		if err := r.decode(&body); err != nil {
			return err
		}
		if len(body) > 0 {
			return invalid("starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24")
		}
	}
	if id := r.param("checkpoint"); id != "" {
		if id[0] == '.' || strings.ContainsAny(id, "/\\") {
			return invalid("invalid checkpoint ID %q", id)
		}
		return notImplemented("checkpointing containers")
	}
	if err := s.start(r.Context(), r.name); err != nil {
		return err
	}
	return noContent(w)
}

// stopOptions reads signal and t, in seconds; negative is for ever.
func stopOptions(r *request) (o runner.StopOptions, err error) {
	o.Signal = r.param("signal")
	if r.param("t") == "" {
		return o, nil
	}
	n, err := r.number("t")
	d := time.Duration(n) * time.Second
	o.Timeout = &d
	return o, err
}

func (s *Server) stopContainer(w http.ResponseWriter, r *request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	c, err := s.Containers.Get(r.Context(), r.name)
	if err != nil {
		return err
	}
	if !c.State.Status.GoesOn() {
		return worded(errdefs.ErrNotModified, "container is already stopped")
	}
	// What has begun is brought to its end, whether or not the client waits for it.
	if err := s.Containers.Stop(context.WithoutCancel(r.Context()), c.ID, o); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) restartContainer(w http.ResponseWriter, r *request) error {
	o, err := stopOptions(r)
	if err != nil {
		return err
	}
	if err := s.Containers.Restart(context.WithoutCancel(r.Context()), r.name, o); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) killContainer(w http.ResponseWriter, r *request) error {
	if err := s.Containers.Kill(r.Context(), r.name, r.param("signal")); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) pauseContainer(w http.ResponseWriter, r *request) error {
	if err := s.Containers.Pause(r.Context(), r.name); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) unpauseContainer(w http.ResponseWriter, r *request) error {
	if err := s.Containers.Unpause(r.Context(), r.name); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) rename(w http.ResponseWriter, r *request) error {
	name := strings.TrimPrefix(r.param("name"), "/")
	if name == "" {
		return invalid("Neither old nor new names may be empty")
	}
	if err := s.Containers.Rename(r.Context(), r.name, name); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) removeContainer(w http.ResponseWriter, r *request) error {
	if r.flag("link") {
		return notImplemented("removing links")
	}
	o := runner.RemoveOptions{Force: r.flag("force"), Volumes: r.flag("v")}
	if err := s.Containers.Remove(r.Context(), r.name, o); err != nil {
		return err
	}
	return noContent(w)
}

func (s *Server) pruneContainers(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	ids, size, err := s.Containers.Prune(r.Context(), runner.PruneOptions{Filters: filters})
	if err != nil {
		return err
	}
	if ids == nil {
		ids = []string{}
	}
	return writeJSON(w, http.StatusOK, container.PruneReport{ContainersDeleted: ids, SpaceReclaimed: uint64(max(size, 0))})
}

func (s *Server) update(w http.ResponseWriter, r *request) error {
	var body container.UpdateConfig
	if err := r.decode(&body); err != nil {
		return err
	}
	if r.version < 40 {
		body.PidsLimit = nil
	}
	limits, err := resources(&body.Resources)
	if err != nil {
		return err
	}
	o := runner.UpdateOptions{Resources: limits, QuotaSaid: body.CPUPeriod != 0 || body.CPUQuota != 0}
	if n := body.PidsLimit; n != nil && *n <= 0 {
		none := int64(-1)
		o.Resources.Pids = &specs.LinuxPids{Limit: &none}
	}
	if body.RestartPolicy.Name != "" {
		if err := container.ValidateRestartPolicy(body.RestartPolicy); err != nil {
			return invalid("%s", err)
		}
		o.Restart = &keeper.RestartPolicy{Name: string(body.RestartPolicy.Name), MaxRetries: body.RestartPolicy.MaximumRetryCount}
	}
	warnings, err := s.Containers.Update(r.Context(), r.name, o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, container.UpdateResponse{Warnings: warnings})
}

// wait answers POST /containers/ID/wait. The head of the answer goes out at once: clients
// start the container when they have it, and not before.
func (s *Server) wait(w http.ResponseWriter, r *request) error {
	condition := container.WaitCondition(r.param("condition"))
	if r.version < 30 || condition == "" {
		condition = container.WaitConditionNotRunning
	}
	if condition != container.WaitConditionNotRunning && condition != container.WaitConditionNextExit && condition != container.WaitConditionRemoved {
		return invalid("invalid condition: %q", condition)
	}
	c, err := s.Containers.Get(r.Context(), r.name)
	if err != nil {
		return err
	}
	ctx, cancel := r.stream()
	defer cancel()
	begin := func() {
		if r.version < 30 {
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
	}
	var status keeper.ExitStatus
	switch {
	case condition == container.WaitConditionNotRunning && !c.State.Status.GoesOn(),
		condition == container.WaitConditionRemoved && c.State.Status == keeper.Exited && !c.Options.AutoRemove:
		begin()
		status = exitOf(c.State)
	default:
		status, err = s.nextExit(ctx, c, begin)
	}
	if err == nil && condition == container.WaitConditionRemoved {
		err = s.removed(ctx, c.ID)
	}
	if ctx.Err() != nil {
		return nil
	}
	answer := container.WaitResponse{StatusCode: int64(status.Code)}
	switch {
	case err != nil:
		answer.Error = &container.WaitExitError{Message: message(err)}
	case status.Error != "":
		answer.Error = &container.WaitExitError{Message: status.Error}
	}
	if r.version < 30 {
		return writeJSON(w, http.StatusOK, answer)
	}
	return ignoreWrite(json.NewEncoder(w).Encode(answer))
}

func (s *Server) resize(w http.ResponseWriter, r *request) error {
	rows, columns, err := r.size()
	if err != nil {
		return err
	}
	return s.Containers.Resize(r.Context(), r.name, columns, rows)
}

// size reads h and w, of a terminal in characters.
func (r *request) size() (rows, columns uint16, err error) {
	for _, p := range []struct {
		key, what string
		to        *uint16
	}{{"h", "height", &rows}, {"w", "width", &columns}} {
		n, err := strconv.ParseInt(r.param(p.key), 10, 64)
		switch {
		case errors.Is(err, strconv.ErrSyntax):
			return 0, 0, invalid("invalid resize %s %q: invalid syntax", p.what, r.param(p.key))
		case err != nil || n < 0 || n > 1<<32-1:
			return 0, 0, invalid("invalid resize %s %q: value out of range", p.what, r.param(p.key))
		}
		*p.to = uint16(min(n, 1<<16-1))
	}
	return rows, columns, nil
}

func (s *Server) top(w http.ResponseWriter, r *request) error {
	args := strings.Fields(r.param("ps_args"))
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	titles, rows, err := s.Containers.Top(r.Context(), r.name, args)
	if err != nil {
		return err
	}
	if rows == nil {
		rows = [][]string{}
	}
	return writeJSON(w, http.StatusOK, container.TopResponse{Titles: titles, Processes: rows})
}
