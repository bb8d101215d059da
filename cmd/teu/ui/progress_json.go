//go:build !front && !porter

package ui

import (
	"encoding/json"
	"io"
	"time"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A jsonPrinter writes one JSON object per line. Fields are only ever added.
type jsonPrinter struct{ enc *json.Encoder }

func newJSONPrinter(w io.Writer) *jsonPrinter {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return &jsonPrinter{enc}
}

// A jsonEvent is a line of --progress json.
type jsonEvent struct {
	Time   time.Time   `json:"time,omitzero"`
	Event  string      `json:"event"` // started, running, cached, completed, skipped, log, progress, warning
	Vertex string      `json:"vertex,omitempty"`
	Name   string      `json:"name,omitempty"`
	Error  string      `json:"error,omitempty"`
	Stream int         `json:"stream,omitempty"` // 1 stdout, 2 stderr
	Text   string      `json:"text,omitempty"`   // of log, and of a warning
	Status *jsonStatus `json:"status,omitempty"`
	File   string      `json:"file,omitempty"` // of a warning
	Line   int         `json:"line,omitempty"`
	URL    string      `json:"url,omitempty"`
}

type jsonStatus struct {
	ID      string `json:"id"`
	Current int64  `json:"current,omitempty"` // bytes
	Total   int64  `json:"total,omitempty"`
	Done    bool   `json:"done,omitempty"`
}

// Event implements BuildPrinter.
func (p *jsonPrinter) Event(e solver.Event) {
	line := jsonEvent{Time: e.Time, Vertex: e.Vertex.String(), Name: e.Name, Event: eventName(e.Kind)}
	if e.Err != nil {
		line.Error = e.Err.Error()
	}
	switch e.Kind {
	case solver.Log:
		line.Stream, line.Text = e.Stream, string(e.Data)
	case solver.Progress:
		line.Status = &jsonStatus{e.Status.ID, e.Status.Current, e.Status.Total, e.Status.Done}
	}
	p.enc.Encode(line)
}

func eventName(k solver.EventKind) string {
	switch k {
	case solver.Started:
		return "started"
	case solver.Running:
		return "running"
	case solver.Cached:
		return "cached"
	case solver.Completed:
		return "completed"
	case solver.Skipped:
		return "skipped"
	case solver.Log:
		return "log"
	}
	return "progress"
}

// Warn implements BuildPrinter.
func (p *jsonPrinter) Warn(w dockerfile.Warning) {
	p.enc.Encode(jsonEvent{Event: "warning", Text: w.Text, File: w.Where.File, Line: w.Where.Start, URL: w.URL})
}

// Close implements BuildPrinter.
func (p *jsonPrinter) Close() {}
