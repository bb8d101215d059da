package buildkit

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A feed passes on what happens in a build. What nobody has taken yet waits: the journal of a build clips
// what a step prints, so that is no more than some megabytes for each.
type feed struct {
	mu      sync.Mutex
	waiting *controlapi.StatusResponse
	begun   map[string]*controlapi.Vertex // by digest
	statuss map[string]*timestamppb.Timestamp
	first   string // the vertex that warnings are of which name none
	news    chan struct{}
	closed  bool
}

func (f *feed) init() {
	f.waiting, f.begun = &controlapi.StatusResponse{}, map[string]*controlapi.Vertex{}
	f.statuss, f.news = map[string]*timestamppb.Timestamp{}, make(chan struct{}, 1)
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.wake()
}

// wake tells the taker that there is something, or nothing more.
func (f *feed) wake() {
	select {
	case f.news <- struct{}{}:
	default:
	}
}

// event takes what a build tells.
func (f *feed) event(e solver.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, at := e.Vertex.String(), timestamppb.New(e.Time)
	switch e.Kind {
	case solver.Started:
		v := &controlapi.Vertex{Digest: id, Name: e.Name, Started: at}
		f.begun[id] = v
		if f.first == "" {
			f.first = id
		}
		f.tell(v)
	case solver.Cached, solver.Completed:
		v := f.begun[id]
		if v == nil {
			return
		}
		v = v.CloneVT()
		v.Completed, v.Cached = at, e.Kind == solver.Cached
		if e.Err != nil {
			v.Error = e.Err.Error()
			if text := process(e.Err); text != "" {
				v.Error = text
			}
		}
		f.tell(v)
	case solver.Log:
		f.waiting.Logs = append(f.waiting.Logs, &controlapi.VertexLog{Vertex: id, Timestamp: at, Stream: int64(e.Stream), Msg: bytes.Clone(e.Data)})
	case solver.Progress:
		f.progress(id, at, e.Status)
	}
	f.wake()
}

func (f *feed) tell(v *controlapi.Vertex) { f.waiting.Vertexes = append(f.waiting.Vertexes, v) }

func (f *feed) progress(vertex string, at *timestamppb.Timestamp, s solver.Status) {
	key := vertex + " " + s.ID
	if f.statuss[key] == nil {
		f.statuss[key] = at
	}
	name, _, _ := strings.Cut(s.ID, " ")
	v := &controlapi.VertexStatus{ID: s.ID, Name: name, Vertex: vertex, Current: s.Current, Total: s.Total, Timestamp: at, Started: f.statuss[key]}
	if s.Done {
		v.Completed = at
		v.Current = max(v.Current, v.Total)
	}
	for _, old := range f.waiting.Statuses {
		if old.ID == v.ID && old.Vertex == v.Vertex {
			old.Current, old.Total, old.Timestamp, old.Completed = v.Current, v.Total, v.Timestamp, v.Completed
			return
		}
	}
	f.waiting.Statuses = append(f.waiting.Statuses, v)
}

// warn takes what the linter says.
func (f *feed) warn(w dockerfile.Warning) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &controlapi.VertexWarning{Vertex: w.Vertex, Level: int64(w.Level), Short: []byte(w.Text), Url: w.URL}
	if f.begun[v.Vertex] == nil {
		v.Vertex = f.first // clients drop what belongs to no vertex they know
	}
	for _, d := range w.Detail {
		v.Detail = append(v.Detail, []byte(d))
	}
	if w.Where.Start > 0 {
		v.Info, v.Ranges = sourceInfo(w.Where.File, w.Where.Text), ranges(w.Where.Start, w.Where.End)
	}
	f.waiting.Warnings = append(f.waiting.Warnings, v)
	f.wake()
}

func sourceInfo(file string, text []byte) *pb.SourceInfo {
	return &pb.SourceInfo{Filename: file, Data: text, Language: "Dockerfile"}
}

// maxLines is how many lines a place may have that are told one by one.
const maxLines = 1000

// ranges returns lines as BuildKit tells them, each by itself.
func ranges(start, end int) (list []*pb.Range) {
	if end-start > maxLines {
		return []*pb.Range{{Start: &pb.Position{Line: int32(start)}, End: &pb.Position{Line: int32(end)}}}
	}
	for line := int32(start); line <= int32(end); line++ {
		list = append(list, &pb.Range{Start: &pb.Position{Line: line}, End: &pb.Position{Line: line}})
	}
	return list
}

// Events are sent together that come within this time.
const together = 20 * time.Millisecond

// maxLogs is how much of the logs goes in one message, about.
const maxLogs = 1 << 20

// send passes on all until the feed is closed. What one taker got no other gets.
func (f *feed) send(ctx context.Context, send func(*controlapi.StatusResponse) error) error {
	for {
		select {
		case <-f.news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for {
			batch, closed := f.take()
			if batch == nil && closed {
				f.wake() // for other takers
				return nil
			}
			if batch == nil {
				break
			}
			if err := send(batch); err != nil {
				return err
			}
		}
		select {
		case <-time.After(together):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// take returns what waits, or nil.
func (f *feed) take() (batch *controlapi.StatusResponse, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.waiting
	if len(w.Vertexes)+len(w.Statuses)+len(w.Logs)+len(w.Warnings) == 0 {
		return nil, f.closed
	}
	f.waiting = &controlapi.StatusResponse{}
	size := 0
	for i, l := range w.Logs {
		if size += len(l.Msg); size > maxLogs && i > 0 {
			// A vertex that ends does so after what it printed.
			f.waiting.Logs, f.waiting.Vertexes = w.Logs[i:], w.Vertexes
			w.Logs, w.Vertexes = w.Logs[:i], nil
			for _, v := range f.waiting.Vertexes {
				if v.Completed == nil {
					w.Vertexes = append(w.Vertexes, v)
				}
			}
			break
		}
	}
	return w, f.closed
}
