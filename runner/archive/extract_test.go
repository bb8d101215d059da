package archive

import (
	"archive/tar"
	"errors"
	"os"
	"strings"
	"testing"

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
