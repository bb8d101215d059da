package solver

import (
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// An EventKind says what happened to a vertex.
type EventKind int

const (
	Started   EventKind = iota // the vertex is looked for
	Running                    // nothing was found; the operation runs
	Cached                     // the result was known; the vertex is finished
	Completed                  // the operation ran; Err is set if it failed, context.Canceled if it was given up
	Log                        // Data was written to Stream
	Progress                   // Status changed
	Skipped                    // the vertex was never looked for, as something failed before
)

// An Event is one step in the life of a vertex.
type Event struct {
	Kind   EventKind
	Vertex digest.Digest
	Name   string
	Time   time.Time
	Err    error
	Stream int    // 1 or 2, of Log
	Data   []byte // of Log; valid only during the call
	Status Status // of Progress
}

// A Status is the progress of one thing a vertex does, such as a blob that is fetched.
type Status struct {
	ID             string // what is worked on, for people
	Current, Total int64  // bytes; a Total of 0 means unknown
	Done           bool
}

// A Console is where an operation writes what people may want to see. It is safe for
// concurrent use, never nil, and may be used until the Solver is done, also after Run.
type Console struct {
	emit   func(Event)
	vertex digest.Digest
	name   string
}

// NewConsole returns a Console that passes every event to emit, which may be nil.
func NewConsole(vertex digest.Digest, name string, emit func(Event)) *Console {
	if emit == nil {
		emit = func(Event) {}
	}
	return &Console{emit: emit, vertex: vertex, name: name}
}

// Begin tells that something outside the graph begins which is shown like a vertex.
func (c *Console) Begin() { c.send(Event{Kind: Started}) }

// End tells that what Begin began has ended.
func (c *Console) End(err error) { c.send(Event{Kind: Completed, Err: err}) }

// Stdout returns the writer for the standard output of what runs.
func (c *Console) Stdout() io.Writer { return logWriter{c, 1} }

// Stderr returns the writer for the standard error of what runs.
func (c *Console) Stderr() io.Writer { return logWriter{c, 2} }

// Status reports progress.
func (c *Console) Status(s Status) { c.send(Event{Kind: Progress, Status: s}) }

func (c *Console) send(e Event) {
	e.Vertex, e.Name, e.Time = c.vertex, c.name, time.Now()
	c.emit(e)
}

type logWriter struct {
	c      *Console
	stream int
}

func (w logWriter) Write(p []byte) (int, error) {
	w.c.send(Event{Kind: Log, Stream: w.stream, Data: p})
	return len(p), nil
}
