package buildkit

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/grpcerrors"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teu-dev/teu/build"
)

// A history is what clients may ask about builds: those that go on, which die with this process, and the last of
// those that have ended.
type history struct {
	records records

	mu        sync.Mutex
	active    map[string]*controlapi.BuildHistoryRecord // by ref; not changed any more
	listeners map[*listener]bool
}

func newHistory(root string) *history {
	return &history{
		records: records{filepath.Join(root, "build", "history")},
		active:  map[string]*controlapi.BuildHistoryRecord{}, listeners: map[*listener]bool{},
	}
}

// begin remembers a build that goes on. Whoever gets it calls end.
func (h *history) begin(req *controlapi.SolveRequest) *controlapi.BuildHistoryRecord {
	rec := &controlapi.BuildHistoryRecord{
		Ref: req.Ref, Frontend: req.Frontend, FrontendAttrs: req.FrontendAttrs, Exporters: exporters(req), CreatedAt: timestamppb.Now(),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.active[rec.Ref] = rec
	h.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: rec})
	return rec
}

// end remembers how a build ended, and what it told. That this fails is no failure of the build.
func (h *history) end(ctx context.Context, begun *controlapi.BuildHistoryRecord, f *feed, response map[string]string, res build.Result, err error) {
	rec := begun.CloneVT()
	rec.CompletedAt, rec.ExporterResponse = timestamppb.Now(), response
	var blobs [][]byte
	add := func(mediaType string, b []byte) *controlapi.Descriptor {
		blobs = append(blobs, b)
		return &controlapi.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b).String(), Size: int64(len(b))}
	}
	if err != nil {
		rec.Error = errorStatus(ctx, err)
		if b, e := proto.Marshal(rec.Error); e == nil {
			rec.ExternalError = add("application/vnd.googleapis.google.rpc.status+proto", b)
		}
		rec.Error.Details = nil // those are in the blob
	}
	if res.Target.Digest != "" {
		rec.Result = &controlapi.BuildResultInfo{Results: map[int64]*controlapi.Descriptor{}}
		for id, t := range res.Targets {
			if id < len(rec.Exporters) && t.Digest != "" {
				rec.Result.Results[int64(id)] = descriptor(t)
			}
		}
		if rec.Result.ResultDeprecated = rec.Result.Results[0]; rec.Result.ResultDeprecated == nil {
			rec.Result.ResultDeprecated = descriptor(res.Target)
		}
	}
	told, failed := f.summary(rec)
	if failed == nil {
		rec.Logs = add(statusType, told)
		failed = h.records.save(rec, blobs...)
	}
	if failed != nil {
		slog.WarnContext(ctx, "the build is not remembered", "ref", rec.Ref, "error", failed)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.active, rec.Ref)
	h.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: rec})
}

func descriptor(d ocispec.Descriptor) *controlapi.Descriptor {
	return &controlapi.Descriptor{MediaType: d.MediaType, Digest: d.Digest.String(), Size: d.Size, Annotations: d.Annotations}
}

// errorStatus is err as clients get it.
func errorStatus(ctx context.Context, err error) *spb.Status {
	if st, ok := grpcerrors.AsGRPCStatus(grpcerrors.ToGRPC(ctx, coded(err))); ok {
		return st.Proto()
	}
	return status.New(codes.Unknown, err.Error()).Proto()
}

// summary returns all that is kept of what was told, and counts the steps.
func (f *feed) summary(rec *controlapi.BuildHistoryRecord) (told []byte, err error) {
	t, leave := f.join()
	defer leave()
	seen, completed, cached := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, v := range t.waiting.Vertexes {
		seen[v.Digest] = true
		if v.Completed != nil {
			completed[v.Digest] = true
		}
		if v.Cached {
			cached[v.Digest] = true
		}
	}
	rec.NumTotalSteps, rec.NumCompletedSteps, rec.NumCachedSteps = int32(len(seen)), int32(len(completed)), int32(len(cached))
	rec.NumWarnings = int32(len(t.waiting.Warnings))
	for batch := t.take(); batch != nil; batch = t.take() {
		if told, err = appendStatus(told, batch); err != nil {
			return nil, err
		}
	}
	return told, nil
}

// A listener is told of what happens to builds.
type listener struct {
	ref    string // of the one build; "": of all
	events chan *controlapi.BuildHistoryEvent
}

