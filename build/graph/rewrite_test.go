package graph

import (
	"context"
	"errors"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

func TestRewrite(t *testing.T) {
	def := define(t, source(), exec(&pb.Mount{Dest: "/"}), end(0))
	ids := []string{digest.FromBytes(def.Def[0]).String(), digest.FromBytes(def.Def[1]).String()}
	def.Metadata = map[string]*pb.OpMetadata{ids[0]: {Description: map[string]string{"llb.customname": "the source"}}, ids[1]: {Description: map[string]string{"llb.customname": "the command"}}}
	def.Source = &pb.Source{Infos: []*pb.SourceInfo{{Filename: "Dockerfile"}}, Locations: map[string]*pb.Locations{
		ids[1]: {Locations: []*pb.Location{{Ranges: []*pb.Range{{Start: &pb.Position{Line: 2}, End: &pb.Position{Line: 2}}}}}},
	}}
	same, err := Rewrite(t.Context(), def, func(context.Context, *pb.Op) (bool, error) { return false, nil })
	if err != nil || same != def {
		t.Errorf("nothing changed: got %v, %v", same, err)
	}
	made, err := Rewrite(t.Context(), def, func(_ context.Context, o *pb.Op) (bool, error) {
		o.GetSource().Identifier = "docker-image://other"
		return true, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	g, err := Load(made, host)
	if err != nil {
		t.Fatal(err)
	}
	v := g.Root.Vertex
	if v.Name != "the command" || len(v.Source) != 1 || v.Source[0].Start != 2 || v.Inputs[0].Vertex.Name != "the source" || v.Inputs[0].Vertex.Op.GetSource().Identifier != "docker-image://other" {
		t.Errorf("got %+v on %+v", v, v.Inputs[0].Vertex)
	}
	if g, err := Load(def, host); err != nil || g.Root.Vertex.Inputs[0].Vertex.Op.GetSource().Identifier == "docker-image://other" {
		t.Errorf("the definition that was given is another now: %v", err)
	}
	if _, err := Rewrite(t.Context(), def, func(context.Context, *pb.Op) (bool, error) { return false, errors.New("denied") }); err == nil {
		t.Error("an error was lost")
	}
	missing := define(t, source(), &pb.Op{Inputs: []*pb.Input{{Digest: "sha256:00"}}, Op: &pb.Op_Merge{}}, end(0))
	if made, err := Rewrite(t.Context(), missing, func(_ context.Context, o *pb.Op) (bool, error) { o.GetSource().Identifier = "x"; return true, nil }); err == nil {
		if _, err := Load(made, host); err == nil {
			t.Error("a definition that makes no sense does so now")
		}
	}
}
