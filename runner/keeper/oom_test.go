package keeper

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/teu-dev/teu/test/privilege"
)

// cgroup.events announces its changes as memory.events does, and is there without a limit
// of memory, in the unified hierarchy of a hybrid host too.
func TestWatchMemoryFollowsCgroupV2(t *testing.T) {
	privilege.NeedRoot(t)
	top := "/sys/fs/cgroup/unified"
	if _, err := os.Stat(top); errors.Is(err, os.ErrNotExist) {
		top = "/sys/fs/cgroup"
	}
	dir, err := os.MkdirTemp(top, "teu-watch-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	events := filepath.Join(dir, "cgroup.events")
	calls, ended := make(chan string), make(chan error)
	done := make(chan struct{})
	defer close(done)
	go func() {
		ended <- watchMemory(events, func() bool {
			b, _ := os.ReadFile(events)
			select {
			case calls <- string(b):
			case <-done:
			}
			return false
		})
	}()
	await := func(line string) {
		t.Helper()
		for {
			select {
			case got := <-calls:
				if strings.Contains(got, line) {
					return
				}
			case err := <-ended:
				t.Fatal(err)
			case <-t.Context().Done():
				t.Fatalf("no call with %q", line)
			}
		}
	}
	await("frozen 0")
	for _, value := range []string{"1", "0", "1"} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.freeze"), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
		await("frozen " + value)
	}
}
