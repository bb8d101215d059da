package engine

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types"
	"github.com/moby/moby/api/types/container"

	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/event"
)

// logs answers GET /containers/ID/logs.
func (s *Server) logs(w http.ResponseWriter, r *request) error {
	c, err := s.Containers.Get(r.Context(), r.name)
	if err != nil {
		return err
	}
	stdout, stderr := r.flag("stdout"), r.flag("stderr")
	if !stdout && !stderr {
		return invalid("must specify at least one of 'stdout' or 'stderr'")
	}
	// Clients ask again when the container is started again (docker compose up): dockerd's answer ends with the run.
	o := runner.LogOptions{Follow: r.flag("follow"), OneRun: true, Timestamps: r.flag("timestamps"), Details: r.flag("details"), Tail: -1}
	if text := r.param("tail"); text != "" && text != "all" {
		if n, err := strconv.Atoi(text); err == nil && n >= 0 {
			o.Tail = n
		}
	}
	if o.Since, err = parseTime(r.param("since")); err != nil {
		return err
	}
	if o.Until, err = parseTime(r.param("until")); err != nil {
		return err
	}
	if !c.Options.ReadsLog() {
		return worded(errdefs.ErrNotImplemented, "configured logging driver does not support reading")
	}
	ctx, cancel := r.stream()
	defer cancel()
	media := types.MediaTypeRawStream
	if !c.Options.TTY && r.version >= 42 {
		media = types.MediaTypeMultiplexedStream
	}
	w.Header().Set("Content-Type", media)
	flush := newFlusher(w)
	if o.Follow {
		defer s.followers.enter(c.ID)()
		flush.c.Flush() // clients wait for the head
	}
	out := newOutput(flush, c.Options.TTY)
	pick := func(wanted bool, kind byte) io.Writer {
		if !wanted {
			return io.Discard
		}
		return out.logs(kind)
	}
	if err := s.Containers.Logs(ctx, c.ID, o, pick(stdout, streamStdout), pick(stderr, streamStderr)); err != nil && !isGone(err) {
		s.Log.Debug("logs ended early", "container", c.ID, "error", err)
	}
	return nil
}

// eventJSON is an event as versions before 1.52 saw it.
type eventJSON struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	event.Event
}

