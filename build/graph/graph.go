// Package graph reads a build definition (BuildKit's LLB) into vertices.
//
// A definition may come from another frontend, so nothing in it is trusted: after Load
// every index points to something that is there and no vertex stands on itself.
package graph

import (
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits of a definition. The largest that BuildKit's own tests make has some hundred operations.
const (
	maxOps   = 10_000
	maxBytes = 64 << 20 // all operations together
)

// A Vertex is one operation of a definition. It is not changed after Load.
type Vertex struct {
	Digest   digest.Digest    // of the marshalled operation; not stable between builds
	Op       *pb.Op           // exactly one of its kinds is set
	Inputs   []Edge           // in the order of Op.Inputs
	Metadata *pb.OpMetadata   // never nil
	Platform ocispec.Platform // what the operation runs for; the host's where the definition says nothing
	Name     string           // for people
	Source   []Location       // where in the Dockerfile it comes from
}

// Below is the vertex whose files v begins with and changes, where it is of that kind: a command or file actions. nil: there
// is none.
func (v *Vertex) Below() *Vertex {
	in := int64(-1)
	switch o := v.Op.Op.(type) {
	case *pb.Op_Exec:
		for _, m := range o.Exec.Mounts {
			if m.Dest == pb.RootMount {
				in = m.Input
			}
		}
	case *pb.Op_File:
		if len(o.File.Actions) > 0 {
			in = o.File.Actions[0].Input
		}
	}
	if in < 0 || in >= int64(len(v.Inputs)) {
		return nil
	}
	return v.Inputs[in].Vertex
}

// An Edge is one output of a vertex.
type Edge struct {
	Vertex *Vertex
	Index  int
}

// A Location is a range of lines in a source file.
type Location struct {
	File       string
	Text       []byte // the whole file
	Start, End int    // lines, from 1, both included
	Language   string // of the file; "" if it is not known
	// Definition is how a client gets the file again; nil if it is not known.
	Definition *pb.Definition
}

// A Graph is a definition whose vertices are known to be sound.
type Graph struct {
	Vertices []*Vertex // inputs before their users
	Root     Edge      // Root.Vertex is nil for an empty definition (FROM scratch alone)
}

// Load checks def and returns its vertices. host is the platform of operations that name none.
// A definition that makes no sense is an errdefs.ErrInvalidArgument.
func Load(def *pb.Definition, host ocispec.Platform) (*Graph, error) {
	if len(def.GetDef()) == 0 {
		return &Graph{}, nil // what the frontend makes of FROM scratch alone
	}
	l := loader{def: def, host: host, ops: map[string]*pb.Op{}, done: map[string]*Vertex{}}
	g, err := l.load()
	if err != nil {
		return nil, fmt.Errorf("build definition: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return g, nil
}

type loader struct {
	def  *pb.Definition
	host ocispec.Platform
	ops  map[string]*pb.Op
	done map[string]*Vertex // nil while a vertex is being made
	list []*Vertex
}

func (l *loader) load() (*Graph, error) {
	if n := len(l.def.Def); n < 2 || n > maxOps {
		return nil, fmt.Errorf("has %d operations, want 2 to %d", n, maxOps)
	}
	var last *pb.Op
	size := 0
	for _, b := range l.def.Def {
		if size += len(b); size > maxBytes {
			return nil, fmt.Errorf("is larger than %d bytes", maxBytes)
		}
		last = &pb.Op{}
		if err := last.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("operation cannot be decoded: %w", err)
		}
		l.ops[digest.FromBytes(b).String()] = last
	}
	// The last operation does nothing; its input is the result of the definition.
	if last.Op != nil || len(last.Inputs) != 1 {
		return nil, fmt.Errorf("the last operation is not the result")
	}
	root, err := l.edge(last.Inputs[0])
	if err != nil {
		return nil, err
	}
	return &Graph{Vertices: l.list, Root: root}, nil
}

func (l *loader) edge(in *pb.Input) (Edge, error) {
	if in == nil {
		return Edge{}, fmt.Errorf("empty input")
	}
	v, err := l.vertex(in.Digest)
	if err != nil {
		return Edge{}, err
	}
	if n := outputs(v.Op); in.Index < 0 || in.Index >= int64(n) {
		return Edge{}, fmt.Errorf("%s: has no output %d", v.Name, in.Index)
	}
	return Edge{v, int(in.Index)}, nil
}

// vertex makes the vertex of an operation, and those it stands on first.
func (l *loader) vertex(id string) (*Vertex, error) {
	if v, seen := l.done[id]; seen {
		if v == nil {
			return nil, fmt.Errorf("operation %s stands on itself", id) // would need a collision of sha256
		}
		return v, nil
	}
	op, ok := l.ops[id]
	if !ok {
		return nil, fmt.Errorf("operation %s is missing", id)
	}
	l.done[id] = nil
	v := &Vertex{Digest: digest.Digest(id), Op: op, Metadata: l.def.Metadata[id], Platform: l.host}
	if v.Metadata == nil {
		v.Metadata = &pb.OpMetadata{}
	}
	if op.Platform != nil {
		v.Platform = *Platform(op.Platform)
	}
	for _, in := range op.Inputs {
		e, err := l.edge(in)
		if err != nil {
			return nil, err
		}
		v.Inputs = append(v.Inputs, e)
	}
	v.Name = name(v)
	v.Source = l.locations(id)
	if err := check(v); err != nil {
		return nil, fmt.Errorf("%s: %w", v.Name, err)
	}
	l.done[id] = v
	l.list = append(l.list, v)
	return v, nil
}

// locations returns where the operation comes from, as far as the definition says so truthfully.
func (l *loader) locations(id string) []Location {
	src := l.def.Source
	var list []Location
	for _, loc := range src.GetLocations()[id].GetLocations() {
		i := int(loc.GetSourceIndex())
		if i < 0 || i >= len(src.Infos) || src.Infos[i] == nil {
			continue
		}
		for _, r := range loc.GetRanges() {
			start, end := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
			if r.GetEnd() == nil {
				end = start
			}
			if start < 1 || end < start {
				continue
			}
			list = append(list, Location{File: src.Infos[i].Filename, Text: src.Infos[i].Data, Start: start, End: end, Language: src.Infos[i].Language, Definition: src.Infos[i].Definition})
		}
	}
	return list
}

// Platform is a platform in OCI's form; nil stands for none.
func Platform(p *pb.Platform) *ocispec.Platform {
	if p == nil {
		return nil
	}
	spec := p.Spec()
	return &spec
}
