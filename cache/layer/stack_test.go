package layer_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// mounted shows the union of lowers at a place of the test.
func mounted(t testing.TB, o mount.Overlay) string {
	t.Helper()
	target := t.TempDir()
	must(t, o.Mount(target))
	t.Cleanup(func() {
		if err := mount.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	return target
}

// stacked applies the tars, lowest first, and mounts them.
func stacked(t testing.TB, s *layer.Store, tars ...[]file) (string, error) {
	t.Helper()
	var ids []string
	for _, files := range tars {
		ids = append(ids, put(t, s, files...).ID)
	}
	lowers, err := s.Stack(t.Context(), ids)
	if err != nil {
		return "", err
	}
	again, err := open(t, filepath.Dir(filepath.Dir(s.Path("x")))).Stack(t.Context(), ids)
	if err != nil || !slices.Equal(again, lowers) {
		t.Errorf("a second Stack gives %v, %v, the first gave %v", again, err, lowers)
	}
	return mounted(t, mount.Overlay{Lowers: lowers}), nil
}

// TestStack says what a container sees of several layers: each line a type, path and content, and
// mode and owner where they are given.
func TestStack(t *testing.T) {
	privilege.NeedRoot(t)
	tmp := d("tmp").mode(0o1777)
	home := d("home").mode(0o700).owner(1000, 1000)
	for _, tc := range []struct {
		name string
		tars [][]file
		want []string
		mode map[string]string
	}{
		{"nothing", nil, nil, nil},
		{"one layer", [][]file{{f("a", "x")}}, []string{"f a x"}, nil},
		{"implicit directories look as below", [][]file{{tmp, home, f("home/old", "")}, {f("tmp/a", "x"), f("home/b/c", "y")}},
			[]string{"d home", "d home/b", "d tmp", "f home/b/c y", "f home/old ", "f tmp/a x"},
			map[string]string{"tmp": "1777 0:0", "home": "0700 1000:1000", "home/b": "0755 0:0"}},
		{"implicit directories look as two below", [][]file{{tmp}, {f("x", "")}, {f("tmp/a", "x")}, {f("tmp/b", "y")}},
			[]string{"d tmp", "f tmp/a x", "f tmp/b y", "f x "}, map[string]string{"tmp": "1777 0:0"}},
		{"an entry above wins", [][]file{{tmp}, {f("tmp/a", "x")}, {d("tmp").mode(0o750)}}, []string{"d tmp", "f tmp/a x"}, map[string]string{"tmp": "0750 0:0"}},
		{"an entry in between", [][]file{{d("d").mode(0o700), d("d/e").mode(0o711)}, {d("d").mode(0o755), f("d/e/f", "x")}},
			[]string{"d d", "d d/e", "f d/e/f x"}, map[string]string{"d": "0755 0:0", "d/e": "0711 0:0"}},
		{"the root looks as below", [][]file{{d("./").mode(0o711).owner(3, 4)}, {f("a", "x")}}, []string{"f a x"}, map[string]string{".": "0711 3:4"}},
		{"implicit directory over a file", [][]file{{f("a", "x")}, {f("a/b", "y")}}, []string{"d a", "f a/b y"}, map[string]string{"a": "0755 0:0"}},
		{"implicit directory over a whiteout", [][]file{{d("a").mode(0o700), f("a/old", "")}, {wh("a")}, {f("a/b", "y")}}, []string{"d a", "f a/b y"}, map[string]string{"a": "0755 0:0"}},
		{"implicit directory after its own whiteout", [][]file{{d("a").mode(0o700), f("a/old", "")}, {wh("a"), f("a/b", "y")}}, []string{"d a", "f a/b y"}, map[string]string{"a": "0755 0:0"}},
		{"opaque implicit directory", [][]file{{d("a").mode(0o700), f("a/old", ""), d("a/sub").mode(0o700)}, {opq("a"), f("a/sub/b", "y")}},
			[]string{"d a", "d a/sub", "f a/sub/b y"}, map[string]string{"a": "0700 0:0", "a/sub": "0755 0:0"}},
		{"implicit directory in an opaque one below", [][]file{{d("a"), d("a/b").mode(0o700)}, {d("a"), opq("a")}, {f("a/b/c", "")}},
			[]string{"d a", "d a/b", "f a/b/c "}, map[string]string{"a/b": "0755 0:0"}},
		{"opaque root", [][]file{{f("old", ""), d("./").mode(0o700)}, {opq("."), f("new", "")}, {f("more", "")}}, []string{"f more ", "f new "}, map[string]string{".": "0700 0:0"}},
		{"whiteouts", [][]file{{f("a", ""), f("d/b", ""), f("d/c", "")}, {wh("a"), wh("d/b")}}, []string{"d d", "f d/c "}, nil},
		{"equal layers that are empty", [][]file{{f("a", "x")}, {}, {}, {f("b", "")}, {}}, []string{"f a x", "f b "}, nil},
		{"equal layers", [][]file{{d("d").mode(0o700), f("d/a", "1"), f("e", "")}, {wh("d"), wh("e")}, {d("d").mode(0o700), f("d/a", "1"), f("e", "")}},
			[]string{"d d", "f d/a 1", "f e "}, map[string]string{"d": "0700 0:0"}},
		{"equal layers with a whiteout", [][]file{{f("a", "")}, {wh("a"), f("b", "")}, {f("a", "")}, {wh("a"), f("b", "")}}, []string{"f b "}, nil},
		{"equal layers with implicit directories", [][]file{{d("d").mode(0o700)}, {f("d/a", "")}, {d("d").mode(0o711)}, {f("d/a", "")}},
			[]string{"d d", "f d/a "}, map[string]string{"d": "0711 0:0"}},
		{"file becomes directory becomes file", [][]file{{f("a", "1")}, {d("a"), f("a/b", "2")}, {f("a", "3")}}, []string{"f a 3"}, nil},

		// A directory that is a link only in a layer below: usr-merge images on which a tool without
		// directory entries put files.
		{"through a link below", [][]file{{d("usr"), d("usr/lib").mode(0o711), link("lib", "usr/lib"), f("usr/lib/old", "")}, {f("lib/new", "x"), f("lib/sub/y", "y")}},
			[]string{"d usr", "d usr/lib", "d usr/lib/sub", "f usr/lib/new x", "f usr/lib/old ", "f usr/lib/sub/y y", "l lib -> usr/lib"}, map[string]string{"usr/lib": "0711 0:0"}},
		{"through an absolute link below", [][]file{{d("run"), link("var/run", "/run")}, {f("var/run/pid", "1")}},
			[]string{"d run", "d var", "f run/pid 1", "l var/run -> /run"}, nil},
		{"through a dangling link below", [][]file{{link("l", "t/u")}, {f("l/a", "x")}}, []string{"d t", "d t/u", "f t/u/a x", "l l -> t/u"}, nil},
		{"through two links below", [][]file{{d("c"), link("b", "c"), link("a", "b")}, {f("a/x", "x"), f("b/y", "y")}},
			[]string{"d c", "f c/x x", "f c/y y", "l a -> b", "l b -> c"}, nil},
		{"whiteout through a link below", [][]file{{f("t/gone", ""), f("t/stays", ""), link("l", "t")}, {wh("l/gone")}}, []string{"d t", "f t/stays ", "l l -> t"}, nil},
		{"opaque through a link below", [][]file{{f("t/gone", ""), link("l", "t")}, {opq("l"), f("l/new", "x")}}, []string{"d t", "f t/new x", "l l -> t"}, nil},
		{"an entry takes the place of a link below", [][]file{{f("t/a", ""), link("l", "t")}, {d("l"), f("l/b", "x")}}, []string{"d l", "d t", "f l/b x", "f t/a "}, nil},
		{"link below leads out", [][]file{{link("l", "../../../../etc")}, {f("l/x", "x")}}, []string{"d etc", "f etc/x x", "l l -> ../../../../etc"}, nil},

		{"hard link to a file below", [][]file{{f("a", "x").mode(0o600).owner(5, 5)}, {hard("d/b", "a")}}, []string{"d d", "f a x", "f d/b x"}, map[string]string{"d/b": "0600 5:5"}},
		{"hard link through a link below", [][]file{{f("t/a", "x"), link("l", "t")}, {hard("l/b", "l/a")}}, []string{"d t", "f t/a x", "f t/b x", "l l -> t"}, nil},
		{"hard link in what takes the place of a link below", [][]file{{f("t/a", "x"), link("l", "t")}, {d("l"), hard("l/b", "t/a"), hard("l/sub/c", "t/a")}},
			[]string{"d l", "d l/sub", "d t", "f l/b x", "f l/sub/c x", "f t/a x"}, nil},
		{"hard link after a whiteout of the link below", [][]file{{f("t/a", "x"), link("l", "t")}, {wh("l"), hard("l/b", "t/a"), f("l/c", "y")}},
			[]string{"d l", "d t", "f l/b x", "f l/c y", "f t/a x"}, nil},
		{"hard link in a directory beyond a link below", [][]file{{f("t/a", "x"), d("t/e").mode(0o700), link("l", "t")}, {d("l/e").mode(0o711), hard("l/e/b", "t/a")}},
			[]string{"d t", "d t/e", "f t/a x", "f t/e/b x", "l l -> t"}, map[string]string{"t/e": "0711 0:0"}},
		{"hard link below that is replaced", [][]file{{f("a", "x")}, {hard("b", "a"), f("b", "y")}}, []string{"f a x", "f b y"}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := open(t, filepath.Join(t.TempDir(), "layers"))
			root, err := stacked(t, s, tc.tars...)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, normal(list(t, root, false))); d != "" {
				t.Error(d)
			}
			for p, want := range tc.mode {
				var st unix.Stat_t
				must(t, unix.Lstat(filepath.Join(root, p), &st))
				if got := fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid); got != want {
					t.Errorf("%s is %s, want %s", p, got, want)
				}
			}
			empty(t, filepath.Dir(filepath.Dir(s.Path("x"))))
		})
	}
}

