package statefile_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

func TestScan(t *testing.T) {
	dir := t.TempDir()
	for _, sub := range []string{"one", "two", "bare"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "one/record"), []byte("123"), 0o600),
		os.Symlink("/etc", filepath.Join(dir, "two/record")), // is not followed
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	scan := func(beneath string) (names []string) {
		err := statefile.Scan(dir, beneath, func(name string, st *unix.Stat_t) error {
			names = append(names, name)
			if name == "two" && beneath != "" && st.Mode&unix.S_IFMT != unix.S_IFLNK {
				t.Errorf("two/record has the mode %o, want a symbolic link", st.Mode)
			}
			if name == "one" && beneath != "" && st.Size != 3 {
				t.Errorf("one/record has %d bytes, want 3", st.Size)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(names)
		return names
	}
	if got, want := scan(""), []string{"bare", "file", "one", "two"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := scan("/record"), []string{"one", "two"}; !slices.Equal(got, want) {
		t.Errorf("those with a record: got %v, want %v", got, want)
	}
	stop := errors.New("stop")
	calls := 0
	if err := statefile.Scan(dir, "", func(string, *unix.Stat_t) error { calls++; return stop }); !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls and %v, want one and its error", calls, err)
	}
	if err := statefile.Scan(filepath.Join(dir, "none"), "", nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no directory: %v", err)
	}
}
