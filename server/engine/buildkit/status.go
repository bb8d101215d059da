package buildkit

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A feed passes on what happens in a build. All of it is kept too, for who looks late and for the history, but of
// what the steps print the last only.
type feed struct {
	mu       sync.Mutex
	kept     *controlapi.StatusResponse
	printed  int                                 // bytes of kept.Logs
	begun    map[string]*controlapi.Vertex       // by digest
	statuses map[string]*controlapi.VertexStatus // those of kept, by vertex and ID
	first    string                              // the vertex that warnings are of which name none
	early    []*controlapi.VertexWarning         // of vertices that have not begun
	takers   map[*taker]bool
	closed   bool
}

// A taker is somebody who looks. What he has not taken yet waits: the journal of a build clips what a step prints,
// so that is no more than some megabytes for each.
type taker struct {
	waiting *controlapi.StatusResponse
	news    chan struct{}
}

// maxKept is how many bytes are kept of what all steps print.
const maxKept = 2 << 20

func (f *feed) init() {
	f.kept, f.begun = &controlapi.StatusResponse{}, map[string]*controlapi.Vertex{}
	f.statuses, f.takers = map[string]*controlapi.VertexStatus{}, map[*taker]bool{}
}

func (f *feed) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	f.late(func(*controlapi.VertexWarning) bool { return true })
	f.wake()
}

// wake tells the takers that there is something, or nothing more.
func (f *feed) wake() {
	for t := range f.takers {
		t.wake()
	}
}

func (t *taker) wake() {
	select {
	case t.news <- struct{}{}:
	default:
	}
}

// join lets somebody look, from the beginning on, until he leaves.
func (f *feed) join() (t *taker, leave func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	k := f.kept
	t = &taker{news: make(chan struct{}, 1), waiting: &controlapi.StatusResponse{Vertexes: slices.Clone(k.Vertexes), Logs: slices.Clone(k.Logs), Warnings: slices.Clone(k.Warnings)}}
	for _, s := range k.Statuses {
		t.waiting.Statuses = append(t.waiting.Statuses, s.CloneVT())
	}
	t.wake()
	f.takers[t] = true
	return t, func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.takers, t)
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
		f.late(func(w *controlapi.VertexWarning) bool { return w.Vertex == id })
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
		f.log(&controlapi.VertexLog{Vertex: id, Timestamp: at, Stream: int64(e.Stream), Msg: bytes.Clone(e.Data)})
	case solver.Progress:
		f.progress(id, at, e.Status)
	}
	f.wake()
}

func (f *feed) tell(v *controlapi.Vertex) {
	f.kept.Vertexes = append(f.kept.Vertexes, v)
	for t := range f.takers {
		t.waiting.Vertexes = append(t.waiting.Vertexes, v)
	}
}

func (f *feed) log(l *controlapi.VertexLog) {
	k := f.kept
	for f.printed += len(l.Msg); f.printed > maxKept && len(k.Logs) > 0; k.Logs = k.Logs[1:] {
		f.printed -= len(k.Logs[0].Msg)
		k.Logs[0] = nil // for the collector
	}
	k.Logs = append(k.Logs, l)
	for t := range f.takers {
		t.waiting.Logs = append(t.waiting.Logs, l)
	}
}

func (f *feed) progress(vertex string, at *timestamppb.Timestamp, s solver.Status) {
	name, _, _ := strings.Cut(s.ID, " ")
	v := &controlapi.VertexStatus{ID: s.ID, Name: name, Vertex: vertex, Current: s.Current, Total: s.Total, Timestamp: at, Started: at}
	if s.Done {
		v.Completed = at
		v.Current = max(v.Current, v.Total)
	}
	key := vertex + " " + s.ID
	if old := f.statuses[key]; old != nil {
		v.Started = old.Started
		renew(old, v)
	} else {
		f.statuses[key] = v.CloneVT()
		f.kept.Statuses = append(f.kept.Statuses, f.statuses[key])
	}
	for t := range f.takers {
		t.progress(v)
	}
}

// progress adds v to what waits, or renews what waits of the same.
func (t *taker) progress(v *controlapi.VertexStatus) {
	for _, old := range t.waiting.Statuses {
		if old.ID == v.ID && old.Vertex == v.Vertex {
			renew(old, v)
			return
		}
	}
	t.waiting.Statuses = append(t.waiting.Statuses, v.CloneVT())
}

func renew(old, v *controlapi.VertexStatus) {
	old.Current, old.Total, old.Timestamp, old.Completed = v.Current, v.Total, v.Timestamp, v.Completed
}

// warn takes what the linter says.
func (f *feed) warn(w dockerfile.Warning) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v := &controlapi.VertexWarning{Vertex: w.Vertex, Level: int64(w.Level), Short: []byte(w.Text), Url: w.URL}
	for _, d := range w.Detail {
		v.Detail = append(v.Detail, []byte(d))
	}
	if w.Where.Start > 0 {
		v.Info, v.Ranges = sourceInfo(w.Where.File, w.Where.Text), ranges(w.Where.Start, w.Where.End)
	}
	if v.Vertex != "" && f.begun[v.Vertex] == nil {
		f.early = append(f.early, v)
		return
	}
	f.remark(v)
	f.wake()
}

// late passes on those of the early warnings that ready is true for.
func (f *feed) late(ready func(*controlapi.VertexWarning) bool) {
	f.early = slices.DeleteFunc(f.early, func(w *controlapi.VertexWarning) bool {
		if ready(w) {
			f.remark(w)
			return true
		}
		return false
	})
}

// remark passes a warning on.
func (f *feed) remark(w *controlapi.VertexWarning) {
	if f.begun[w.Vertex] == nil {
		w.Vertex = f.first // clients drop what belongs to no vertex they know
	}
	f.kept.Warnings = append(f.kept.Warnings, w)
	for t := range f.takers {
		t.waiting.Warnings = append(t.waiting.Warnings, w)
	}
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

// send passes on all until the feed is closed.
func (f *feed) send(ctx context.Context, send func(*controlapi.StatusResponse) error) error {
	t, leave := f.join()
	defer leave()
	for {
		select {
		case <-t.news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for {
			batch, closed := f.take(t)
			if batch == nil && closed {
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

// take returns what waits for t, or nil.
func (f *feed) take(t *taker) (batch *controlapi.StatusResponse, closed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return t.take(), f.closed
}

func (t *taker) take() *controlapi.StatusResponse {
	w := t.waiting
	if len(w.Vertexes)+len(w.Statuses)+len(w.Logs)+len(w.Warnings) == 0 {
		return nil
	}
	t.waiting = &controlapi.StatusResponse{}
	size := 0
	for i, l := range w.Logs {
		if size += len(l.Msg); size > maxLogs && i > 0 {
			// A vertex that ends does so after what it printed.
			t.waiting.Logs, t.waiting.Vertexes = w.Logs[i:], w.Vertexes
			w.Logs, w.Vertexes = w.Logs[:i], nil
			for _, v := range t.waiting.Vertexes {
				if v.Completed == nil {
					w.Vertexes = append(w.Vertexes, v)
				}
			}
			break
		}
	}
	return w
}
