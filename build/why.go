package build

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/statefile"
)

// A Reason says why a step ran although there is a cache.
type Reason struct {
	Step    string
	Because []string // for people: "src/a.c changed"
}

// A stepFacts is all that a step depended on in a build, for the next to compare with.
//
//	ROOT/build/why/HEX/steps.json   the steps of one Dockerfile and context
//	ROOT/build/why/HEX/DIGEST       the files behind the content digest of an input
type stepFacts struct {
	Name   string            `json:"name"`
	Parts  map[string]string `json:"parts"` // of the instruction: "command", "variable X"
	Inputs []inputFacts      `json:"inputs,omitempty"`

	vertex  *graph.Vertex
	ran     bool
	ignored bool // by --no-cache
}

type inputFacts struct {
	Name    string        `json:"name"`
	State   string        `json:"state,omitempty"` // op.Identity
	Image   string        `json:"image,omitempty"`
	Digest  digest.Digest `json:"digest,omitempty"`  // of the image
	Content digest.Digest `json:"content,omitempty"` // of what is read of it, if it was looked at
	Local   bool          `json:"local,omitempty"`

	files map[string]string // with the beginnings of their digests; nil if they are known already
}

// A historian notes what steps depend on. It is safe for concurrent use.
type historian struct {
	dir string

	mu    sync.Mutex
	steps map[digest.Digest]*stepFacts // nil: it was not looked for
	order []digest.Digest              // as in the Dockerfile
}

// newHistorian returns the one of the builds like o on this store.
func newHistorian(buildDir string, o Options) *historian {
	context, _ := filepath.Abs(o.Context)
	if IsRemoteContext(o.Context) {
		context = o.Context
	}
	id, _ := json.Marshal([]any{context, o.Dockerfile, o.Platforms}) // cannot fail
	return &historian{
		dir:   filepath.Join(buildDir, "why", digest.FromBytes(id).Encoded()),
		steps: map[digest.Digest]*stepFacts{},
	}
}

