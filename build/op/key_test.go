package op

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/solver"
)

func keyFor(t *testing.T, o any, inputs int) solver.Key {
	t.Helper()
	e := &Env{}
	var p pb.Op
	switch o := o.(type) {
	case *pb.FileOp:
		p.Op = &pb.Op_File{File: o}
	case *pb.ExecOp:
		p.Op = &pb.Op_Exec{Exec: o}
	}
	op, err := e.Op(vertex(&p, inputs))
	if err != nil {
		t.Fatal(err)
	}
	k, err := op.Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if k.Digest.Validate() != nil || k.Content.Validate() != nil {
		t.Fatalf("key %+v", k)
	}
	return k
}

// TestCopyKeys: the path of a source counts with the record of its input, but not with its content.
func TestCopyKeys(t *testing.T) {
	key := func(c *pb.FileActionCopy) solver.Key { return keyFor(t, action(copyFlags(c)), 2) }
	a := key(&pb.FileActionCopy{Src: "/a/x", Dest: "/d"})
	for _, c := range []struct {
		name                string
		copy                *pb.FileActionCopy
		definition, content bool // the same as a's
	}{
		{"the same", &pb.FileActionCopy{Src: "/a/x", Dest: "/d"}, true, true},
		{"another directory", &pb.FileActionCopy{Src: "/b/x", Dest: "/d"}, false, true},
		{"another name", &pb.FileActionCopy{Src: "/a/y", Dest: "/d"}, false, false},
		{"another destination", &pb.FileActionCopy{Src: "/a/x", Dest: "/e"}, false, false},
		{"another owner", &pb.FileActionCopy{Src: "/a/x", Dest: "/d", Owner: byID(1)}, false, false},
		{"another mode", &pb.FileActionCopy{Src: "/a/x", Dest: "/d", Mode: 0o600}, false, false},
		{"patterns", &pb.FileActionCopy{Src: "/a/x", Dest: "/d", ExcludePatterns: []string{"z"}}, false, false},
	} {
		k := key(c.copy)
		if (k.Digest == a.Digest) != c.definition || (k.Content == a.Content) != c.content {
			t.Errorf("%s: the same definition %v, content %v", c.name, k.Digest == a.Digest, k.Content == a.Content)
		}
	}
}

// TestTargetsHaveNoSelectors: an input that is changed counts whole, also where a name is looked
// up in it or a file is copied from it.
func TestTargetsHaveNoSelectors(t *testing.T) {
	e := newEnv(t)
	self := action(copyFlags(&pb.FileActionCopy{Src: "/a/x", Dest: "/d", Owner: byName("u", "")}))
	self.Actions[0].SecondaryInput = 0
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: self}}, 1))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := op.ContentKeys(t.Context(), console(), []Result{{}})
	if err != nil || len(keys) != 1 || keys[0] != "" {
		t.Errorf("got %q, %v", keys, err)
	}
}

