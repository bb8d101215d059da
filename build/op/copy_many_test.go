package op

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/build/solver"
)

// bigTree is 20 directories of 40 files each, with everything that a copy has to keep.
func bigTree() (lines []string) {
	for d := range 20 {
		dir := fmt.Sprintf("/t/d%02d", d)
		lines = append(lines, fmt.Sprintf("d%o %d:7 %s", 0o700|d%8, d, dir))
		for f := range 40 {
			mode := []int{0o644, 0o600, 0o4755, 0o2711, 0o777, 0o400}[f%6]
			lines = append(lines, fmt.Sprintf("f%o %d:%d %s/f%02d %s", mode, d, f, dir, f, strings.Repeat("x", f)))
		}
		lines = append(lines, fmt.Sprintf("l 3:4 %s/link f00", dir), fmt.Sprintf("p640 5:5 %s/pipe", dir))
	}
	// Names of one file, far from each other.
	lines = append(lines, "f644 1:1 /t/first one file", "d755 0:0 /t/deep/er/still")
	for d := range 20 {
		lines = append(lines, fmt.Sprintf("h /t/d%02d/same /t/first", d))
	}
	return append(lines, "h /t/deep/er/still/same /t/first")
}

// TestCopyOfManyFiles copies a tree beside and into what is there: into the upper itself where
// directories are new, through the overlay where they are not.
func TestCopyOfManyFiles(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, bigTree()...)
	want := contents(t, e, src)
	for name, base := range map[string]Result{
		"on nothing":            {},
		"on another tree":       state(t, e, "d755 0:0 /base"),
		"on directories of it":  state(t, e, "d755 0:0 /t/d00", "d755 0:0 /t/d19", "d755 0:0 /t/deep", "f600 0:0 /t/d19/f39 other"),
		"on itself":             src,
		"where a group is kept": state(t, e, "d2775 0:99 /t"),
	} {
		t.Run(name, func(t *testing.T) {
			got, err := perform(t, e, action(copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/"})), base, src)
			if err != nil {
				t.Fatal(err)
			}
			var lines []string
			for _, line := range contents(t, e, got) {
				if !strings.HasSuffix(line, " /base") {
					lines = append(lines, line)
				}
			}
			if diff := cmp.Diff(want, lines); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
			v, err := e.View(t.Context(), console(), got)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			first, err := v.Dir.Stat("/t/first")
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{"/t/d00/same", "/t/d11/same", "/t/d19/same", "/t/deep/er/still/same"} {
				if fi, err := v.Dir.Stat(p); err != nil || !os.SameFile(first, fi) {
					t.Errorf("%s is not a link to /t/first: %v", p, err)
				}
			}
		})
	}
}

// TestActionsAfterACopy: what was written below an overlay is there for those who use it next.
func TestActionsAfterACopy(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "d755 0:0 /a/b", "f644 0:0 /a/b/f F", "f644 0:0 /a/g G")
	base := state(t, e, "d755 0:0 /base")
	last := &pb.FileAction{Input: 2, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: copyFlags(&pb.FileActionCopy{Src: "/a/g", Dest: "/a/b/f"})}}
	o := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: 1, Output: -1, Action: &pb.FileAction_Copy{Copy: copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/"})}},
		{Input: 2, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Rm{Rm: &pb.FileActionRm{Path: "/a/g"}}},
		last,
	}}
	last.Input = 3
	got, err := perform(t, e, o, base, src)
	if err != nil {
		t.Fatal(err)
	}
	wantContents(t, e, got, "d755 0:0 /a", "d755 0:0 /a/b", "f644 0:0 /a/b/f G", "d755 0:0 /base")
}

func TestCopyEndsWithTheFirstError(t *testing.T) {
	e := newEnv(t)
	src, dir := contextOf(t, e, nil, bigTree()...)
	a := action(copyFlags(&pb.FileActionCopy{Src: "/t", Dest: "/o"}))
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: a}}, 2))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := op.ContentKeys(t.Context(), console(), []Result{{}, src}); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "t/d17/f11")); err != nil {
		t.Fatal(err)
	}
	want := "a file in /t/d17 of the local directory context vanished"
	if _, err := op.Run(t.Context(), console(), []Result{{}, src}); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %q", err, want)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := op.Run(canceled, solver.NewConsole("", "", nil), []Result{{}, src}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want a cancellation", err)
	}
}

func TestHandsDoAllOrFail(t *testing.T) {
	names := make([]string, 1000)
	for _, h := range []hands{nil, make(hands, 3)} {
		var done atomic.Int64
		if err := h.share(t.Context(), names, func(context.Context, string) error { done.Add(1); return nil }); err != nil || done.Load() != 1000 {
			t.Errorf("%d hands: %d of 1000 done, %v", cap(h), done.Load(), err)
		}
		bad := errors.New("bad")
		done.Store(0)
		err := h.share(t.Context(), names, func(ctx context.Context, _ string) error {
			if done.Add(1) == 100 {
				return bad
			}
			return ctx.Err()
		})
		if err != bad || len(h) != 0 {
			t.Errorf("%d hands: got %v, %d still busy", cap(h), err, len(h))
		}
	}
}
