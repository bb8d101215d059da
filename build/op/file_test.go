package op

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

// copyFlags are what the Dockerfile frontend sets for COPY.
func copyFlags(c *pb.FileActionCopy) *pb.FileActionCopy {
	c.FollowSymlink, c.DirCopyContents, c.AllowWildcard, c.AllowEmptyWildcard, c.CreateDestPath = true, true, true, true, true
	if c.Mode == 0 {
		c.Mode = -1
	}
	c.Timestamp = -1
	return c
}

func TestCopy(t *testing.T) {
	tree := []string{
		"d750 5:6 /dir", "f640 5:6 /dir/a.txt A", "f4755 7:8 /dir/b.sh B", "d700 5:6 /dir/sub", "f600 5:6 /dir/sub/c.txt C",
		"l 5:6 /dir/link a.txt", "f644 0:0 /file F", "l 0:0 /to-dir dir", "l 0:0 /to-file file", "p640 1:1 /dir/fifo",
	}
	passwd := []string{"f644 0:0 /etc/passwd root:x:0:0::/:\napp:x:33:44::/:\n", "f644 0:0 /etc/group root:x:0:\nstaff:x:55:\n"}
	for _, c := range []struct {
		name string
		dst  []string
		copy *pb.FileActionCopy
		want []string // what is new or different in dst
		err  string
	}{
		{
			name: "a file to a new name, with parents",
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/new/name"},
			want: []string{"d755 0:0 /new", "f644 0:0 /new/name F"},
		},
		{
			name: "a file into a directory that a slash announces",
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/new/"},
			want: []string{"d755 0:0 /new", "f644 0:0 /new/file F"},
		},
		{
			name: "a file into a directory that exists",
			dst:  []string{"d711 3:3 /there"},
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/there"},
			want: []string{"d711 3:3 /there", "f644 0:0 /there/file F"},
		},
		{
			name: "a file over a file",
			dst:  []string{"f600 9:9 /name old"},
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/name"},
			want: []string{"f644 0:0 /name F"},
		},
		{
			name: "a file through a link to a file: the link stays",
			dst:  []string{"l 0:0 /name real", "f600 9:9 /real old"},
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/name"},
			want: []string{"l 0:0 /name real", "f644 0:0 /real F"},
		},
		{
			name: "what is in a directory, owner, mode, links and FIFOs kept",
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/out"},
			want: []string{"d755 0:0 /out", "f640 5:6 /out/a.txt A", "f4755 7:8 /out/b.sh B", "p640 1:1 /out/fifo", "l 5:6 /out/link a.txt", "d700 5:6 /out/sub", "f600 5:6 /out/sub/c.txt C"},
		},
		{
			name: "a directory that exists keeps its mode and owner",
			dst:  []string{"d711 3:3 /out", "f600 3:3 /out/kept K", "d777 3:3 /out/sub"},
			copy: &pb.FileActionCopy{Src: "/dir/", Dest: "/out/"},
			want: []string{"d711 3:3 /out", "f640 5:6 /out/a.txt A", "f4755 7:8 /out/b.sh B", "p640 1:1 /out/fifo", "f600 3:3 /out/kept K", "l 5:6 /out/link a.txt", "d700 5:6 /out/sub", "f600 5:6 /out/sub/c.txt C"},
		},
		{
			name: "a link to a directory as source is followed",
			copy: &pb.FileActionCopy{Src: "/to-dir/sub", Dest: "/out/"},
			want: []string{"d755 0:0 /out", "f600 5:6 /out/c.txt C"},
		},
		{
			name: "a link to a file as source is followed and keeps its own name",
			copy: &pb.FileActionCopy{Src: "/to-file", Dest: "/out/"},
			want: []string{"d755 0:0 /out", "f644 0:0 /out/to-file F"},
		},
		{
			name: "an absolute link on the way to the destination means the root of the image",
			dst:  []string{"d755 0:0 /real", "l 0:0 /alias /real"},
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/alias/f"},
			want: []string{"l 0:0 /alias /real", "d755 0:0 /real", "f644 0:0 /real/f F"},
		},
		{
			name: "owner by number: the group is the same number",
			copy: &pb.FileActionCopy{Src: "/dir/sub", Dest: "/o/p", Owner: byID(12)},
			want: []string{"d755 12:12 /o", "d755 12:12 /o/p", "f600 12:12 /o/p/c.txt C"},
		},
		{
			name: "owner by name, in the files of the destination",
			dst:  passwd,
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/f", Owner: byName("app", "staff")},
			want: []string{"d755 0:0 /etc", passwd[1], passwd[0], "f644 33:55 /f F"},
		},
		{
			name: "an owner without group has the group of the passwd file",
			dst:  passwd,
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/f", Owner: byName("app", "")},
			want: []string{"d755 0:0 /etc", passwd[1], passwd[0], "f644 33:44 /f F"},
		},
		{
			name: "a name that nobody has is root",
			copy: &pb.FileActionCopy{Src: "/file", Dest: "/f", Owner: byName("nobody-knows", "me")},
			want: []string{"f644 0:0 /f F"},
		},
		{
			name: "mode holds for new parents, directories and files",
			copy: &pb.FileActionCopy{Src: "/dir/sub", Dest: "/p/q", Mode: 0o741},
			want: []string{"d741 0:0 /p", "d741 0:0 /p/q", "f741 5:6 /p/q/c.txt C"},
		},
		{
			name: "a symbolic mode: X is for directories and what is executable",
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o", ModeStr: "u=rwX,go=rX", ExcludePatterns: []string{"fifo", "link"}},
			want: []string{"d755 0:0 /o", "f644 5:6 /o/a.txt A", "f755 7:8 /o/b.sh B", "d755 5:6 /o/sub", "f644 5:6 /o/sub/c.txt C"},
		},
		{
			name: "wildcards",
			copy: &pb.FileActionCopy{Src: "/d*/*.txt", Dest: "/o/"},
			want: []string{"d755 0:0 /o", "f640 5:6 /o/a.txt A"},
		},
		{
			name: "a wildcard that matches nothing",
			copy: &pb.FileActionCopy{Src: "/*.none", Dest: "/o/"},
		},
		{
			name: "a directory matched by a wildcard gives its content",
			copy: &pb.FileActionCopy{Src: "/dir/s*", Dest: "/o"},
			want: []string{"d755 0:0 /o", "f600 5:6 /o/c.txt C"},
		},
		{
			name: "a path that is missing",
			copy: &pb.FileActionCopy{Src: "/none", Dest: "/o/"},
			err:  `"/none": not found`,
		},
		{
			name: "include patterns make only the directories they need",
			copy: &pb.FileActionCopy{Src: "/", Dest: "/o/", IncludePatterns: []string{"dir/*/c.txt"}},
			want: []string{"d755 0:0 /o", "d750 5:6 /o/dir", "d700 5:6 /o/dir/sub", "f600 5:6 /o/dir/sub/c.txt C"},
		},
		{
			name: "exclude patterns with an exception",
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o/", ExcludePatterns: []string{"*", "!sub/c.txt"}},
			want: []string{"d755 0:0 /o", "d700 5:6 /o/sub", "f600 5:6 /o/sub/c.txt C"},
		},
		{
			name: "a directory over a file is refused",
			dst:  []string{"f644 0:0 /o/sub x"},
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o/"},
			err:  "cannot copy the directory /dir/sub to /o/sub",
		},
		{
			name: "a file over a directory is refused",
			dst:  []string{"d755 0:0 /o/a.txt"},
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o/"},
			err:  "cannot replace the directory /o/a.txt",
		},
		{
			name: "unless everything may be replaced",
			dst:  []string{"d755 0:0 /o/a.txt/x", "f644 0:0 /o/sub x"},
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o/", AlwaysReplaceExistingDestPaths: true, IncludePatterns: []string{"a.txt", "sub"}},
			want: []string{"d755 0:0 /o", "f640 5:6 /o/a.txt A", "d700 5:6 /o/sub", "f600 5:6 /o/sub/c.txt C"},
		},
		{
			name: "a link in the destination is not entered by what is copied over it",
			dst:  []string{"d755 0:0 /etc", "l 0:0 /o/sub /etc"},
			copy: &pb.FileActionCopy{Src: "/dir", Dest: "/o/"},
			err:  "cannot copy the directory /dir/sub to /o/sub",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			src := state(t, e, tree...)
			for _, on := range []string{"scratch", "overlay"} {
				if on == "scratch" && c.dst != nil {
					continue
				}
				dst := Result{}
				if on == "overlay" {
					dst = state(t, e, append([]string{"d755 0:0 /base"}, c.dst...)...)
				}
				got, err := perform(t, e, action(copyFlags(c.copy)), dst, src)
				if c.err != "" {
					if err == nil || !strings.Contains(err.Error(), c.err) {
						t.Errorf("on %s: got %v, want %q", on, err, c.err)
					}
					continue
				}
				if err != nil {
					t.Errorf("on %s: %v", on, err)
					continue
				}
				want := c.want
				files := contents(t, e, got)
				if on == "overlay" {
					files = drop(files, "d755 0:0 /base")
				}
				if diff := cmp.Diff(want, files); diff != "" {
					t.Errorf("on %s (-want +got):\n%s", on, diff)
				}
			}
		})
	}
}