func TestExecKeys(t *testing.T) {
	base := func(edit func(*pb.ExecOp)) solver.Key {
		o := command("make", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "/a"},
			&pb.Mount{Dest: "/c", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "ns/mine"}},
			&pb.Mount{Dest: "/s", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "s"}})
		o.Meta.ExtraHosts = []*pb.HostIP{{Host: "h", IP: "1.1.1.1"}}
		o.Meta.ProxyEnv = &pb.ProxyEnv{HttpProxy: "a"}
		o.Secretenv = []*pb.SecretEnv{{ID: "x", Name: "X"}}
		edit(o)
		return keyFor(t, o, 2)
	}
	a := base(func(*pb.ExecOp) {})
	for _, c := range []struct {
		name                string
		edit                func(*pb.ExecOp)
		definition, content bool
	}{
		{"address of an extra host", func(o *pb.ExecOp) { o.Meta.ExtraHosts[0].IP = "2.2.2.2" }, true, true},
		{"name of an extra host", func(o *pb.ExecOp) { o.Meta.ExtraHosts[0].Host = "g" }, false, false},
		{"proxy", func(o *pb.ExecOp) { o.Meta.ProxyEnv = nil }, true, true},
		{"ID of a cache", func(o *pb.ExecOp) { o.Mounts[2].CacheOpt.ID = "ns/other" }, true, true},
		{"sharing of a cache", func(o *pb.ExecOp) { o.Mounts[2].CacheOpt.Sharing = pb.CacheSharingOpt_LOCKED }, true, true},
		{"target of a cache", func(o *pb.ExecOp) { o.Mounts[2].Dest = "/d" }, false, false},
		{"selector of a mount", func(o *pb.ExecOp) { o.Mounts[1].Selector = "/b" }, false, true},
		{"secret of the environment", func(o *pb.ExecOp) { o.Secretenv[0].Name = "Y" }, false, false},
		{"command", func(o *pb.ExecOp) { o.Meta.Args = []string{"x"} }, false, false},
		{"environment", func(o *pb.ExecOp) { o.Meta.Env = []string{"Q=1"} }, false, false},
		{"user", func(o *pb.ExecOp) { o.Meta.User = "u" }, false, false},
		{"network", func(o *pb.ExecOp) { o.Network = pb.NetMode_UNSET }, false, false},
	} {
		k := base(c.edit)
		if (k.Digest == a.Digest) != c.definition || (k.Content == a.Content) != c.content {
			t.Errorf("%s: the same definition %v, content %v", c.name, k.Digest == a.Digest, k.Content == a.Content)
		}
	}
}

// TestExecContentRules: A7.12 of the notes, "the sneaky file".
func TestExecContentRules(t *testing.T) {
	for _, c := range []struct {
		name  string
		mount *pb.Mount
		want  bool
		err   bool
	}{
		{"no output", &pb.Mount{Dest: "/m", Input: 1, Output: -1, Selector: "/a"}, true, false},
		{"read-only", &pb.Mount{Dest: "/m", Input: 1, Output: 1, Selector: "/a", Readonly: true}, true, false},
		{"all of it", &pb.Mount{Dest: "/m", Input: 1, Output: 1}, true, false},
		{"a part that comes out changed", &pb.Mount{Dest: "/m", Input: 1, Output: 1, Selector: "/a"}, false, false},
		{"switched off", &pb.Mount{Dest: "/m", Input: 1, Output: -1, ContentCache: pb.MountContentCache_OFF}, false, false},
		{"forced where it is wrong", &pb.Mount{Dest: "/m", Input: 1, Output: 1, Selector: "/a", ContentCache: pb.MountContentCache_ON}, false, true},
		{"cache with a base", &pb.Mount{Dest: "/m", Input: 1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "x"}}, true, false},
		{"tmpfs with an input", &pb.Mount{Dest: "/m", Input: 1, Output: -1, MountType: pb.MountType_TMPFS}, false, false},
	} {
		e := &Env{}
		x, err := e.execOp(vertex(&pb.Op{}, 2), command("", c.mount))
		if (err != nil) != c.err {
			t.Errorf("%s: %v", c.name, err)
		}
		if err == nil && (x.deps[1].byContent != c.want || x.deps[0].byContent) {
			t.Errorf("%s: %+v", c.name, x.deps)
		}
	}
	// One mount of an input that is not safe decides for all of them.
	e := &Env{}
	x, err := e.execOp(vertex(&pb.Op{}, 2), command("", &pb.Mount{Dest: "/m", Input: 1, Output: 1, Selector: "/a"}, &pb.Mount{Dest: "/n", Input: 1, Output: -1}))
	if err != nil || x.deps[1].byContent {
		t.Errorf("two mounts of one input: %+v, %v", x.deps, err)
	}
}

func TestPlainRunKeyHasNoMounts(t *testing.T) {
	plain := keyFor(t, command("x"), 1)
	o := command("x")
	o.Mounts[0].Readonly = true
	if keyFor(t, o, 1).Digest == plain.Digest {
		t.Error("a read-only root has the key of a plain one")
	}
}