func TestStackMissingTarget(t *testing.T) {
	privilege.NeedRoot(t)
	s := open(t, t.TempDir())
	for _, tars := range [][][]file{
		{{hard("b", "a")}},
		{{f("x", "")}, {hard("b", "a")}},
		{{f("a", "")}, {wh("a")}, {hard("b", "a")}},
		{{d("a")}, {hard("b", "a")}},
		{{link("l", "l")}, {hard("b", "l/a")}},
	} {
		if _, err := stacked(t, s, tars...); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("got %v, want invalid", err)
		}
	}
}

// TestStackKilled: a process died between making a directory of a chain and saying so.
// The layers of one manifest are no work for minutes.
func TestStackOfVeryMany(t *testing.T) {
	s := open(t, t.TempDir())
	ids := slices.Repeat([]string{put(t, s, f("a", "x")).ID}, 1001)
	if _, err := s.Stack(t.Context(), ids); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v, want an errdefs.ErrInvalidArgument", err)
	}
	if _, err := s.Stack(t.Context(), ids[1:]); err != nil {
		t.Errorf("one less: %v", err)
	}
}

func TestStackKilled(t *testing.T) {
	privilege.NeedRoot(t)
	s := open(t, filepath.Join(t.TempDir(), "layers"))
	a, b := put(t, s, d("tmp").mode(0o1777)), put(t, s, f("tmp/a", "x"), f("tmp/b/c", "y"))
	want, err := s.Stack(t.Context(), []string{a.ID, b.ID})
	must(t, err)
	chains := filepath.Join(filepath.Dir(s.Path(b.ID)), "chains")
	entries, err := os.ReadDir(chains)
	must(t, err)
	for _, e := range entries {
		if e.Type()&os.ModeSymlink != 0 {
			must(t, os.Remove(filepath.Join(chains, e.Name())))
		} else {
			must(t, os.WriteFile(filepath.Join(chains, e.Name(), "half"), nil, 0o600))
		}
	}
	got, err := s.Stack(t.Context(), []string{a.ID, b.ID})
	must(t, err)
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if got := list(t, mounted(t, mount.Overlay{Lowers: got}), false); !cmp.Equal(got, []string{"d tmp", "d tmp/b", "f tmp/a x", "f tmp/b/c y"}) {
		t.Errorf("got %q", got)
	}
}

