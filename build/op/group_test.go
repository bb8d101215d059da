package op

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"testing"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/test/privilege"
)

// TestSweepGroups: what a killed build left is removed, what a living one has is not.
func TestSweepGroups(t *testing.T) {
	privilege.NeedRoot(t)
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	if len(host.Hierarchies()) == 0 {
		t.Skip("no control groups on this host")
	}
	self, err := statefile.Self()
	if err != nil {
		t.Fatal(err)
	}
	dead := self
	dead.StartTime++ // the PID was used again
	names := map[bool]string{true: groupName(self), false: groupName(dead)}
	old := time.Now().Add(-time.Hour)
	for _, name := range names {
		g, _, err := host.Create(path.Join("teu", name), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { g.Remove(context.Background()) })
		for _, h := range host.Hierarchies() {
			if err := os.Chtimes(filepath.Join(h.Mountpoint, "teu", name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	sweepGroups(t.Context(), host)
	for alive, name := range names {
		_, err := os.Stat(filepath.Join(host.Hierarchies()[0].Mountpoint, "teu", name))
		if alive != (err == nil) {
			t.Errorf("group %s of a process that is alive: %v; its directory: %v", name, alive, err)
		}
	}
}
