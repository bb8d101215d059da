package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A stepCase is a command that is killed between its steps.
type stepCase struct {
	name   string
	before [][]string // make what the command needs
	args   []string   // the command
	again  []string   // words of the errors with which it may fail the second time
	after  [][]string // take back what there is of it
}

// TestKilledAtEachStep kills commands before each of the system calls by which they change something.
// The store is sound then, the command can be given again, and everything can be removed.
// TEU_SOAK=1 takes every step, else it is one of fifty.
func TestKilledAtEachStep(t *testing.T) {
	s := &stress{site: newSite(t)}
	s.write("ctx/Dockerfile", "FROM busybox\nCOPY n /n\nRUN echo made >/made\n")
	s.write("ctx/n", "n\n")
	s.must("save", "-o", s.path("busybox.tar"), "busybox")
	stride := 50
	if os.Getenv("TEU_SOAK") != "" {
		stride = 1
	}
	for _, c := range s.stepCases() {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			defer func() { s.t = nil }()
			s.killAtSteps(t, c, stride)
		})
	}
	s.t = t
	s.empty(t)
}

func (s *stress) stepCases() []stepCase {
	running := []string{"run", "-d", "--name", "one", "busybox", "sleep", "1000"}
	created := []string{"create", "--name", "one", "busybox", "true"}
	owner := []string{"run", "-d", "--name", "owner", "--network", "none", "busybox", "sleep", "1000"}
	sharing, rmOwner := []string{"run", "-d", "--name", "one", "--network", "container:owner", "busybox", "sleep", "1000"}, []string{"rm", "-f", "owner"}
	rm, taken := []string{"rm", "-f", "one"}, []string{"already in use"}
	return []stepCase{
		{name: "run", args: []string{"run", "--name", "one", "busybox", "true"}, again: taken, after: [][]string{rm}},
		{name: "run -d", args: running, again: taken, after: [][]string{rm}},
		{name: "run --rm", args: []string{"run", "--rm", "--name", "one", "-v", "/v", "busybox", "true"}, again: taken, after: [][]string{rm, {"volume", "prune", "-af"}}},
		{name: "run -v", args: []string{"run", "--name", "one", "-v", "vol:/etc", "--network", "none", "busybox", "true"}, again: taken, after: [][]string{rm, {"volume", "rm", "vol"}}},
		{name: "create", args: created, again: taken, after: [][]string{rm}},
		{name: "start", before: [][]string{created}, args: []string{"start", "one"}, after: [][]string{rm}},
		{name: "run --explain", args: []string{"run", "--explain", "--name", "one", "busybox", "true"}, again: taken, after: [][]string{rm}},
		{name: "run --network container", before: [][]string{owner}, args: sharing, again: taken, after: [][]string{rm, rmOwner}},
		{name: "rm -f of the last", before: [][]string{owner, sharing, rmOwner}, args: rm, after: [][]string{rm}},
		{name: "stop", before: [][]string{running}, args: []string{"stop", "-t", "0", "one"}, after: [][]string{rm}},
		{name: "restart", before: [][]string{running}, args: []string{"restart", "-t", "0", "one"}, after: [][]string{rm}},
		{name: "exec", before: [][]string{running}, args: []string{"exec", "one", "true"}, after: [][]string{rm}},
		{name: "rm", before: [][]string{created}, args: []string{"rm", "one"}, again: []string{"No such container"}, after: [][]string{rm}},
		{name: "rm -f", before: [][]string{running}, args: rm, after: [][]string{rm}},
		{name: "rename", before: [][]string{created}, args: []string{"rename", "one", "two"}, again: []string{"No such container", "already in use"}, after: [][]string{rm, {"rm", "-f", "two"}}},
		{name: "update", before: [][]string{running}, args: []string{"update", "--memory", "64m", "--memory-swap", "64m", "--restart", "always", "one"}, after: [][]string{rm}},
		{name: "commit", before: [][]string{{"run", "--name", "one", "busybox", "touch", "/f"}}, args: []string{"commit", "one", "made:1"}, after: [][]string{rm, {"rmi", "made:1"}}},
		{name: "cp", before: [][]string{created}, args: []string{"cp", s.path("ctx"), "one:/tmp/"}, after: [][]string{rm}},
		{name: "tag", args: []string{"tag", "busybox", "other:1"}, after: [][]string{{"rmi", "other:1"}}},
		{name: "rmi", before: [][]string{{"tag", "busybox", "other:1"}}, args: []string{"rmi", "other:1"}, again: []string{"No such image"}, after: [][]string{{"rmi", "other:1"}}},
		{name: "rmi last", before: [][]string{{"build", "-q", "-t", "app", s.path("ctx")}}, args: []string{"rmi", "app"}, again: []string{"No such image"}, after: [][]string{{"builder", "prune", "-af"}}},
		{name: "load", args: []string{"load", "-i", s.path("busybox.tar")}},
		{name: "import", args: []string{"import", s.path("base/rootfs.tar"), "imported:1"}, after: [][]string{{"rmi", "imported:1"}}},
		{name: "save", args: []string{"save", "-o", s.path("out.tar"), "busybox"}},
		{name: "build", args: []string{"build", "-q", "-t", "app", s.path("ctx")}, after: [][]string{{"rmi", "app"}, {"builder", "prune", "-af"}}},
		{name: "volume create", args: []string{"volume", "create", "vol"}, after: [][]string{{"volume", "rm", "vol"}}},
		{name: "volume rm", before: [][]string{{"volume", "create", "vol"}}, args: []string{"volume", "rm", "vol"}, again: []string{"no such volume", "No such volume"}, after: [][]string{{"volume", "rm", "vol"}}},
		{name: "network create", args: []string{"network", "create", "net"}, again: []string{"already exists"}, after: [][]string{{"network", "rm", "net"}}},
		{name: "network rm", before: [][]string{{"network", "create", "net"}}, args: []string{"network", "rm", "net"}, again: []string{"not found"}, after: [][]string{{"network", "rm", "net"}}},
		{name: "network connect", before: [][]string{{"network", "create", "net"}, running}, args: []string{"network", "connect", "net", "one"}, again: []string{"already exists"}, after: [][]string{rm, {"network", "rm", "net"}}},
		{name: "builder prune", before: [][]string{{"build", "-q", "-t", "app", s.path("ctx")}, {"rmi", "app"}}, args: []string{"builder", "prune", "-af"}},
		{name: "container prune", before: [][]string{created}, args: []string{"container", "prune", "-f"}, after: [][]string{rm}},
	}
}

