package build

import (
	"bytes"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A journal passes events on, one at a time, and keeps what an error needs: where vertices
// come from and the last they printed.
type journal struct {
	mu       sync.Mutex
	events   func(solver.Event)
	warnings func(dockerfile.Warning)
	vertices map[digest.Digest]*graph.Vertex
	order    []*graph.Vertex
	begun    map[digest.Digest]bool
	tails    map[digest.Digest][]byte
	printed  map[digest.Digest]int // bytes passed on
	most     int                   // bytes of each step that are; less than 0: all
}

// tailSize is how many bytes of a step's output are kept, about.
const tailSize = 16 << 10

// logSize is how much of a step's output is passed on, as in BuildKit.
const logSize = 2 << 20

func newJournal(events func(solver.Event), warnings func(dockerfile.Warning)) *journal {
	return &journal{events: events, warnings: warnings, most: logSize, printed: map[digest.Digest]int{}, vertices: map[digest.Digest]*graph.Vertex{}, begun: map[digest.Digest]bool{}, tails: map[digest.Digest][]byte{}}
}

func (j *journal) add(v *graph.Vertex) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.vertices[v.Digest] == nil {
		j.order = append(j.order, v)
	}
	j.vertices[v.Digest] = v
}

// skip tells of the vertices that nobody came to, because something failed.
func (j *journal) skip() { j.rest(solver.Skipped) }

// unneeded tells of the vertices that nobody had to come to: what stands on them was found.
func (j *journal) unneeded() { j.rest(solver.Started, solver.Cached) }

func (j *journal) rest(kinds ...solver.EventKind) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, v := range j.order {
		if j.begun[v.Digest] || j.events == nil {
			continue
		}
		for _, kind := range kinds {
			j.events(solver.Event{Kind: kind, Vertex: v.Digest, Name: v.Name, Time: time.Now()})
		}
		j.begun[v.Digest] = true
	}
}

// warn passes a warning on, never beside an event or another one.
func (j *journal) warn(w dockerfile.Warning) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.warnings != nil {
		j.warnings(w)
	}
}

func (j *journal) event(e solver.Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.begun[e.Vertex] = true
	switch {
	case e.Kind == solver.Log:
		j.keep(e)
	case e.Kind == solver.Cached, e.Kind == solver.Completed && e.Err == nil:
		delete(j.tails, e.Vertex)
	}
	if j.events != nil && (e.Kind != solver.Log || j.clip(&e)) {
		j.events(e)
	}
}

// clip shortens what a step printed to what may be passed on, and says whether anything is left.
func (j *journal) clip(e *solver.Event) bool {
	was := j.printed[e.Vertex]
	if j.most < 0 || was > j.most {
		return j.most < 0
	}
	j.printed[e.Vertex] = was + len(e.Data)
	if was+len(e.Data) > j.most {
		e.Data = fmt.Appendf(bytes.Clone(e.Data[:j.most-was]), "\n[output clipped, log limit %s reached]\n", units.BytesSize(float64(j.most)))
	}
	return true
}

func (j *journal) keep(e solver.Event) {
	tail := append(j.tails[e.Vertex], e.Data...)
	if len(tail) > 2*tailSize {
		tail = bytes.Clone(tail[len(tail)-tailSize:])
	}
	j.tails[e.Vertex] = tail
}

// where returns the place in the Dockerfile that v comes from. What an ADD fetches has none: it is where
// all that use it come from, if that is one place.
func (j *journal) where(v *graph.Vertex) (place []graph.Location) {
	if len(v.Source) > 0 {
		return v.Source
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	for _, user := range j.order {
		switch {
		case !slices.ContainsFunc(user.Inputs, func(e graph.Edge) bool { return e.Vertex.Digest == v.Digest }):
		case place == nil:
			place = user.Source
		case !slices.EqualFunc(place, user.Source, func(a, b graph.Location) bool { return a.File == b.File && a.Start == b.Start }):
			return nil
		}
	}
	return place
}

// tail returns the last lines that a vertex printed.
func (j *journal) tail(v digest.Digest) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	tail := j.tails[v]
	if len(tail) > tailSize {
		tail = tail[len(tail)-tailSize:]
		if i := bytes.IndexByte(tail, '\n'); i >= 0 {
			tail = tail[i+1:] // not half a line
		}
	}
	return bytes.Clone(tail)
}

func (j *journal) vertex(id digest.Digest) *graph.Vertex {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.vertices[id]
}
