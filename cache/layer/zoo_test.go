package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/test/privilege"
)

// A zooCase is one tar and what it must become. SENTINEL in a name stands for the absolute path of
// a tree outside. want has a line for each file: its type (o is an opaque directory, w a whiteout),
// path and content. Without want the tar must be refused.
type zooCase struct {
	name     string
	files    []file
	want     []string
	implicit string // space separated; "." is always expected unless dot is set
	dot      bool
	gnu      bool // GNU tar unpacks it to the same, down to modes and times
}

var long = strings.Repeat("l", 200)

func zoo() []zooCase {
	deep := strings.TrimSuffix(strings.Repeat(strings.Repeat("d", 99)+"/", 30), "/")
	return []zooCase{
		// The good.
		{name: "empty tar", want: []string{}},
		{name: "file", files: []file{f("a", "x")}, want: []string{"f a x"}, gnu: true},
		{name: "empty file", files: []file{f("a", "")}, want: []string{"f a "}, gnu: true},
		{name: "file in a directory", files: []file{d("d"), f("d/a", "x")}, want: []string{"d d", "f d/a x"}, gnu: true},
		{name: "root entry", files: []file{d("./").mode(0o711), f("./a", "x")}, want: []string{"f a x"}, dot: true},
		{name: "root entry as slash", files: []file{d("/"), f("/a", "x")}, want: []string{"f a x"}, dot: true},
		{name: "root entry as dot", files: []file{d(".")}, want: []string{}, dot: true},
		{name: "implicit parents", files: []file{f("a/b/c", "x")}, want: []string{"d a", "d a/b", "f a/b/c x"}, implicit: "a a/b"},
		{name: "parent comes later", files: []file{f("a/b", "x"), d("a").mode(0o700)}, want: []string{"d a", "f a/b x"}},
		{name: "one parent comes later", files: []file{f("a/b/c", "x"), d("a/b")}, want: []string{"d a", "d a/b", "f a/b/c x"}, implicit: "a"},
		{name: "symbolic link", files: []file{link("l", "target")}, want: []string{"l l -> target"}, gnu: true},
		{name: "dangling absolute link", files: []file{link("l", "/no/where")}, want: []string{"l l -> /no/where"}, gnu: true},
		{name: "link with odd target", files: []file{link("l", "..//./x/")}, want: []string{"l l -> ..//./x/"}, gnu: true},
		{name: "hard link", files: []file{f("a", "x"), hard("b", "a")}, want: []string{"f a x", "f b x = a"}, gnu: true},
		{name: "hard link to a link", files: []file{link("a", "x"), hard("b", "a")}, want: []string{"l a -> x", "l b -> x = a"}, gnu: true},
		{name: "hard link to a fifo", files: []file{entry(tar.TypeFifo, "a"), hard("b", "a")}, want: []string{"p a", "p b = a"}, gnu: true},
		{name: "hard link keeps the target's mode", files: []file{f("a", "x").mode(0o4755), hard("b", "a").mode(0o600).owner(7, 7)}, want: []string{"f a x", "f b x = a"}, gnu: true},
		{name: "hard link to itself", files: []file{f("a", "x"), hard("a", "a")}, want: []string{"f a x"}},
		{name: "hard link twice", files: []file{f("a", "x"), hard("b", "a"), hard("b", "a")}, want: []string{"f a x", "f b x = a"}, gnu: true},
		{name: "hard link into a directory", files: []file{f("a", "x"), hard("d/b", "/a")}, want: []string{"d d", "f a x", "f d/b x = a"}, implicit: "d"},
		{name: "fifo", files: []file{entry(tar.TypeFifo, "p").mode(0o622)}, want: []string{"p p"}, gnu: true},
		{name: "character device", files: []file{dev(tar.TypeChar, "null", 1, 3).mode(0o666)}, want: []string{"c null 1:3"}, gnu: true},
		{name: "block device", files: []file{dev(tar.TypeBlock, "sda", 8, 0).owner(0, 6)}, want: []string{"b sda 8:0"}, gnu: true},
		{name: "setuid, setgid, sticky", files: []file{f("a", "").mode(0o4755), f("b", "").mode(0o2755), d("t").mode(0o1777)}, want: []string{"d t", "f a ", "f b "}, gnu: true},
		{name: "setuid of another owner", files: []file{f("a", "x").mode(0o6755).owner(1000, 1000)}, want: []string{"f a x"}, gnu: true},
		{name: "no permissions at all", files: []file{f("a", "x").mode(0), d("d").mode(0), f("d/b", "y")}, want: []string{"d d", "f a x", "f d/b y"}, gnu: true},
		{name: "setgid directory does not give its group", files: []file{d("d").mode(0o2775).owner(5, 50), f("d/a", "x").owner(1, 1), f("d/e/f", "")}, want: []string{"d d", "d d/e", "f d/a x", "f d/e/f "}, implicit: "d/e"},
		{name: "large ids", files: []file{f("a", "x").owner(4000000000, 4294967294)}, want: []string{"f a x"}, gnu: true},
		{name: "nanoseconds", files: []file{f("a", "x").at(day.Add(123456789))}, want: []string{"f a x"}, gnu: true},
		{name: "before 1970", files: []file{f("a", "x").at(time.Unix(-86400, 0))}, want: []string{"f a x"}, gnu: true},
		{name: "far future", files: []file{f("a", "x").at(time.Unix(1<<33, 0))}, want: []string{"f a x"}, gnu: true},
		{name: "directory keeps its time", files: []file{d("d").at(day), f("d/a", "x"), f("d/b", "x"), link("d/l", "x")}, want: []string{"d d", "f d/a x", "f d/b x", "l d/l -> x"}, gnu: true},
		{name: "long name", files: []file{f(long, "x")}, want: []string{"f " + long + " x"}, gnu: true},
		{name: "long path", files: []file{d(long), d(long + "/" + long), f(long+"/"+long+"/f", "x")}, want: []string{"d " + long, "d " + long + "/" + long, "f " + long + "/" + long + "/f x"}, gnu: true},
		{name: "path of 3000 bytes", files: []file{f(deep+"/f", "x")}, want: append(parents(deep), "f "+deep+"/f x"), implicit: strings.Join(cut(parents(deep)), " ")},
		{name: "GNU long name", files: []file{{Header: tar.Header{Typeflag: tar.TypeReg, Name: long, Mode: 0o644, ModTime: day, Format: tar.FormatGNU}}}, want: []string{"f " + long + " "}, gnu: true},
		{name: "name of 255 bytes", files: []file{f(strings.Repeat("n", 255), "")}, want: []string{"f " + strings.Repeat("n", 255) + " "}, gnu: true},
		{name: "not UTF-8", files: []file{f("a\xff\xfe", "x"), d("\x80"), f("\x80/\xc3", "")}, want: []string{"d \x80", "f \x80/\xc3 ", "f a\xff\xfe x"}, gnu: true},
		{name: "control characters", files: []file{f("a\nb\tc\x1b", "x")}, want: []string{"f a\nb\tc\x1b x"}, gnu: true},
		{name: "dots that are no dots", files: []file{f("...", "x"), f("..a", "y"), d(".b..")}, want: []string{"d .b..", "f ... x", "f ..a y"}, gnu: true},
		{name: "xattr", files: []file{f("a", "x").xattr("user.k", "v\x00w")}, want: []string{"f a x"}, gnu: true},
		{name: "xattr of a directory", files: []file{d("d").xattr("user.k", "v")}, want: []string{"d d"}, gnu: true},
		{name: "xattr on a read-only file", files: []file{f("a", "x").mode(0o444).xattr("user.k", "v")}, want: []string{"f a x"}, gnu: true},
		{name: "user xattr on a link is left out", files: []file{link("l", "x").xattr("user.k", "v")}, want: []string{"l l -> x"}},
		{name: "trusted xattr on a link", files: []file{link("l", "x").xattr("trusted.k", "v")}, want: []string{"l l -> x"}},
		{name: "regular file of the old kind", files: []file{entry(tar.TypeCont, "a")}, want: []string{"f a "}, gnu: true},
		{name: "megabytes", files: []file{f("a", strings.Repeat("0123456789abcdef", 3<<16))}, want: []string{"f a 3145728 bytes"}, gnu: true},

		// Entries that meet.
		{name: "last file wins", files: []file{f("a", "1"), f("a", "2")}, want: []string{"f a 2"}, gnu: true},
		{name: "replaced file keeps its other name", files: []file{f("a", "1"), hard("b", "a"), f("a", "2")}, want: []string{"f a 2", "f b 1"}, gnu: true},
		{name: "file becomes link", files: []file{f("a", "1"), link("a", "b")}, want: []string{"l a -> b"}, gnu: true},
		{name: "link becomes file", files: []file{f("b", "old"), link("a", "b"), f("a", "1")}, want: []string{"f a 1", "f b old"}, gnu: true},
		{name: "link becomes device", files: []file{link("a", "b"), dev(tar.TypeChar, "a", 1, 3)}, want: []string{"c a 1:3"}},
		{name: "fifo becomes file", files: []file{entry(tar.TypeFifo, "a"), f("a", "1")}, want: []string{"f a 1"}, gnu: true},
		{name: "file becomes directory", files: []file{f("a", "1"), d("a"), f("a/b", "2")}, want: []string{"f a/b 2", "o a"}},
		{name: "link becomes directory", files: []file{d("t"), link("a", "t"), d("a"), f("a/b", "2")}, want: []string{"d t", "f a/b 2", "o a"}},
		{name: "directory becomes file", files: []file{d("a"), f("a/b/c", "1"), f("a", "2")}, want: []string{"f a 2"}},
		{name: "directory becomes link", files: []file{d("a"), f("a/b", "1"), link("a", "x")}, want: []string{"l a -> x"}},
		{name: "directory becomes hard link", files: []file{f("x", "1"), d("a"), hard("a", "x")}, want: []string{"f x 1 = a", "f a 1"}},
		{name: "directory, file, directory", files: []file{d("a"), f("a", ""), d("a"), f("a/b", "1")}, want: []string{"f a/b 1", "o a"}},
		{name: "directory again keeps its files", files: []file{d("a"), f("a/b", "1"), d("a").mode(0o700)}, want: []string{"d a", "f a/b 1"}, gnu: true},
		{name: "implicit directory becomes file", files: []file{f("a/b/c", "1"), f("a", "2")}, want: []string{"f a 2"}},
		{name: "implicit again after a file", files: []file{f("a/b/c", "1"), f("a", "2"), d("a"), f("a/b/d", "3")}, want: []string{"d a/b", "f a/b/d 3", "o a"}},

		// Parents that are links.
		{name: "through a link", files: []file{d("t"), link("l", "t"), f("l/a", "x")}, want: []string{"d t", "f t/a x", "l l -> t"}},
		{name: "through an absolute link", files: []file{d("t"), link("l", "/t"), f("l/a", "x")}, want: []string{"d t", "f t/a x", "l l -> /t"}},
		{name: "through a chain of links", files: []file{d("t"), link("l", "t"), link("m", "l"), f("m/a", "x")}, want: []string{"d t", "f t/a x", "l l -> t", "l m -> l"}},
		{name: "through a dangling link", files: []file{link("l", "t/u"), f("l/a", "x")}, want: []string{"d t", "d t/u", "f t/u/a x", "l l -> t/u"}, implicit: "t t/u"},
		{name: "link to a parent", files: []file{d("d/e"), link("d/e/l", "../.."), f("d/e/l/a", "x")}, want: []string{"d d", "d d/e", "f a x", "l d/e/l -> ../.."}, implicit: "d"},
		{name: "directory through a link", files: []file{d("t"), link("l", "t"), d("l/s")}, want: []string{"d t", "d t/s", "l l -> t"}},
		{name: "whiteout through a link", files: []file{d("t"), link("l", "t"), wh("l/a")}, want: []string{"d t", "l l -> t", "w t/a"}},
		{name: "link is replaced between two files", files: []file{d("t"), d("u"), link("l", "t"), f("l/a", "1"), link("l", "u"), f("l/a", "2")}, want: []string{"d t", "d u", "f t/a 1", "f u/a 2", "l l -> u"}},
		{name: "directory is replaced by a link between two files", files: []file{d("l"), f("l/a", "1"), d("u"), link("l", "u"), f("l/a", "2")}, want: []string{"d u", "f u/a 2", "l l -> u"}},
		{name: "hard link target through a link", files: []file{f("t/a", "x"), link("l", "t"), hard("b", "l/a")}, want: []string{"d t", "f b x", "f t/a x = b", "l l -> t"}, implicit: "t"},

		// Whiteouts.
		{name: "whiteout", files: []file{wh("a")}, want: []string{"w a"}},
		{name: "whiteout in a directory", files: []file{d("d"), wh("d/a")}, want: []string{"d d", "w d/a"}},
		{name: "whiteout in an implicit directory", files: []file{wh("d/a")}, want: []string{"d d", "w d/a"}, implicit: "d"},
		{name: "whiteout twice", files: []file{wh("a"), wh("a")}, want: []string{"w a"}},
		{name: "whiteout that is a directory entry", files: []file{d(".wh.a")}, want: []string{"w a"}},
		{name: "whiteout with content", files: []file{f(".wh.a", "content")}, want: []string{"w a"}},
		{name: "whiteout does not hide its own layer", files: []file{f("a", "x"), wh("a")}, want: []string{"f a x"}},
		{name: "whiteout of a directory of its own layer", files: []file{d("a"), f("a/b", "x"), wh("a")}, want: []string{"f a/b x", "o a"}},
		{name: "file after whiteout", files: []file{wh("a"), f("a", "x")}, want: []string{"f a x"}},
		{name: "directory after whiteout", files: []file{wh("a"), d("a"), f("a/b", "x")}, want: []string{"f a/b x", "o a"}},
		{name: "implicit directory after whiteout", files: []file{wh("a"), f("a/b", "x")}, want: []string{"f a/b x", "o a"}},
		{name: "opaque", files: []file{d("a"), opq("a"), f("a/b", "x")}, want: []string{"f a/b x", "o a"}},
		{name: "opaque comes last", files: []file{d("a"), f("a/b", "x"), opq("a")}, want: []string{"f a/b x", "o a"}},
		{name: "opaque comes first", files: []file{opq("a"), d("a")}, want: []string{"o a"}},
		{name: "opaque without an entry", files: []file{opq("a"), f("a/b/c", "x")}, want: []string{"d a/b", "f a/b/c x", "o a"}, implicit: "a"},
		{name: "opaque root", files: []file{opq("."), f("a/b", "x")}, want: []string{"d a", "f a/b x"}},
		{name: "whiteout of a whiteout name", files: []file{f(".wh..a", "")}, want: []string{"w .a"}},
		{name: "hard link to a leftover of AUFS", files: []file{f(".wh..wh.plnk/1.2", "x").mode(0o4711), hard("a", ".wh..wh.plnk/1.2"), hard("b", "a")}, want: []string{"f a x", "f b x = a"}},
		{name: "hard link to a leftover of AUFS that is not there", files: []file{f(".wh..wh.plnk/1.2", "x"), hard("d/a", ".wh..wh.plnk/1.3")}},
		{name: "leftovers of AUFS that are no files", files: []file{d(".wh..wh.plnk/d"), link(".wh..wh.plnk/l", "/"), f(".wh..wh.plnk/d/f", "x"), f(".wh..wh.plnk/.wh.x", "")}, want: []string{}},
		{name: "link into the leftovers of AUFS", files: []file{f(".wh..wh.plnk/1", "x"), link("l", ".wh..wh.plnk"), f("l/d/a", "x")}, want: []string{"l l -> .wh..wh.plnk"}},
		{name: "leftovers of AUFS", files: []file{d(".wh..wh.plnk"), f(".wh..wh.plnk/1.2", "x"), f(".wh..wh.aufs", ""), d(".wh..wh.orph/x"), f("a", "x")}, want: []string{"f a x"}},

		// Attributes that are not for layers.
		{name: "capabilities survive a change of owner", files: []file{f("a", "x").mode(0o755).owner(9, 9).xattr("security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}, want: []string{"f a x"}, gnu: true},
		{name: "overlay xattrs", files: []file{d("d").xattr("trusted.overlay.opaque", "y").xattr("trusted.overlay.redirect", "/etc"), f("a", "").xattr("trusted.overlay.metacopy", "").xattr("user.overlay.opaque", "y")}, want: []string{"d d", "f a "}},
		{name: "escaped overlay xattrs", files: []file{d("d").pax("LIBARCHIVE.xattr.trusted.overlay%2Eopaque", "eQ").xattr("trusted.overlay.overlay.opaque", "y")}, want: []string{"d d"}},
		{name: "labels of the host", files: []file{f("a", "").xattr("security.selinux", "system_u:object_r:shadow_t:s0").xattr("security.ima", "x")}, want: []string{"f a "}},

		// Names that lead out, or seem to.
		{name: "absolute name", files: []file{f("/a/b", "x")}, want: []string{"d a", "f a/b x"}, implicit: "a"},
		{name: "absolute name with dots", files: []file{f("/../../a", "x")}, want: []string{"f a x"}},
		{name: "absolute name of the sentinel", files: []file{f("SENTINEL/file", "x")}, want: nil2("absolute")},
		{name: "dots inside", files: []file{d("d"), f("d/../a", "x")}, want: []string{"d d", "f a x"}},
		{name: "dots out", files: []file{f("../escaped", "x")}},
		{name: "dots out of a directory", files: []file{d("d"), f("d/../../sentinel/file", "x")}},
		{name: "only dots", files: []file{d("..")}},
		{name: "many dots", files: []file{f(strings.Repeat("../", 40)+"etc/passwd", "x")}},
		{name: "directory out", files: []file{d("../sentinel/new")}},
		{name: "link out, then file", files: []file{link("l", "SENTINEL"), f("l/file", "x")}, want: nil2("link")},
		{name: "relative link out, then file", files: []file{link("l", "../sentinel"), f("l/file", "x")}, want: []string{"d sentinel", "f sentinel/file x", "l l -> ../sentinel"}, implicit: "sentinel"},
		{name: "link to a file outside, then write", files: []file{link("l", "../sentinel/file"), f("l", "x")}, want: []string{"f l x"}},
		{name: "link to a file outside, then chmod by directory", files: []file{link("l", "../sentinel/sub"), d("l").mode(0o777).owner(9, 9)}, want: []string{"o l"}},
		{name: "link out, then link in it", files: []file{link("l", ".."), link("l/sentinel", "x")}, want: []string{"l l -> ..", "l sentinel -> x"}},
		{name: "link out, then device in it", files: []file{link("l", "../sentinel"), dev(tar.TypeChar, "l/sub/null", 1, 3)}, want: []string{"c sentinel/sub/null 1:3", "d sentinel", "d sentinel/sub", "l l -> ../sentinel"}, implicit: "sentinel sentinel/sub"},
		{name: "link out, then whiteout in it", files: []file{link("l", "../sentinel"), wh("l/file")}, want: []string{"d sentinel", "l l -> ../sentinel", "w sentinel/file"}, implicit: "sentinel"},
		{name: "link out, then opaque in it", files: []file{link("l", "../sentinel"), opq("l/sub")}, want: []string{"d sentinel", "l l -> ../sentinel", "o sentinel/sub"}, implicit: "sentinel sentinel/sub"},
		{name: "link out, then times of a directory", files: []file{d("d"), d("d/sub"), link("d", "../sentinel")}, want: []string{"l d -> ../sentinel"}},
		{name: "link to proc", files: []file{link("l", "/proc/self/root"), f("l/etc/x", "x")}, want: []string{"d proc", "d proc/self", "d proc/self/root", "d proc/self/root/etc", "f proc/self/root/etc/x x", "l l -> /proc/self/root"}, implicit: "proc proc/self proc/self/root proc/self/root/etc"},
		{name: "link to a descriptor", files: []file{link("l", "/proc/self/fd/3"), f("l", "x")}, want: []string{"f l x"}},
		{name: "hard link out", files: []file{hard("h", "../sentinel/file")}},
		{name: "hard link to an absolute path is inside", files: []file{f("sentinel/file", "mine"), hard("h", "/sentinel/file")}, want: []string{"d sentinel", "f h mine", "f sentinel/file mine = h"}, implicit: "sentinel"},
		{name: "hard link through a link out", files: []file{link("l", "../sentinel"), hard("h", "l/file")}, want: []string{"l l -> ../sentinel"}},
		{name: "hard link to a link out, then write", files: []file{link("l", "../sentinel/file"), hard("h", "l"), f("h", "x"), f("l", "y")}, want: []string{"f h x", "f l y"}},
		{name: "hard link to a link out, then directory in it", files: []file{link("l", "../sentinel"), hard("h", "l"), f("h/file", "x")}, want: []string{"d sentinel", "f sentinel/file x", "l h -> ../sentinel", "l l -> ../sentinel = h"}, implicit: "sentinel"},
		{name: "hard link to a directory", files: []file{d("d"), hard("h", "d")}},
		{name: "hard link to the root", files: []file{hard("h", "/")}},
		{name: "hard link to a whiteout", files: []file{wh("a"), hard("h", "a")}},
		{name: "hard link to the name of a whiteout", files: []file{wh("a"), hard("h", ".wh.a")}},
		{name: "hard link over its target's directory", files: []file{f("d/a", "x"), hard("d", "d/a")}},
		{name: "root becomes link", files: []file{link("/", "/etc")}},
		{name: "file in a file", files: []file{f("a", "x"), f("a/b", "y")}},
		{name: "file in a device", files: []file{dev(tar.TypeChar, "a", 1, 3), f("a/b", "y")}},
		{name: "link to itself", files: []file{link("l", "l"), f("l/a", "x")}},
		{name: "links in a circle", files: []file{link("l", "m"), link("m", "l"), f("l/a", "x")}},
		{name: "link that grows", files: []file{link("l", strings.Repeat("l/", 1000)), f("l/a", "x")}},
		{name: "whiteout of dot dot", files: []file{f(".wh...", "")}},
		{name: "whiteout of dot dot below", files: []file{d("d"), f("d/.wh...", "")}},
		{name: "whiteout of dot", files: []file{f(".wh..", "")}},
		{name: "whiteout of nothing", files: []file{f(".wh.", "")}},
		{name: "whiteout as directory of a file", files: []file{f(".wh.a/b", "")}},
		{name: "link to the name of a whiteout", files: []file{link("l", ".wh.a"), f("l/b", "")}},
		{name: "link to a leftover of AUFS", files: []file{link("l", ".wh..wh.x/y"), f("l/b", "")}},
		{name: "device 0:0 is a whiteout of overlayfs", files: []file{dev(tar.TypeChar, "a", 0, 0)}},
		{name: "device with a huge number", files: []file{dev(tar.TypeChar, "a", 4096, 1)}},
		{name: "device with a huge minor", files: []file{dev(tar.TypeBlock, "a", 1, 1<<20)}},
		{name: "owner minus one", files: []file{f("a", "x").owner(4294967295, 0)}},
		{name: "owner beyond 32 bits", files: []file{f("a", "x").owner(4294967296, 0)}},
		{name: "group beyond 32 bits", files: []file{f("a", "x").owner(0, 4294967296)}},
		{name: "component of 256 bytes", files: []file{f(strings.Repeat("n", 256), "")}},
		{name: "path of 5000 bytes", files: []file{f(strings.Repeat(strings.Repeat("n", 99)+"/", 50)+"f", "")}},
		{name: "real path of 5000 bytes", files: []file{d(deep), link("l", deep), link(deep+"/m", "/"+deep[:2900]+"/../"+strings.Repeat("e/", 300)), f("l/"+deep[:2000]+"/f", "")}},
		{name: "link of 5000 bytes", files: []file{link("l", strings.Repeat("x", 5000))}},
		{name: "link without a target", files: []file{link("l", "")}},
		{name: "unknown type", files: []file{entry('D', "a")}},
		{name: "libarchive xattr that is no base64", files: []file{f("a", "").pax("LIBARCHIVE.xattr.user.k", "!")}},
		{name: "too many xattrs", files: []file{manyXattrs(300)}},
		{name: "xattr of a megabyte", files: []file{f("a", "").xattr("user.k", strings.Repeat("x", 1<<17))}},
		{name: "xattr with a long name", files: []file{f("a", "").xattr("user."+strings.Repeat("k", 300), "x")}},
	}
}

// nil2 marks cases whose result has the path of the test in it.
func nil2(what string) []string { return []string{"?" + what} }

func manyXattrs(n int) file {
	e := f("a", "")
	for i := range n {
		e = e.xattr(fmt.Sprint("user.k", i), "v")
	}
	return e
}

func parents(path string) (lines []string) {
	for i, c := range path + "/" {
		if c == '/' {
			lines = append(lines, "d "+path[:i])
		}
	}
	return lines
}

func cut(lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, l[2:])
	}
	return out
}

func TestZoo(t *testing.T) {
	privilege.NeedRoot(t)
	names := map[string]bool{}
	for _, tc := range zoo() {
		if names[tc.name] {
			t.Errorf("two cases are called %q", tc.name)
		}
		names[tc.name] = true
		t.Run(tc.name, func(t *testing.T) { tc.run(t) })
	}
	if len(names) < 150 {
		t.Errorf("only %d cases", len(names))
	}
}

func (tc zooCase) run(t *testing.T) {
	base := t.TempDir()
	dir := filepath.Join(base, "layer")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	outside := newSentinel(t, filepath.Join(base, "sentinel"))
	for i := range tc.files {
		tc.files[i].Name = strings.ReplaceAll(tc.files[i].Name, "SENTINEL", outside.dir)
		tc.files[i].Linkname = strings.ReplaceAll(tc.files[i].Linkname, "SENTINEL", outside.dir)
	}
	data := makeTar(t, tc.files...)
	res, err := layer.Apply(t.Context(), dir, bytes.NewReader(data), layer.ApplyOptions{})
	outside.check(t)
	if entries, _ := os.ReadDir(base); len(entries) != 2 {
		t.Errorf("something was made beside the layer: %v", entries)
	}
	switch {
	case tc.want == nil:
		// XFS has no links of more than 1023 bytes.
		if !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, unix.ENAMETOOLONG) {
			t.Errorf("got %v, want it to be refused as invalid", err)
		}
		return
	case err != nil:
		t.Fatalf("it was refused: %v", err)
	case len(tc.want) == 1 && strings.HasPrefix(tc.want[0], "?"):
		return // what counts is that the sentinel is untouched
	}
	got, want := list(t, dir, false), slices.Sorted(slices.Values(normal(tc.want)))
	if d := cmp.Diff(want, normal(got)); d != "" {
		t.Errorf("the layer is not what it should be: %s", d)
	}
	implicit := strings.Fields(tc.implicit)
	if !tc.dot {
		implicit = append(implicit, ".")
	}
	slices.Sort(implicit)
	if d := cmp.Diff(implicit, res.Implicit); len(implicit)+len(res.Implicit) > 0 && d != "" {
		t.Errorf("implicit directories: %s", d)
	}
	tc.attributes(t, dir)
	for _, name := range strings.Fields(tc.implicit) {
		if fi, err := os.Lstat(filepath.Join(dir, name)); err != nil || !fi.ModTime().Equal(day) {
			t.Errorf("implicit directory %s: it is not as old as what it was made for, %v", name, err)
		}
	}
	if tc.gnu {
		tc.compare(t, dir, data)
	}
}

