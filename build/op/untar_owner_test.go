package op

import (
	"archive/tar"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/test/privilege"
)

// Before it has its owner what an archive brings is open to nobody.
func TestUntarClosedBeforeTheOwner(t *testing.T) {
	privilege.NeedRoot(t)
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	old := unix.Umask(0)
	defer unix.Umask(old)
	x := &extractor{root: root, warn: t.Logf}
	for _, kind := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeFifo} {
		h := &tar.Header{Typeflag: kind, Name: string(kind), Mode: 0o777, Uid: 1234, Gid: 1234}
		privilege.WithoutChown(t, func() {
			if err := x.entry(t.Context(), h, strings.NewReader("")); !errors.Is(err, unix.EPERM) {
				t.Errorf("kind %q: got %v", kind, err)
			}
		})
		if fi, err := os.Lstat(dir + "/" + h.Name); err != nil || fi.Mode().Perm()&0o077 != 0 {
			t.Errorf("kind %q: %v, %v", kind, fi, err)
		}
	}
}
