package op

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/test/privilege"
)

// newEnv returns an Env on an empty store.
func newEnv(t *testing.T) *Env {
	t.Helper()
	privilege.NeedRoot(t)
	dir := t.TempDir()
	store, err := cache.Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{
		Store:  store,
		Dir:    filepath.Join(dir, "root", "build"),
		RunDir: filepath.Join(dir, "run", "build"),
		Locals: map[string]string{},
		Warn:   func(format string, args ...any) { t.Logf("warning: "+format, args...) },
	}
	for _, d := range []string{e.Dir, e.RunDir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func console() *solver.Console { return solver.NewConsole("", "", nil) }

var longAgo = time.Unix(1_000_000_000, 0)

// plant makes files below dir. A file is one line: kind and mode, owner, path, and the rest:
// "d755 0:0 /a", "f644 1:2 /a/f some text", "l 0:0 /l target", "p600 0:0 /fifo", "h /new /old".
func plant(t *testing.T, dir string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if err := plantOne(dir, line); err != nil {
			t.Fatalf("planting %q: %v", line, err)
		}
	}
	// Deepest first, or making files would change the times of directories again.
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return setTimes(unix.AT_FDCWD, p, longAgo)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func plantOne(dir, line string) error {
	f := strings.SplitN(line, " ", 4)
	if f[0] == "h" {
		return os.Link(filepath.Join(dir, f[2]), filepath.Join(dir, f[1]))
	}
	rest := ""
	if len(f) > 3 {
		rest = f[3]
	}
	var mode uint32
	var o owner
	if _, err := fmt.Sscanf(f[1], "%d:%d", &o.uid, &o.gid); err != nil {
		return err
	}
	fmt.Sscanf(f[0][1:], "%o", &mode)
	p := filepath.Join(dir, f[2])
	err := os.MkdirAll(filepath.Dir(p), 0o755)
	switch f[0][0] {
	case 'd':
		err = errors.Join(err, os.MkdirAll(p, 0o755))
	case 'f':
		err = errors.Join(err, os.WriteFile(p, []byte(rest), 0o600))
	case 'l':
		return errors.Join(err, os.Symlink(rest, p), os.Lchown(p, o.uid, o.gid))
	case 'p':
		err = errors.Join(err, unix.Mkfifo(p, 0o600))
	}
	return errors.Join(err, os.Lchown(p, o.uid, o.gid), unix.Chmod(p, mode))
}

// list describes what is in d as plant takes it, without the root.
func list(t *testing.T, d *rootfs.Dir) (lines []string) {
	t.Helper()
	dir := fmt.Sprintf("/proc/self/fd/%d/.", d.Fd())
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(p, strings.TrimSuffix(dir, "/."))
		if rel = strings.TrimPrefix(rel, "/."); rel == "" {
			return nil
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		line := ""
		own := fmt.Sprintf("%d:%d", st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			line = fmt.Sprintf("d%o %s %s", st.Mode&0o7777, own, rel)
		case unix.S_IFREG:
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			if len(data) > 200 {
				data = fmt.Appendf(nil, "(%d bytes)", len(data))
			}
			line = strings.TrimSuffix(fmt.Sprintf("f%o %s %s %s", st.Mode&0o7777, own, rel, data), " ")
		case unix.S_IFLNK:
			target, err := os.Readlink(p)
			if err != nil {
				return err
			}
			line = fmt.Sprintf("l %s %s %s", own, rel, target)
		case unix.S_IFIFO:
			line = fmt.Sprintf("p%o %s %s", st.Mode&0o7777, own, rel)
		default:
			line = fmt.Sprintf("? %s %o", rel, st.Mode)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(strings.Fields(a)[2], strings.Fields(b)[2]) })
	return lines
}

// state returns a Result with the given files.
func state(t *testing.T, e *Env, lines ...string) Result {
	t.Helper()
	return stateOn(t, e, Result{}, lines...)
}

// stateOn adds a layer with the given files.
func stateOn(t *testing.T, e *Env, base Result, lines ...string) Result {
	t.Helper()
	m, err := e.prepare(t.Context(), console(), base)
	if err != nil {
		t.Fatal(err)
	}
	if len(base.Layers) == 0 {
		plant(t, m.snap.Upper, lines...)
	} else {
		d, err := m.open()
		if err != nil {
			t.Fatal(err)
		}
		plant(t, fmt.Sprintf("/proc/self/fd/%d/.", d.Fd()), lines...)
	}
	r, err := m.commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func contents(t *testing.T, e *Env, r Result) []string {
	t.Helper()
	v, err := e.View(t.Context(), console(), r)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	return list(t, v.Dir)
}

func wantContents(t *testing.T, e *Env, r Result, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, contents(t, e, r)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

func vertex(o *pb.Op, inputs int) *graph.Vertex {
	return &graph.Vertex{
		Op:       o,
		Inputs:   make([]graph.Edge, inputs),
		Metadata: &pb.OpMetadata{},
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
	}
}

// perform runs one file operation and returns its first output.
func perform(t *testing.T, e *Env, o *pb.FileOp, inputs ...Result) (Result, error) {
	t.Helper()
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: o}}, len(inputs)))
	if err != nil {
		return Result{}, err
	}
	out, err := op.Run(t.Context(), console(), inputs)
	if err != nil {
		return Result{}, err
	}
	return out[0], nil
}

// action is one action on input 0, copying from input 1.
func action(a any) *pb.FileOp {
	fa := &pb.FileAction{Input: 0, SecondaryInput: -1, Output: 0}
	switch a := a.(type) {
	case *pb.FileActionCopy:
		fa.SecondaryInput = 1
		fa.Action = &pb.FileAction_Copy{Copy: a}
	case *pb.FileActionMkFile:
		fa.Action = &pb.FileAction_Mkfile{Mkfile: a}
	case *pb.FileActionMkDir:
		fa.Action = &pb.FileAction_Mkdir{Mkdir: a}
	case *pb.FileActionSymlink:
		fa.Action = &pb.FileAction_Symlink{Symlink: a}
	case *pb.FileActionRm:
		fa.Action = &pb.FileAction_Rm{Rm: a}
	default:
		panic(fmt.Sprintf("%T is no action", a))
	}
	return &pb.FileOp{Actions: []*pb.FileAction{fa}}
}

func byName(user, group string) *pb.ChownOpt {
	o := &pb.ChownOpt{}
	if user != "" {
		o.User = &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: user, Input: 0}}}
	}
	if group != "" {
		o.Group = &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: group, Input: 0}}}
	}
	return o
}

func byID(uid uint32) *pb.ChownOpt {
	return &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByID{ByID: uid}}}
}

func snapshotIDs(ids *[]string) func(snapshot.Info) error {
	return func(i snapshot.Info) error {
		*ids = append(*ids, i.ID)
		return nil
	}
}

// openSource opens a directory of the host as a source.
func openSource(dir string) (*source, error) {
	d, err := rootfs.Open(dir)
	return &source{Dir: d}, err
}
