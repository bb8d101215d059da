package keeper

import (
	"io"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/test/privilege"
)

// TestPipe holds that both kinds of pipes pass on what is written and end, that the one with a label has it, and that
// nothing is left of it in the directory. The kernel keeps the attribute without SELinux too.
func TestPipe(t *testing.T) {
	privilege.NeedRoot(t)
	dir, err := os.MkdirTemp("/dev/shm", "teu-pipe-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, label := range []string{"", "system_u:object_r:container_file_t:s0:c1,c2"} {
		r, w, err := Pipe(dir, label)
		if err != nil {
			t.Fatal(err)
		}
		in, out := os.NewFile(uintptr(w), "in"), os.NewFile(uintptr(r), "out")
		buf := make([]byte, 100)
		n, _ := unix.Fgetxattr(w, "security.selinux", buf)
		if got := strings.TrimRight(string(buf[:max(n, 0)]), "\x00"); label != "" && got != label {
			t.Errorf("the label is %q, want %q", got, label)
		}
		if _, err := in.WriteString("hello"); err != nil {
			t.Error(err)
		}
		in.Close()
		if b, err := io.ReadAll(out); err != nil || string(b) != "hello" {
			t.Errorf("label %q: read %q, %v", label, b, err)
		}
		out.Close()
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
