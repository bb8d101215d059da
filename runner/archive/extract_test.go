package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/test/privilege"
)

// A container may put a link in the place of what was removed for an entry, before the entry is made
// (CVE-2018-15664). Nothing is written, or given an owner, where it leads.
func TestPlaceExchanged(t *testing.T) {
	privilege.NeedRoot(t)
	dir, secret := t.TempDir(), t.TempDir()+"/secret"
	if err := errors.Join(os.WriteFile(secret, []byte("text"), 0o600), os.Symlink(secret, dir+"/entry")); err != nil {
		t.Fatal(err)
	}
	parent, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	x := &extractor{}
	for _, kind := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock} {
		for _, exists := range []bool{false, true} { // a directory was there
			h := &tar.Header{Typeflag: kind, Name: "entry", Linkname: "x", Mode: 0o777, Uid: 1234, Gid: 1234}
			if kind != tar.TypeDir && exists {
				continue
			}
			f, err := x.create(parent, "entry", h, strings.NewReader("written"), exists)
			if err == nil && f != nil {
				err = x.dress(f, h)
				f.Close()
			}
			if err == nil && !exists {
				t.Errorf("kind %q: made where a link is", kind)
			}
		}
	}
	fi, err := os.Stat(secret)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(secret); string(text) != "text" || fi.Mode() != 0o600 || err != nil {
		t.Errorf("outside: %q, %v, %v", text, fi.Mode(), err)
	}
}

// What is given to another owner has none of the rights that its maker gave it; a setuid program of a container, copied by root,
// would be root's.
func TestHarmless(t *testing.T) {
	privilege.NeedRoot(t)
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeReg, Name: "setuid", Mode: 0o6755, Uid: 1000, ModTime: time.Unix(1<<40, 0)}, // in nanoseconds it is too much
		{Typeflag: tar.TypeReg, Name: "able", Mode: 0o755, PAXRecords: map[string]string{
			xattrPrefix + "security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff\x00\x00\x00\x00\xff\x01\x00\x00\x00\x00\x00\x00"}},
		{Typeflag: tar.TypeDir, Name: "dir", Mode: 0o7777},
		{Typeflag: tar.TypeBlock, Name: "disk", Mode: 0o666, Devmajor: 7, Devminor: 99},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, harmless := range []bool{false, true} {
		dir := t.TempDir()
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		if err := Extract(t.Context(), root, "/", bytes.NewReader(b.Bytes()), ExtractOptions{Owner: &Owner{}, Harmless: harmless}); err != nil {
			t.Fatal(err)
		}
		got := map[string]uint32{}
		for _, name := range []string{"setuid", "able", "dir", "disk"} {
			var st unix.Stat_t
			if err := unix.Lstat(dir+"/"+name, &st); err != nil || st.Uid != 0 || st.Mtim.Sec < 0 {
				t.Errorf("%s: %v, of user %d, at %d", name, err, st.Uid, st.Mtim.Sec)
			}
			got[name] = st.Mode & 0o7777
		}
		if n, _ := unix.Getxattr(dir+"/able", "security.capability", nil); n > 0 {
			got["able"] |= 0o10000
		}
		want := map[string]uint32{"setuid": 0o6755, "able": 0o10755, "dir": 0o7777, "disk": 0o666}
		if harmless {
			want = map[string]uint32{"setuid": 0o755, "able": 0o755, "dir": 0o1777, "disk": 0o600}
		}
		if !maps.Equal(got, want) {
			t.Errorf("harmless %v: %#v, want %#v", harmless, got, want)
		}
	}
}

// Before it has its owner what an archive brings is open to nobody.
func TestClosedBeforeTheOwner(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	parent, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer parent.Close()
	old := unix.Umask(0)
	defer unix.Umask(old)
	x := &extractor{}
	for _, kind := range []byte{tar.TypeReg, tar.TypeDir} {
		name := string(kind)
		privilege.WithoutChown(t, func() {
			h := &tar.Header{Typeflag: kind, Name: name, Mode: 0o777, Uid: 1234, Gid: 1234}
			f, err := x.create(parent, name, h, strings.NewReader("written"), false)
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			if err := x.dress(f, h); !errors.Is(err, unix.EPERM) {
				t.Errorf("got %v", err)
			}
		})
		fi, err := os.Lstat(dir + "/" + name)
		if err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("kind %q: %v, %v", kind, fi, err)
		}
	}
}

// A few bytes of an archive may stand for any number of zeros (tar(5), "GNU tar archives", sparse files): who unpacks them
// can stop.
func TestExtractEndsWithItsContext(t *testing.T) {
	records := ""
	for _, r := range []string{"major=1", "minor=0", "name=f", "realsize=8589934592"} {
		r = "GNU.sparse." + r + "\n"
		records += fmt.Sprintf("%d %s", len(r)+3, r)
	}
	var archive bytes.Buffer
	tw := tar.NewWriter(&archive)
	for _, body := range []string{records, "1\n0\n0\n" + strings.Repeat("\x00", 506)} { // of the file the map of its pieces
		err := tw.WriteHeader(&tar.Header{Name: "f", Mode: 0o644, Size: int64(len(body))})
		if _, werr := tw.Write([]byte(body)); errors.Join(err, werr) != nil {
			t.Fatal(err, werr)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	b := archive.Bytes()
	b[156] = tar.TypeXHeader
	copy(b[148:], "        ")
	sum := 0
	for _, c := range b[:512] {
		sum += int(c)
	}
	copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // the end comes once something has been written
		for ctx.Err() == nil {
			if fi, err := os.Stat(dir + "/f"); err == nil && fi.Size() > 0 {
				cancel()
			}
			time.Sleep(time.Millisecond)
		}
	}()
	err = Extract(ctx, root, "", bytes.NewReader(b), ExtractOptions{})
	fi, statErr := os.Stat(dir + "/f")
	if !errors.Is(err, context.Canceled) || statErr != nil || fi.Size() == 0 || fi.Size() > 7<<30 {
		t.Errorf("got %v; the file has %v, %v", err, fi, statErr)
	}
}
