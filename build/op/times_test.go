package op

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Nanoseconds in 64 bits end in 2262 and begin in 1677; an archive may say any time. What the filesystem cannot hold
// it makes its last or first.
func TestTimesFarAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, year := range []int{1500, 2400, 9999} {
		if err := setTimes(unix.AT_FDCWD, path, time.Date(year, 1, 2, 3, 4, 5, 6, time.UTC)); err != nil {
			t.Fatal(err)
		}
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := fi.ModTime().UTC().Year(); year > 2038 && got <= 2038 || year < 1970 && got > 1970 {
			t.Errorf("the year %d became %d", year, got)
		}
	}
}
