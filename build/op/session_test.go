package op

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/runner/network"
)

// TestSession: a place is made ahead for a command that follows, the command gets it, and one that nobody
// has used goes with the session.
func TestSession(t *testing.T) {
	if alone(t) {
		return
	}
	e, base := execEnv(t)
	x := e.Executor.(*Containers)
	x.Network = network.New(e.Store.RunRoot())
	s, err := x.Begin()
	if err != nil {
		t.Fatal(err)
	}
	e.Executor = s
	ahead := func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.ahead) != 1 {
			t.Fatalf("%d places were made ahead, want one", len(s.ahead))
		}
		return s.ahead[0].id
	}
	o := command("busybox cat /sys/class/net/eth0/iflink")
	o.Network = pb.NetMode_UNSET
	e.nexts = map[digest.Digest]Network{"": NetworkDefault} // the vertices of these tests have no digest
	if _, said, err := run(t.Context(), t, e, o, base); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	next := ahead()
	peer := hostEnd(t, s, next)
	_, said, err := run(t.Context(), t, e, o, base)
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	if said != fmt.Sprintln(peer) {
		t.Errorf("the command was on interface %q of the host, made ahead was %d", said, peer)
	}
	unused := ahead()
	if unused == next {
		t.Error("a place is kept for a second command")
	}
	// Other networks have places of their own.
	o.Network = pb.NetMode_NONE
	if _, said, err := run(t.Context(), t, e, o, base); err == nil {
		t.Errorf("a command without a network has one: %s", said)
	}
	if ahead() != unused {
		t.Error("a place was taken by a command with another network, or there are more than commands")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"netns", "network/endpoints"} {
		if left, err := os.ReadDir(filepath.Join(e.Store.RunRoot(), dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", dir, left, err)
		}
	}
	for _, h := range x.host.Hierarchies() {
		if _, err := os.Stat(filepath.Join(h.Mountpoint, "teu", unused)); !os.IsNotExist(err) {
			t.Errorf("the control group of the unused place in %s: %v", h.Mountpoint, err)
		}
	}
	if err := x.Network.Reset(t.Context()); err != nil {
		t.Errorf("something is still attached: %v", err)
	}
}

// hostEnd is the index of the host's interface that leads to the place id, which is being made.
func hostEnd(t *testing.T, s *Session, id string) int {
	t.Helper()
	s.work.Wait()
	sb, err := s.x.Network.Get(id)
	if err != nil {
		t.Fatal(err)
	}
	link, err := net.InterfaceByName(sb.Endpoints[0].Veth)
	if err != nil {
		t.Fatal(err)
	}
	return link.Index
}

// TestSessionAfterAFailure: a place that could not be made ahead is no failure of the command that comes
// when it can be made.
func TestSessionAfterAFailure(t *testing.T) {
	e, base := execEnv(t)
	s, err := e.Executor.(*Containers).Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	e.Executor = s
	failed := newPlace(placeKind{network: NetworkNone}, s.self)
	failed.err = context.DeadlineExceeded
	close(failed.made)
	s.ahead = []*place{failed}
	if _, said, err := run(t.Context(), t, e, command("busybox true"), base); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}

// TestNext: a command is followed by the next one on the way of the root, over copies and not over what is
// only read.
func TestNext(t *testing.T) {
	e := newEnv(t)
	on := func(id string, o *pb.Op, in ...*graph.Vertex) *graph.Vertex {
		v := vertex(o, 0)
		v.Digest = digest.Digest(id)
		for _, i := range in {
			v.Inputs = append(v.Inputs, graph.Edge{Vertex: i})
		}
		if _, err := e.Op(v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	exec := func(m pb.NetMode, mounts ...*pb.Mount) *pb.Op {
		o := command("", mounts...)
		o.Network = m
		return &pb.Op{Op: &pb.Op_Exec{Exec: o}}
	}
	read := on("read", exec(pb.NetMode_UNSET), nil)
	first := on("first", exec(pb.NetMode_UNSET), nil)
	dir := on("mkdir", &pb.Op{Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{
		Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}},
	}}}}}, first)
	second := on("second", exec(pb.NetMode_NONE, &pb.Mount{Dest: "/m", Input: 1, Output: -1, Readonly: true}), dir, read)
	on("third", exec(pb.NetMode_UNSET), second)
	want := map[digest.Digest]Network{"first": NetworkNone, "second": NetworkDefault}
	if len(e.nexts) != len(want) || e.nexts["first"] != want["first"] || e.nexts["second"] != want["second"] {
		t.Errorf("got %v, want %v", e.nexts, want)
	}
}