// TestRoundTrip changes trees at random through real overlays, makes layers and tars of what was
// changed, and unpacks those elsewhere: the same must be seen.
func TestRoundTrip(t *testing.T) {
	privilege.NeedRoot(t)
	for seed := range uint64(15) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { roundTrip(t, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func roundTrip(t *testing.T, rnd *rand.Rand) {
	base := t.TempDir()
	here, there := open(t, filepath.Join(base, "here")), open(t, filepath.Join(base, "there"))
	var built, pulled []string
	for step := range 4 {
		lowers, err := here.Stack(t.Context(), built)
		must(t, err)
		upper, work := filepath.Join(base, fmt.Sprint("upper", step)), filepath.Join(base, fmt.Sprint("work", step))
		must(t, os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755))
		target := t.TempDir()
		must(t, mount.Overlay{Lowers: lowers, Upper: upper, Work: work}.Mount(target))
		for range 60 {
			change(t, rnd, target)
		}
		must(t, cutTimes(target)) // as Diff does
		want := list(t, target, true)
		must(t, mount.Unmount(target))

		l, err := here.Adopt(t.Context(), upper)
		must(t, err)
		sealed, err := here.Seal(t.Context(), l.ID, nil)
		must(t, err)
		built = append(built, l.ID)
		var b bytes.Buffer
		must(t, here.Diff(t.Context(), l.ID, &b, layer.DiffOptions{}))
		if got := digest.FromBytes(b.Bytes()); got != sealed.DiffID {
			t.Fatalf("Diff gives %s, Seal said %s", got, sealed.DiffID)
		}
		p, err := there.Apply(t.Context(), sealed.DiffID, &b)
		must(t, err)
		pulled = append(pulled, p.ID)
		for where, s := range map[string]*layer.Store{"here": here, "there": there} {
			ids := built
			if s == there {
				ids = pulled
			}
			lowers, err := s.Stack(t.Context(), ids)
			must(t, err)
			got := list(t, mounted(t, mount.Overlay{Lowers: lowers}), true)
			if d := cmp.Diff(withoutRoot(want), withoutRoot(got)); d != "" {
				t.Fatalf("step %d, %s: %s", step, where, d)
			}
		}
		var again bytes.Buffer
		if err := there.Diff(t.Context(), p.ID, &again, layer.DiffOptions{}); err != nil {
			t.Errorf("a layer made by Diff cannot be turned back: %v", err)
		}
	}
}

// withoutRoot drops the line of the root, whose time a tar without an entry for it does not have.
func withoutRoot(lines []string) []string {
	return slices.DeleteFunc(slices.Clone(lines), func(l string) bool { return strings.HasPrefix(l, ". ") })
}

// cutTimes makes all times whole seconds.
func cutTimes(dir string) error {
	var dirs []string
	set := func(p string) error {
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil || st.Mtim.Nsec == 0 {
			return err
		}
		ts := []unix.Timespec{{Sec: st.Mtim.Sec}, {Sec: st.Mtim.Sec}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, ts, unix.AT_SYMLINK_NOFOLLOW)
	}
	err := filepath.WalkDir(dir, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			dirs = append(dirs, p)
			return err
		}
		return set(p)
	})
	for _, p := range slices.Backward(dirs) {
		err = errors.Join(err, set(p))
	}
	return err
}

