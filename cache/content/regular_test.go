package content

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// TestBlobThatIsNoFile: a layout that somebody else made may have a FIFO for a blob, or a link to a device.
func TestBlobThatIsNoFile(t *testing.T) {
	for name, test := range map[string]struct {
		make func(path string) error
		want func(error) bool
	}{
		"FIFO":              {func(path string) error { return unix.Mkfifo(path, 0o600) }, errdefs.IsInvalidArgument},
		"link to a device":  {func(path string) error { return os.Symlink("/dev/zero", path) }, errdefs.IsInvalidArgument},
		"directory":         {func(path string) error { return os.Mkdir(path, 0o700) }, errdefs.IsInvalidArgument},
		"link to nowhere":   {func(path string) error { return os.Symlink("/none", path) }, errdefs.IsNotFound},
		"link to something": {func(path string) error { return os.Symlink("/etc/hostname", path) }, func(err error) bool { return err == nil }}, // whose bytes are verified
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			d := ocispec.Descriptor{Digest: digest.FromString("x"), Size: 1}
			if err := os.MkdirAll(filepath.Dir(s.Path(d.Digest)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := test.make(s.Path(d.Digest)); err != nil {
				t.Fatal(err)
			}
			r, err := s.Fetch(t.Context(), d)
			if !test.want(err) {
				t.Errorf("got %v", err)
			}
			if err == nil {
				r.Close()
			}
		})
	}
}