// maxBehind is how many events may wait for a listener. Who does not take them loses the later ones.
const maxBehind = 1000

// listen adds a listener, who has to leave, and returns the builds that go on.
func (h *history) listen(ref string) (l *listener, active []*controlapi.BuildHistoryEvent, leave func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	l = &listener{ref: ref, events: make(chan *controlapi.BuildHistoryEvent, maxBehind)}
	h.listeners[l] = true
	for _, rec := range h.active {
		if ref == "" || rec.Ref == ref {
			active = append(active, &controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_STARTED, Record: rec})
		}
	}
	return l, active, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.listeners, l)
	}
}

// tell passes e on. The caller holds mu.
func (h *history) tell(e *controlapi.BuildHistoryEvent) {
	for l := range h.listeners {
		if l.ref != "" && l.ref != e.Record.Ref {
			continue
		}
		select {
		case l.events <- e:
		default:
		}
	}
}

// goesOn says whether a build has not ended.
func (h *history) goesOn(ref string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.active[ref] != nil
}

// remove forgets a build.
func (h *history) remove(ref string) error {
	if h.goesOn(ref) {
		return fmt.Errorf("build %s goes on: %w", ref, errdefs.ErrFailedPrecondition)
	}
	if err := h.records.remove(ref); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tell(&controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_DELETED, Record: &controlapi.BuildHistoryRecord{Ref: ref}})
	return nil
}

// replay sends what a build told that has ended; not found: there is none.
func (h *history) replay(ref string, send func(*controlapi.StatusResponse) error) error {
	rec, err := h.records.get(ref)
	if err != nil {
		return err
	}
	f, err := h.records.open(digest.Digest(rec.GetLogs().GetDigest()))
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxBlob))
	if err != nil {
		return err
	}
	return readStatus(data, send)
}

// ListenBuildHistory implements controlapi.ControlServer.
func (s *Server) ListenBuildHistory(req *controlapi.BuildHistoryRequest, stream controlapi.Control_ListenBuildHistoryServer) error {
	if req.Limit < 0 {
		return fmt.Errorf("limit %d: %w", req.Limit, errdefs.ErrInvalidArgument)
	}
	match, err := historyFilter(req.Filter)
	if err != nil {
		return err
	}
	l, events, leave := s.history.listen(req.Ref) // before anything is answered: who has the answer is told of what comes then
	defer leave()
	// Clients say by it how long ago something was.
	if err := stream.SendHeader(metadata.Pairs("buildkit-current-timestamp", time.Now().Format(time.RFC3339Nano))); err != nil {
		return err
	}
	if !req.ActiveOnly {
		ended, err := s.ended(req, match)
		if err != nil {
			return err
		}
		events = append(events, ended...)
	}
	for _, e := range events {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	for !req.EarlyExit {
		select {
		case e := <-l.events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return context.Cause(stream.Context())
		}
	}
	return nil
}

// ended returns the builds that have ended which a client wants to see.
func (s *Server) ended(req *controlapi.BuildHistoryRequest, match func(*controlapi.BuildHistoryRecord) bool) (events []*controlapi.BuildHistoryEvent, err error) {
	var all []*controlapi.BuildHistoryRecord
	if req.Ref == "" {
		if all, err = s.history.records.all(); err != nil {
			return nil, err
		}
	} else if rec, err := s.history.records.get(req.Ref); err == nil {
		all = append(all, rec)
	}
	for _, rec := range all {
		if req.Limit > 0 && len(events) == int(req.Limit) {
			break
		}
		if match(rec) {
			events = append(events, &controlapi.BuildHistoryEvent{Type: controlapi.BuildHistoryEventType_COMPLETE, Record: rec})
		}
	}
	return events, nil
}

// UpdateBuildHistory implements controlapi.ControlServer. A record is final when its build ends.
func (s *Server) UpdateBuildHistory(_ context.Context, req *controlapi.UpdateBuildHistoryRequest) (*controlapi.UpdateBuildHistoryResponse, error) {
	var err error
	switch {
	case req.Delete:
		err = s.history.remove(req.Ref)
	case req.Finalize:
		if !s.history.goesOn(req.Ref) {
			_, err = s.history.records.get(req.Ref)
		}
	default:
		err = s.history.records.pin(req.Ref, req.Pinned)
	}
	if err != nil {
		return nil, err
	}
	return &controlapi.UpdateBuildHistoryResponse{}, nil
}
