package op

import (
	"fmt"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// TestPlacedAgain: kernels before 6.15 take files out of a mount without a place by giving it one for a
// moment, as often as there are files.
func TestPlacedAgain(t *testing.T) {
	privilege.NeedRoot(t)
	whole, err := newTmpfs()
	if err != nil {
		t.Fatal(err)
	}
	y := &memory{whole: whole, dir: newDir(whole)}
	defer y.close()
	for i := range 3 {
		name := fmt.Sprint(i)
		if err := y.write(name, []byte("text "+name), 0o644, 0, 0); err != nil {
			t.Fatal(err)
		}
		f, err := y.dir.OpenFile(name, unix.O_PATH, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fd := -1
		err = placed(whole, func() (err error) {
			fd, err = openTree(f)
			return err
		})
		if err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
		d := os.NewFile(uintptr(fd), name)
		defer d.Close()
		r, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if data, err := io.ReadAll(r); err != nil || string(data) != "text "+name {
			t.Errorf("file %d: %q, %v", i, data, err)
		}
	}
}