// change does something at random to the tree.
func change(t *testing.T, rnd *rand.Rand, root string) {
	t.Helper()
	name := func() string {
		p := root
		for range rnd.IntN(3) + 1 {
			p = filepath.Join(p, string(rune('a'+rnd.IntN(5))))
		}
		return p
	}
	p := name()
	var err error
	switch rnd.IntN(12) {
	case 0, 1:
		_ = statefile.RemoveAll(p)
		err = os.MkdirAll(p, 0o755)
	case 2:
		err = statefile.RemoveAll(p)
	case 3:
		err = os.Rename(p, name())
	case 4:
		err = os.Symlink("target", p)
	case 5:
		err = os.Link(p, name())
	case 6:
		err = os.Lchown(p, rnd.IntN(2000), rnd.IntN(2000))
	case 7:
		if fi, e := os.Lstat(p); e == nil && fi.Mode()&os.ModeSymlink == 0 {
			err = unix.Chmod(p, uint32(rnd.IntN(0o10000)))
		}
	case 8:
		err = unix.Lsetxattr(p, []string{"user.x", "trusted.x", "security.capability"}[rnd.IntN(2)], []byte{byte(rnd.IntN(256))}, 0)
	case 9:
		err = unix.Mkfifo(p, 0o600)
	default:
		if fi, e := os.Lstat(p); e == nil && !fi.Mode().IsRegular() {
			return // a fifo would block
		}
		err = os.WriteFile(p, bytes.Repeat([]byte{byte(rnd.IntN(256))}, rnd.IntN(10000)), os.FileMode(rnd.IntN(0o1000)))
	}
	_ = err // most of it makes no sense most of the time, and is refused
}