// events answers GET /events.
func (s *Server) events(w http.ResponseWriter, r *request) error {
	var o runner.EventOptions
	var err error
	if o.Since, err = parseTime(r.param("since")); err != nil {
		return err
	}
	if o.Until, err = parseTime(r.param("until")); err != nil {
		return err
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && o.Until.Before(o.Since) {
		return invalid("`since` time (%s) cannot be after `until` time (%s)", r.param("since"), r.param("until"))
	}
	if o.Filters, err = r.filters(); err != nil {
		return err
	}
	maps.DeleteFunc(o.Filters, func(name string, _ []string) bool { return !slices.Contains(eventFilters, name) })
	ctx, cancel := r.stream()
	defer cancel()
	media := eventMedia(r.Header.Values("Accept"), r.version)
	w.Header().Set("Content-Type", media)
	flush := newFlusher(w)
	enc := json.NewEncoder(flush)
	enc.SetEscapeHTML(false)
	begun := false
	o.Begun = func() { // a client that has the head of the answer relies on hearing of what it does next
		begun = true
		w.WriteHeader(http.StatusOK)
		flush.c.Flush()
	}
	err = s.Containers.Events(ctx, o, func(e event.Event) error {
		s.followers.await(ctx, e)
		if r.version < 46 && e.Type == "image" && e.Action == "create" {
			return nil // there was none
		}
		if media == types.MediaTypeJSONSequence {
			if _, err := flush.ResponseWriter.Write([]byte{0x1e}); err != nil { // RFC 7464, 2.2
				return err
			}
		}
		if r.version >= 52 {
			return enc.Encode(e)
		}
		return enc.Encode(legacyEvent(e))
	})
	if !begun {
		return err
	}
	return ignoreWrite(err)
}

func legacyEvent(e event.Event) eventJSON {
	out := eventJSON{Event: e}
	switch e.Type {
	case event.Container:
		out.Status, out.ID, out.From = e.Action, e.Actor.ID, e.Actor.Attributes["image"]
	case "image":
		out.Status, out.ID = e.Action, e.Actor.ID
	}
	return out
}

// eventFilters are those that choose among events. Another one chooses nothing, and is no error.
var eventFilters = []string{"config", "container", "daemon", "event", "image", "label", "network", "node", "plugin", "scope", "secret", "service", "type", "volume"}

// eventMedia chooses the form of a stream of events (CHANGELOG, 1.52 and 1.53).
func eventMedia(accept []string, v version) string {
	for part := range strings.SplitSeq(strings.Join(accept, ","), ",") {
		switch kind, _, err := mime.ParseMediaType(part); {
		case err != nil:
		case kind == types.MediaTypeJSONSequence, kind == types.MediaTypeNDJSON, kind == types.MediaTypeJSONLines:
			return kind
		}
	}
	if v >= 52 {
		return types.MediaTypeJSONLines
	}
	return types.MediaTypeJSON
}

// stats answers GET /containers/ID/stats.
func (s *Server) stats(w http.ResponseWriter, r *request) error {
	c, err := s.Containers.Get(r.Context(), r.name)
	if err != nil {
		return err
	}
	ctx, cancel := r.stream()
	defer cancel()
	if !r.flagOr("stream", true) {
		return s.statsOnce(ctx, w, r, c.ID)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	flush := newFlusher(w)
	flush.c.Flush()
	enc := json.NewEncoder(flush)
	return ignoreWrite(s.Containers.StatsStream(ctx, c.ID, func(before, now runner.Stats) error { return enc.Encode(statsJSON(before, now)) }))
}

// statsOnce: without one-shot docker waits for a second reading, so that a share of the
// processors can be told.
func (s *Server) statsOnce(ctx context.Context, w http.ResponseWriter, r *request, id string) error {
	now, err := s.Containers.Stats(ctx, id)
	if err != nil {
		return err
	}
	var before runner.Stats
	if !(r.version >= 41 && r.flag("one-shot")) && !now.Read.IsZero() {
		before = now
		if err := sleep(ctx, time.Second); err != nil {
			return err
		}
		if now, err = s.Containers.Stats(ctx, id); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, statsJSON(before, now))
}

func statsJSON(before, now runner.Stats) container.StatsResponse {
	out := container.StatsResponse{
		ID: now.ID, Name: "/" + strings.TrimPrefix(now.Name, "/"), Read: now.Read, PreRead: before.Read,
		CPUStats: cpuStats(now), PreCPUStats: cpuStats(before), OSType: "linux",
	}
	if now.Read.IsZero() {
		return out
	}
	out.PidsStats = container.PidsStats{Current: now.Pids, Limit: now.PidsLimit}
	out.MemoryStats = container.MemoryStats{Usage: now.MemoryUsage, Limit: memoryLimit(now.MemoryLimit), Stats: now.Memory}
	if cgroupVersion() == "1" {
		out.MemoryStats.MaxUsage, out.MemoryStats.Failcnt = now.MemoryPeak, now.MemoryFailures
	}
	out.BlkioStats = blkioStats(now)
	for name, n := range now.Networks {
		if out.Networks == nil {
			out.Networks = map[string]container.NetworkStats{}
		}
		out.Networks[name] = container.NetworkStats{
			RxBytes: n.RxBytes, RxPackets: n.RxPackets, RxErrors: n.RxErrors, RxDropped: n.RxDropped,
			TxBytes: n.TxBytes, TxPackets: n.TxPackets, TxErrors: n.TxErrors, TxDropped: n.TxDropped,
		}
	}
	return out
}

// blkioStats tells of each device. The lists of a scheduler that kernels have no more are empty
// with control groups of version 1, and null with version 2, as dockerd's.
func blkioStats(now runner.Stats) container.BlkioStats {
	entries := func(counts []cgroup.IOCount) (list []container.BlkioStatEntry) {
		if cgroupVersion() == "1" {
			list = []container.BlkioStatEntry{}
		}
		for _, c := range counts {
			list = append(list, container.BlkioStatEntry{Major: c.Major, Minor: c.Minor, Op: c.Op, Value: c.Value})
		}
		return list
	}
	return container.BlkioStats{
		IoServiceBytesRecursive: entries(now.IOBytes), IoServicedRecursive: entries(now.IOs),
		IoQueuedRecursive: entries(nil), IoServiceTimeRecursive: entries(nil), IoWaitTimeRecursive: entries(nil),
		IoMergedRecursive: entries(nil), IoTimeRecursive: entries(nil), SectorsRecursive: entries(nil),
	}
}

// memoryLimit of a container without one is the host's memory.
func memoryLimit(n uint64) uint64 {
	total := uint64(memoryTotal())
	if n == 0 || n > total {
		return total
	}
	return n
}

func cpuStats(st runner.Stats) container.CPUStats {
	if st.Read.IsZero() {
		return container.CPUStats{}
	}
	return container.CPUStats{
		CPUUsage: container.CPUUsage{
			TotalUsage: uint64(st.CPU), PercpuUsage: st.PerCPU, UsageInUsermode: uint64(st.CPUUser), UsageInKernelmode: uint64(st.CPUSystem),
		},
		SystemUsage: uint64(st.HostCPU), OnlineCPUs: uint32(st.CPUs),
		ThrottlingData: container.ThrottlingData{Periods: st.Periods, ThrottledPeriods: st.ThrottledPeriods, ThrottledTime: uint64(st.Throttled)},
	}
}
