// Package graph reads a build definition (BuildKit's LLB) into vertices.
package graph

import (
	"errors"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
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
}

// A Graph is a definition whose vertices are known to be sound.
type Graph struct {
	Vertices []*Vertex // inputs before their users
	Root     Edge      // Root.Vertex is nil for an empty definition (FROM scratch alone)
}

// Load checks def and returns its vertices.
func Load(def *pb.Definition, host ocispec.Platform) (*Graph, error) {
	return nil, errors.New("not implemented")
}