// Layers that were unpacked with other rights mark what they hide in another way. Stacked, they
// would show it, so they are refused, and the error says what to do.
func TestStackOfOtherMarks(t *testing.T) {
	privilege.NeedRoot(t)
	s := open(t, t.TempDir())
	a := put(t, s, f("gone", ""), f("d/old", ""))
	b := put(t, s, wh("gone"), d("d"), opq("d"), f("d/new", ""))
	path := filepath.Join(filepath.Dir(s.Path(b.ID)), "layer.json")
	text, err := os.ReadFile(path)
	must(t, err)
	must(t, os.WriteFile(path, bytes.Replace(text, []byte("{"), []byte(`{"userXattr":true,`), 1), 0o600))
	_, err = s.Stack(t.Context(), []string{a.ID, b.ID})
	var hint interface{ Hint() string }
	if !errors.Is(err, errdefs.ErrFailedPrecondition) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "TEU_ROOT") {
		t.Errorf("%v, %v", err, hint)
	}
	if _, err := s.Stack(t.Context(), []string{b.ID}); err != nil { // nothing is below it
		t.Error(err)
	}
}

// TestDefaultACL makes files in a directory that would give them its own ACL: they have what the tar says.
func TestDefaultACL(t *testing.T) {
	privilege.NeedRoot(t)
	const access, defaults = "system.posix_acl_access", "system.posix_acl_default"
	// linux/posix_acl_xattr.h: the owner, user 1000, the group, the mask and others, each with all rights.
	acl := "\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00" +
		"\x04\x00\x07\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x07\x00\xff\xff\xff\xff"
	of := func(path string) (names []string) {
		for _, name := range []string{access, defaults} {
			if _, err := unix.Lgetxattr(path, name, make([]byte, 100)); err == nil {
				names = append(names, name)
			}
		}
		return names
	}
	listed := d("a").xattr(defaults, acl)
	for _, tc := range []struct {
		name string
		tars [][]file
	}{
		{"one layer", [][]file{{listed, d("a/b"), f("a/b/c", "x"), f("a/f", "y")}}},
		{"implicit directories over it", [][]file{{listed, d("a/b")}, {f("a/b/c", "x"), f("a/f", "y")}}},
		{"a layer that is made again", [][]file{{f("x", "")}, {listed, d("a/b"), f("a/b/c", "x"), f("a/f", "y"), hard("a/x", "x")}}},
		{"said twice", [][]file{{listed, d("a"), d("a/b"), f("a/b/c", "x"), f("a/f", "y")}}},
		{"in the place of one with an ACL", [][]file{{listed, d("a/b").xattr(defaults, acl), f("a/b", ""), d("a/b"), f("a/b/c", "x"), f("a/f", "y")}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir, err := stacked(t, open(t, t.TempDir()), tc.tars...)
			must(t, err)
			for path, want := range map[string][]string{"a": {defaults}, "a/b": nil, "a/b/c": nil, "a/f": nil} {
				if got := of(filepath.Join(dir, path)); !slices.Equal(got, want) {
					t.Errorf("%s has %q, not %q", path, got, want)
				}
			}
		})
	}
}