// normal forgets which of two names for one file came first.
func normal(lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, strings.Split(l, " = ")[0])
	}
	slices.Sort(out)
	return out
}

// attributes compares modes, owners and times with the last entry of each name.
func (tc zooCase) attributes(t *testing.T, dir string) {
	t.Helper()
	last := map[string]file{}
	for _, e := range tc.files {
		last[filepath.Clean("/"+e.Name)] = e
	}
	for name, e := range last {
		if e.Typeflag == tar.TypeLink || strings.Contains(name, ".wh.") {
			continue
		}
		parent, err := filepath.EvalSymlinks(filepath.Join(dir, filepath.Dir(name)))
		if err != nil || parent != filepath.Join(dir, filepath.Dir(name)) {
			continue // it went through a link
		}
		fi, err := os.Lstat(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // its directory was replaced
		}
		if err != nil {
			t.Fatal(err)
		}
		if hdr, err := tar.FileInfoHeader(fi, ""); err != nil || e.Typeflag != tar.TypeSymlink && hdr.Mode != e.Mode ||
			hdr.Uid != e.Uid || hdr.Gid != e.Gid || !fi.ModTime().Equal(e.ModTime) {
			t.Errorf("%s: got %o %d:%d %v, want %o %d:%d %v", name, hdr.Mode, hdr.Uid, hdr.Gid, fi.ModTime(), e.Mode, e.Uid, e.Gid, e.ModTime)
		}
	}
}

// compare unpacks the tar with GNU tar.
func (tc zooCase) compare(t *testing.T, dir string, data []byte) {
	t.Helper()
	other := filepath.Join(t.TempDir(), "gnu")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", "-", "-C", other)
	cmd.Stdin = bytes.NewReader(data)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("tar: %v\n%s", err, out)
	}
	for _, p := range []string{dir, other} { // their own times say nothing
		if err := os.Chtimes(p, day, day); err != nil {
			t.Fatal(err)
		}
	}
	if d := cmp.Diff(list(t, other, true), list(t, dir, true)); d != "" {
		t.Errorf("GNU tar (-) and Apply (+) differ: %s", d)
	}
}
