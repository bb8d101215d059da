//go:build !front && !porter

package ui

import (
	"encoding/json"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/dockerfile"
)

// A rawPrinter writes what `docker buildx build --progress=rawjson` does: one SolveStatus of BuildKit
// (client/graph.go, v0.33) per line. Text and warnings are in base64 there.
type rawPrinter struct {
	enc     *json.Encoder
	started map[digest.Digest]time.Time
}

func newRawPrinter(w io.Writer) *rawPrinter {
	return &rawPrinter{enc: json.NewEncoder(w), started: map[digest.Digest]time.Time{}}
}

type rawStatus struct {
	Vertexes []rawVertex   `json:"vertexes,omitempty"`
	Statuses []rawProgress `json:"statuses,omitempty"`
	Logs     []rawLog      `json:"logs,omitempty"`
	Warnings []rawWarning  `json:"warnings,omitempty"`
}

type rawVertex struct {
	Digest    digest.Digest `json:"digest"`
	Name      string        `json:"name,omitempty"`
	Started   *time.Time    `json:"started,omitempty"`
	Completed *time.Time    `json:"completed,omitempty"`
	Cached    bool          `json:"cached,omitempty"`
	Error     string        `json:"error,omitempty"`
}

type rawProgress struct {
	ID        string        `json:"id"`
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Name      string        `json:"name,omitempty"`
	Total     int64         `json:"total,omitempty"`
	Current   int64         `json:"current"`
	Timestamp time.Time     `json:"timestamp"`
	Started   *time.Time    `json:"started,omitempty"`
	Completed *time.Time    `json:"completed,omitempty"`
}

type rawLog struct {
	Vertex    digest.Digest `json:"vertex,omitempty"`
	Stream    int           `json:"stream,omitempty"`
	Data      []byte        `json:"data"`
	Timestamp time.Time     `json:"timestamp"`
}

type rawWarning struct {
	Level  int        `json:"level,omitempty"`
	Short  []byte     `json:"short,omitempty"`
	Detail [][]byte   `json:"detail,omitempty"`
	URL    string     `json:"url,omitempty"`
	Source *rawSource `json:"sourceInfo,omitempty"`
	Range  []rawRange `json:"range,omitempty"`
}

type rawSource struct {
	Filename string `json:"filename,omitempty"`
	Data     []byte `json:"data,omitempty"`
	Language string `json:"language,omitempty"`
}

type rawRange struct {
	Start rawPosition `json:"start"`
	End   rawPosition `json:"end"`
}

type rawPosition struct {
	Line int `json:"line,omitempty"`
}

// Event implements BuildPrinter.
func (p *rawPrinter) Event(e solver.Event) {
	now := e.Time
	if now.IsZero() {
		now = time.Now()
	}
	var s rawStatus
	switch e.Kind {
	case solver.Log:
		s.Logs = []rawLog{{e.Vertex, e.Stream, e.Data, now}}
	case solver.Progress:
		st := rawProgress{ID: e.Status.ID, Vertex: e.Vertex, Total: e.Status.Total, Current: e.Status.Current, Timestamp: now, Started: p.start(e.Vertex, now)}
		if e.Status.Done {
			st.Completed = &now
		}
		s.Statuses = []rawProgress{st}
	case solver.Skipped:
		s.Vertexes = []rawVertex{{Digest: e.Vertex, Name: e.Name}}
	default:
		v := rawVertex{Digest: e.Vertex, Name: e.Name, Started: p.start(e.Vertex, now), Cached: e.Kind == solver.Cached}
		if e.Kind == solver.Cached || e.Kind == solver.Completed {
			v.Completed = &now
		}
		if e.Err != nil {
			v.Error = e.Err.Error()
		}
		s.Vertexes = []rawVertex{v}
	}
	_ = p.enc.Encode(s) // as with all printers, a reader that went away does not end the build
}

// start returns when a vertex was first heard of.
func (p *rawPrinter) start(v digest.Digest, now time.Time) *time.Time {
	t, ok := p.started[v]
	if !ok {
		t = now
		p.started[v] = t
	}
	return &t
}

// Warn implements BuildPrinter.
func (p *rawPrinter) Warn(w dockerfile.Warning) {
	_ = p.enc.Encode(rawStatus{Warnings: []rawWarning{newRawWarning(w)}})
}

// RawWarnings are warnings in the form of BuildKit's client, which buildx writes.
func RawWarnings(list []dockerfile.Warning) any {
	raw := make([]rawWarning, len(list))
	for i, w := range list {
		raw[i] = newRawWarning(w)
	}
	return raw
}

func newRawWarning(w dockerfile.Warning) rawWarning {
	raw := rawWarning{Level: max(w.Level, 1), Short: []byte(w.Text), URL: w.URL}
	for _, d := range w.Detail {
		raw.Detail = append(raw.Detail, []byte(d))
	}
	if w.Where.Start > 0 {
		raw.Source = &rawSource{Filename: w.Where.File, Data: w.Where.Text, Language: "Dockerfile"}
		raw.Range = []rawRange{{rawPosition{w.Where.Start}, rawPosition{w.Where.End}}}
	}
	return raw
}

// Close implements BuildPrinter.
func (p *rawPrinter) Close() {}