// watch returns operation, of which h notes what it does.
func (h *historian) watch(v *graph.Vertex, operation solver.Op[op.Result]) solver.Op[op.Result] {
	switch v.Op.Op.(type) {
	case *pb.Op_Exec, *pb.Op_File:
	default:
		return operation
	}
	if strings.HasPrefix(v.Name, "[internal]") {
		return operation
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, ok := h.steps[v.Digest]; !ok {
		h.steps[v.Digest] = nil
		h.order = append(h.order, v.Digest)
	}
	return &watchedOp{Op: operation, h: h, v: v}
}

type watchedOp struct {
	solver.Op[op.Result]
	h *historian
	v *graph.Vertex
}

// Key implements solver.Op.
func (w *watchedOp) Key(ctx context.Context) (solver.Key, error) {
	w.h.mu.Lock()
	w.h.steps[w.v.Digest] = &stepFacts{Name: oneLine(w.v.Name), Parts: parts(w.v.Op), vertex: w.v, ignored: w.v.Metadata.GetIgnoreCache()}
	w.h.mu.Unlock()
	return w.Op.Key(ctx)
}

// ContentKeys implements solver.Op.
func (w *watchedOp) ContentKeys(ctx context.Context, c *solver.Console, in []op.Result) ([]digest.Digest, error) {
	keys, err := w.Op.ContentKeys(ctx, c, in)
	if err != nil || slices.ContainsFunc(in, absent) {
		return keys, err
	}
	var files []map[string]digest.Digest
	if !w.h.listed(keys, in) { // mostly it is: a walk of ten thousand files is not for nothing
		if files, err = op.ReadFiles(ctx, w.Op, in); err != nil {
			return keys, err
		}
	}
	facts := make([]inputFacts, len(in))
	for i, r := range in {
		facts[i] = inputFacts{Name: oneLine(w.v.Inputs[i].Vertex.Name), State: op.Identity(r), Local: r.Local != nil}
		if files != nil {
			facts[i].files = short8(files[i])
		}
		facts[i].Image, facts[i].Digest = op.ImageOf(r)
		if i < len(keys) {
			facts[i].Content = keys[i]
		}
	}
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	w.h.steps[w.v.Digest].Inputs = facts
	return keys, nil
}

// absent says whether an input is not there: the solver asks what is known already before it makes it.
func absent(r op.Result) bool { return len(r.Layers) == 0 && r.Local == nil }

// listed says whether the files behind the content digests are known from an earlier build.
func (h *historian) listed(keys []digest.Digest, in []op.Result) bool {
	for i, r := range in {
		if r.Local == nil || i >= len(keys) || keys[i] == "" {
			continue
		}
		if _, err := os.Lstat(filepath.Join(h.dir, keys[i].Encoded())); err != nil {
			return false
		}
	}
	return true
}

// Run implements solver.Op.
func (w *watchedOp) Run(ctx context.Context, c *solver.Console, in []op.Result) ([]op.Result, error) {
	w.h.mu.Lock()
	w.h.steps[w.v.Digest].ran = true
	w.h.mu.Unlock()
	return w.Op.Run(ctx, c, in)
}

// parts takes an operation to pieces that can be compared and named.
func parts(o *pb.Op) map[string]string {
	m := map[string]string{}
	switch o := o.Op.(type) {
	case *pb.Op_Exec:
		meta := o.Exec.Meta
		m["the command"] = strings.Join(meta.Args, " ")
		m["the working directory"], m["the user"] = meta.Cwd, meta.User
		m["the network"], m["the security mode"] = o.Exec.Network.String(), o.Exec.Security.String()
		for _, kv := range meta.Env {
			name, value, _ := strings.Cut(kv, "=")
			m["the variable "+name] = value
		}
		for _, h := range meta.ExtraHosts {
			m["the host "+h.Host] = h.IP
		}
		for _, mount := range o.Exec.Mounts {
			text, _ := json.Marshal(mount) // cannot fail
			m["the mount "+mount.Dest] = string(text)
		}
	case *pb.Op_File:
		for i, a := range o.File.Actions {
			text, _ := json.Marshal(a.Action) // cannot fail
			m[fmt.Sprintf("the instruction (action %d)", i+1)] = string(text)
		}
	}
	return m
}

// reasons compares with the last build, remembers this one, and says why steps ran. Only a failure to
// remember is an error.
func (h *historian) reasons() ([]Reason, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var doc struct {
		Steps []*stepFacts `json:"steps"`
	}
	first := statefile.Read(filepath.Join(h.dir, "steps.json"), &doc) != nil
	var list []Reason
	kept := slices.Clone(doc.Steps)
	changed := false
	for _, id := range h.order {
		now := h.steps[id]
		if now == nil {
			continue
		}
		old := now.last(doc.Steps)
		if now.ran {
			list = append(list, Reason{Step: now.Name, Because: h.because(now, old, first)})
		}
		if now.Inputs == nil && old != nil {
			now.Inputs = old.Inputs // it was found without them
		}
		if old == nil || now.ran || now.Name != old.Name || !maps.Equal(now.Parts, old.Parts) || now.Inputs != nil && !slices.EqualFunc(now.Inputs, old.Inputs, sameFacts) {
			changed = true
		}
		kept = append(slices.DeleteFunc(kept, func(s *stepFacts) bool { return s == old }), now)
	}
	if !changed {
		return list, nil
	}
	const most = 500 // steps of other targets of the same Dockerfile
	doc.Steps = kept[max(len(kept)-most, 0):]
	return list, h.save(doc.Steps, doc)
}

func sameFacts(a, b inputFacts) bool {
	a.files, b.files = nil, nil
	return a.Name == b.Name && a.State == b.State && a.Content == b.Content && a.Digest == b.Digest
}

// save writes the document and the lists of files it refers to, and removes the others.
func (h *historian) save(steps []*stepFacts, doc any) error {
	if err := os.MkdirAll(h.dir, 0o700); err != nil {
		return err
	}
	used := map[string]bool{"steps.json": true}
	for _, s := range steps {
		for _, in := range s.Inputs {
			if !in.Local || in.Content == "" {
				continue
			}
			name := in.Content.Encoded()
			used[name] = true
			const most = 50000 // a document may have 8 MiB
			if in.files == nil || len(in.files) > most {
				continue
			}
			if _, err := os.Lstat(filepath.Join(h.dir, name)); err == nil {
				continue
			}
			if err := statefile.Write(filepath.Join(h.dir, name), in.files, statefile.WriteOptions{}); err != nil {
				return err
			}
		}
	}
	if err := statefile.Write(filepath.Join(h.dir, "steps.json"), doc, statefile.WriteOptions{}); err != nil {
		return err
	}
	entries, err := os.ReadDir(h.dir)
	for _, e := range entries {
		if !used[e.Name()] && !strings.HasPrefix(e.Name(), ".") {
			_ = os.Remove(filepath.Join(h.dir, e.Name())) // another build may have done it
		}
	}
	return err
}

// short8 keeps as much of digests as it takes to see a change.
func short8(files map[string]digest.Digest) map[string]string {
	m := make(map[string]string, len(files))
	for p, d := range files {
		if d != "" {
			m[p] = d.Encoded()[:16]
		} else {
			m[p] = ""
		}
	}
	return m
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