// killAtSteps kills c at one step after the other until it ends by itself.
func (s *stress) killAtSteps(t *testing.T, c stepCase, stride int) {
	for at := 1 + rand.IntN(stride); !t.Failed(); at += stride {
		for _, args := range c.before {
			s.must(args...)
		}
		run, err := stepped(s.command(c.args...), at)
		if err != nil {
			t.Fatal(err)
		}
		if run.hung || run.killed == "" && run.code != 0 {
			t.Errorf("hangs: %v, exit code %d: %s", run.hung, run.code, run.out)
		}
		if run.killed != "" {
			s.teu(c.again, c.args...)
			s.teu(nil, "run", "--rm", "--network", "none", "--pull", "never", "busybox", "true")
		}
		if out, ok := s.teu(nil, "system", "check"); !ok || !strings.Contains(out, "store: no problem found") {
			t.Errorf("the store:\n%s", out)
		}
		for _, args := range c.after {
			s.teu([]string{"No such", "no such", "not found"}, args...)
		}
		for _, what := range []string{"container", "volume", "network"} {
			s.teu(nil, what, "prune", "-f")
		}
		if left := s.left(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if t.Failed() {
			t.Errorf("after a kill at %s: exit code %d\n%s", run.killed, run.code, run.out)
		}
		if run.killed == "" {
			t.Logf("%d steps", run.steps)
			return
		}
	}
}

// left is what containers, volumes and networks have left.
func (s *stress) left() (found []string) {
	for _, pattern := range []string{"root/containers/*", "root/names/*", "root/volumes/*", "root/networks/*.json", "root/snapshots/*/*.json", "root/leases/[^.]*", "run/containers/*",
		"run/netns/*", "run/network/endpoints/[^.]*", "run/network/shares/*"} {
		files, err := filepath.Glob(s.path(pattern))
		if err != nil {
			s.t.Error(err)
		}
		found = append(found, files...)
	}
	return found
}