func drop(lines []string, line string) (left []string) {
	for _, l := range lines {
		if l != line {
			left = append(left, l)
		}
	}
	return left
}

func TestCopyWithoutDirContentsTakesTheDirectory(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "d750 5:6 /dir", "f640 5:6 /dir/a A")
	for dest, want := range map[string][]string{
		"/new":  {"d750 5:6 /new", "f640 5:6 /new/a A"},
		"/new/": {"d755 0:0 /new", "d750 5:6 /new/dir", "f640 5:6 /new/dir/a A"},
	} {
		got, err := perform(t, e, action(&pb.FileActionCopy{Src: "/dir", Dest: dest, Mode: -1, Timestamp: -1, CreateDestPath: true}), Result{}, src)
		if err != nil {
			t.Fatal(err)
		}
		wantContents(t, e, got, want...)
	}
	_, err := perform(t, e, action(&pb.FileActionCopy{Src: "/dir", Dest: "/no/parent", Mode: -1, Timestamp: -1}), Result{}, src)
	if err == nil {
		t.Error("a parent was made although it was not asked for")
	}
}

// A sparse file of an image is not made a full one.
func TestCopyKeepsHoles(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "f644 0:0 /sparse first", "f644 0:0 /hole ", "f644 0:0 /full x")
	const size = 1 << 33
	dir := e.Store.Layers.Path(src.Layers[0].ID)
	f, err := os.OpenFile(filepath.Join(dir, "sparse"), os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("last"), size-4)
	}
	if err := errors.Join(err, f.Close(), os.Truncate(filepath.Join(dir, "hole"), size)); err != nil {
		t.Fatal(err)
	}
	got, err := perform(t, e, action(copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/o/"})), state(t, e, "d755 0:0 /base"), src)
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.View(t.Context(), console(), got)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for name, data := range map[string]map[int64]string{"sparse": {0: "first", size - 4: "last"}, "hole": nil} {
		f, err := v.Dir.OpenFile("/o/"+name, unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil || st.Size != size || st.Blocks > 1<<12 {
			t.Errorf("%s: %d bytes in %d blocks, %v", name, st.Size, st.Blocks, err)
		}
		for at, text := range data {
			b := make([]byte, len(text))
			if _, err := f.ReadAt(b, at); err != nil || string(b) != text {
				t.Errorf("%s: %q at %d, %v", name, b, at, err)
			}
		}
	}
}

func TestCopyKeepsTimesXattrsAndHardLinks(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "d755 0:0 /d", "f644 0:0 /d/a A", "h /d/b /d/a", "f755 0:0 /d/cap x")
	id := src.Layers[0].ID
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")
	file := filepath.Join(e.Store.Layers.Path(id), "d/cap")
	for key, value := range map[string][]byte{"security.capability": capability, "user.note": []byte("n"), "trusted.overlay.opaque": []byte("y")} {
		if err := unix.Setxattr(file, key, value, 0); err != nil {
			t.Fatal(err)
		}
	}
	for _, base := range []Result{{}, state(t, e, "d755 0:0 /base")} {
		got, err := perform(t, e, action(copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/o/"})), base, src)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.View(t.Context(), console(), got)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		a, errA := v.Dir.Stat("/o/d/a")
		b, errB := v.Dir.Stat("/o/d/b")
		if errA != nil || errB != nil || !os.SameFile(a, b) {
			t.Errorf("hard link: %v, %v", errA, errB)
		}
		for _, p := range []string{"/o", "/o/d", "/o/d/a", "/o/d/cap"} {
			if fi, err := v.Dir.Stat(p); err != nil || !fi.ModTime().Equal(longAgo) {
				t.Errorf("time of %s: %v, %v", p, fi.ModTime(), err)
			}
		}
		upper := filepath.Join(e.Store.Layers.Path(got.Layers[len(got.Layers)-1].ID), "o/d/cap")
		buf := make([]byte, 100)
		if n, err := unix.Getxattr(upper, "security.capability", buf); err != nil || string(buf[:n]) != string(capability) {
			t.Errorf("capability: %q, %v", buf[:max(n, 0)], err)
		}
		if n, err := unix.Getxattr(upper, "user.note", buf); err != nil || string(buf[:n]) != "n" {
			t.Errorf("attribute: %q, %v", buf[:max(n, 0)], err)
		}
		if _, err := unix.Getxattr(upper, "trusted.overlay.opaque", buf); err != unix.ENODATA {
			t.Errorf("overlay's own attribute was copied: %v", err)
		}
	}
}

func TestCopyWithTimestamp(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "d755 0:0 /d", "f644 0:0 /d/a A")
	c := copyFlags(&pb.FileActionCopy{Src: "/", Dest: "/x/y/"})
	c.Timestamp = 1_500_000_000_000_000_000
	got, err := perform(t, e, action(c), Result{}, src)
	if err != nil {
		t.Fatal(err)
	}
	v, err := e.View(t.Context(), console(), got)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for _, p := range []string{"/x", "/x/y", "/x/y/d", "/x/y/d/a"} {
		if fi, err := v.Dir.Stat(p); err != nil || fi.ModTime().Unix() != 1_500_000_000 {
			t.Errorf("time of %s: %v, %v", p, fi.ModTime(), err)
		}
	}
}

func TestOtherActions(t *testing.T) {
	base := []string{"d755 0:0 /d", "f640 3:4 /d/f old", "l 0:0 /l d", "l 0:0 /abs /d", "l 0:0 /dangling /nothing", "p600 0:0 /fifo"}
	for _, c := range []struct {
		name   string
		action any
		add    []string
		gone   []string
		err    string
	}{
		{name: "mkdir", action: &pb.FileActionMkDir{Path: "/n", Mode: 0o710, Timestamp: -1}, add: []string{"d710 0:0 /n"}},
		{name: "mkdir with parents and owner", action: &pb.FileActionMkDir{Path: "/n/m", Mode: 0o710, MakeParents: true, Owner: byID(5), Timestamp: -1}, add: []string{"d710 5:5 /n", "d710 5:5 /n/m"}},
		{name: "mkdir without its parent", action: &pb.FileActionMkDir{Path: "/n/m", Mode: 0o710, Timestamp: -1}, err: "no such file"},
		{name: "mkdir of what is there changes nothing", action: &pb.FileActionMkDir{Path: "/d", Mode: 0o700, Owner: byID(5), Timestamp: -1}},
		{name: "mkdir through a link", action: &pb.FileActionMkDir{Path: "/abs/n", Mode: 0o700, Timestamp: -1}, add: []string{"d700 0:0 /d/n"}},
		{name: "mkfile", action: &pb.FileActionMkFile{Path: "/n", Mode: 0o666, Data: []byte("N"), Timestamp: -1}, add: []string{"f666 0:0 /n N"}},
		{name: "mkfile over a file keeps nothing of it", action: &pb.FileActionMkFile{Path: "/l/f", Mode: 0o666, Data: []byte("N"), Timestamp: -1}, gone: []string{"f640 3:4 /d/f old"}, add: []string{"f666 0:0 /d/f N"}},
		{name: "mkfile without its parent", action: &pb.FileActionMkFile{Path: "/n/m", Mode: 0o666, Timestamp: -1}, err: "no such file"},
		{name: "mkfile in the place of a FIFO", action: &pb.FileActionMkFile{Path: "/fifo", Mode: 0o666, Data: []byte("N"), Timestamp: -1}, gone: []string{"p600 0:0 /fifo"}, add: []string{"f666 0:0 /fifo N"}},
		{name: "mkfile in the place of a directory", action: &pb.FileActionMkFile{Path: "/l", Mode: 0o666, Timestamp: -1}, err: "is a directory"},
		{name: "mkfile in the place of everything", action: &pb.FileActionMkFile{Path: "/", Mode: 0o666, Timestamp: -1}, err: "is a directory"},
		{name: "symlink", action: &pb.FileActionSymlink{Oldpath: "../x", Newpath: "/d/s", Owner: byID(4), Timestamp: -1}, add: []string{"l 4:4 /d/s ../x"}},
		{name: "symlink over a file", action: &pb.FileActionSymlink{Oldpath: "x", Newpath: "/d/f", Timestamp: -1}, err: "file exists"},
		{name: "rm of a directory", action: &pb.FileActionRm{Path: "/d"}, gone: []string{"d755 0:0 /d", "f640 3:4 /d/f old"}},
		{name: "rm of a link leaves what it leads to", action: &pb.FileActionRm{Path: "/l"}, gone: []string{"l 0:0 /l d"}},
		{name: "rm of what is not there", action: &pb.FileActionRm{Path: "/none"}, err: "no such file"},
		{name: "unless that is allowed", action: &pb.FileActionRm{Path: "/none/none", AllowNotFound: true}},
		{name: "rm with wildcards", action: &pb.FileActionRm{Path: "/[la]*", AllowWildcard: true}, gone: []string{"l 0:0 /l d", "l 0:0 /abs /d"}},
		{name: "rm of the root", action: &pb.FileActionRm{Path: "/.."}, err: "root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := newEnv(t)
			in := state(t, e, base...)
			want := contents(t, e, in)
			got, err := perform(t, e, action(c.action), in)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, g := range c.gone {
				want = drop(want, g)
			}
			files := contents(t, e, got)
			for _, a := range c.add {
				if len(drop(files, a)) == len(files) {
					t.Errorf("%q is missing", a)
				}
				files = drop(files, a)
			}
			if diff := cmp.Diff(want, files); diff != "" {
				t.Errorf("the rest (-want +got):\n%s", diff)
			}
			wantContents(t, e, in, contents(t, e, in)...) // and it can be read again
		})
	}
}

func TestActionsInARow(t *testing.T) {
	e := newEnv(t)
	src := state(t, e, "f644 0:0 /f F")
	o := &pb.FileOp{Actions: []*pb.FileAction{
		{Input: 0, SecondaryInput: -1, Output: -1, Action: &pb.FileAction_Mkfile{Mkfile: &pb.FileActionMkFile{Path: "/etc/passwd", Mode: 0o644, Data: []byte("app:x:7:8::/:\n"), Timestamp: -1}}},
		{Input: 2, SecondaryInput: 1, Output: 0, Action: &pb.FileAction_Copy{Copy: copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/g", Owner: &pb.ChownOpt{
			User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "app", Input: 2}}}}})}},
		{Input: -1, SecondaryInput: 3, Output: 1, Action: &pb.FileAction_Copy{Copy: copyFlags(&pb.FileActionCopy{Src: "/g", Dest: "/h"})}},
	}}
	op, err := e.Op(vertex(&pb.Op{Op: &pb.Op_File{File: o}}, 2))
	if err != nil {
		t.Fatal(err)
	}
	out, err := op.Run(t.Context(), console(), []Result{state(t, e, "d755 0:0 /etc"), src})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) != 2 || len(out[0].Layers) != 2 {
		t.Fatalf("got %+v, want two outputs, the first with one new layer", out)
	}
	wantContents(t, e, out[0], "d755 0:0 /etc", "f644 0:0 /etc/passwd app:x:7:8::/:\n", "f644 7:8 /g F")
	wantContents(t, e, out[1], "f644 7:8 /h F")
}

func TestBadIndexesAreRefused(t *testing.T) {
	e := newEnv(t)
	for name, a := range map[string]*pb.FileAction{
		"input":     {Input: 5, SecondaryInput: -1},
		"itself":    {Input: 1, SecondaryInput: -1},
		"secondary": {Input: 0, SecondaryInput: 9},
		"output":    {Input: 0, SecondaryInput: -1, Output: 3},
		"negative":  {Input: -2, SecondaryInput: -1},
		"owner":     {Input: 0, SecondaryInput: -1, Action: &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d", Owner: &pb.ChownOpt{User: &pb.UserOpt{User: &pb.UserOpt_ByName{ByName: &pb.NamedUserOpt{Name: "x", Input: 7}}}}}}},
	} {
		if a.Action == nil {
			a.Action = &pb.FileAction_Mkdir{Mkdir: &pb.FileActionMkDir{Path: "/d"}}
		}
		if _, err := perform(t, e, &pb.FileOp{Actions: []*pb.FileAction{a}}, Result{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestHostileTrees lets links in images and contexts point at the host. A sentinel there must
// neither be read nor changed.
func TestHostileTrees(t *testing.T) {
	host := t.TempDir()
	sentinel := filepath.Join(host, "sentinel")
	up := strings.Repeat("../", 40)
	bad := []string{
		"l 0:0 /abs " + host, "l 0:0 /rel " + up[:len(up)-1] + host, "l 0:0 /file " + sentinel,
		"l 0:0 /proc1 /proc/1/root", "l 0:0 /self /proc/self/root" + host, "l 0:0 /loop loop",
		"l 0:0 /hop abs/sentinel", "d755 0:0 /d",
	}
	e := newEnv(t)
	for _, c := range []struct {
		name   string
		action any
	}{
		{"copy to an absolute link", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/abs/sentinel"})},
		{"copy into a link upwards", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/rel/"})},
		{"copy over a link to a file", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/file"})},
		{"copy through proc", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/proc1/" + host + "/sentinel"})},
		{"copy through self", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/self/sentinel"})},
		{"copy with dots", copyFlags(&pb.FileActionCopy{Src: "/f", Dest: "/d/" + up + host + "/sentinel"})},
		{"copy from a link", copyFlags(&pb.FileActionCopy{Src: "/links/abs/sentinel", Dest: "/d/stolen"})},
		{"copy from a link to a link", copyFlags(&pb.FileActionCopy{Src: "/links/hop", Dest: "/d/stolen"})},
		{"copy from a link by wildcard", copyFlags(&pb.FileActionCopy{Src: "/links/rel/*", Dest: "/d/stolen/"})},
		{"copy from dots", copyFlags(&pb.FileActionCopy{Src: "/" + up + host + "/sentinel", Dest: "/d/stolen"})},
		{"mkfile", &pb.FileActionMkFile{Path: "/abs/sentinel", Mode: 0o644, Data: []byte("changed"), Timestamp: -1}},
		{"mkfile through a link", &pb.FileActionMkFile{Path: "/file", Mode: 0o644, Data: []byte("changed"), Timestamp: -1}},
		{"mkfile in a loop", &pb.FileActionMkFile{Path: "/loop/x", Mode: 0o644, Timestamp: -1}},
		{"mkdir", &pb.FileActionMkDir{Path: "/abs/dir", Mode: 0o755, MakeParents: true, Timestamp: -1}},
		{"symlink", &pb.FileActionSymlink{Oldpath: "x", Newpath: "/rel/link", Timestamp: -1}},
		{"rm", &pb.FileActionRm{Path: "/abs/sentinel", AllowNotFound: true}},
		{"rm with wildcards", &pb.FileActionRm{Path: "/rel/*", AllowWildcard: true, AllowNotFound: true}},
		{"rm upwards", &pb.FileActionRm{Path: "/d/" + up + host + "/sentinel", AllowNotFound: true}},
		{"owner from a hostile passwd", &pb.FileActionMkDir{Path: "/own", Mode: 0o755, Owner: byName("root", ""), Timestamp: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(sentinel, []byte("secret"), 0o600); err != nil {
				t.Fatal(err)
			}
			var links []string
			for _, l := range bad {
				links = append(links, strings.Replace(l, " /", " /links/", 1))
			}
			src := state(t, e, append(links, "f644 0:0 /f F")...)
			dst := state(t, e, append(bad, "l 0:0 /etc/passwd "+sentinel)...)
			inputs := []Result{dst}
			if _, ok := c.action.(*pb.FileActionCopy); ok {
				inputs = append(inputs, src)
			}
			got, err := perform(t, e, action(c.action), inputs...)
			t.Logf("it says: %v", err)
			entries, rerr := os.ReadDir(host)
			if rerr != nil || len(entries) != 1 {
				t.Errorf("the host's directory has %d entries, %v", len(entries), rerr)
			}
			if data, err := os.ReadFile(sentinel); string(data) != "secret" {
				t.Errorf("the sentinel is %q, %v", data, err)
			}
			if err != nil {
				return
			}
			v, err := e.View(t.Context(), console(), got)
			if err != nil {
				t.Fatal(err)
			}
			defer v.Close()
			for _, p := range []string{"/d/stolen", "/d/stolen/sentinel"} {
				if data, err := v.Dir.ReadFile(p, 100); err == nil && string(data) == "secret" {
					t.Errorf("%s was stolen", p)
				}
			}
		})
	}
}

func TestDevicesInAnImageAreNotOpened(t *testing.T) {
	e := newEnv(t)
	m, err := e.prepare(t.Context(), console(), Result{})
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(m.snap.Upper, "zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))); err != nil {
		t.Fatal(err)
	}
	in, err := m.commit(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// A file takes its place; copying it copies the node, and reads nothing.
	for name, c := range map[string]struct {
		action any
		inputs []Result
		want   fs.FileMode
	}{
		"/zero": {&pb.FileActionMkFile{Path: "/zero", Mode: 0o644, Data: []byte("x"), Timestamp: -1}, []Result{in}, 0},
		"/copy": {copyFlags(&pb.FileActionCopy{Src: "/zero", Dest: "/copy"}), []Result{{}, in}, fs.ModeDevice | fs.ModeCharDevice},
	} {
		got, err := perform(t, e, action(c.action), c.inputs...)
		if err != nil {
			t.Fatal(err)
		}
		v, err := e.View(t.Context(), console(), got)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		if fi, err := v.Dir.Lstat(name); err != nil || fi.Mode().Type() != c.want {
			t.Errorf("%s is %v, %v", name, fi, err)
		}
	}
}
