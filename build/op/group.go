package op

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
)

// groupName names the control group of one command, so that whoever finds it knows whose it is:
// a process that is killed leaves its groups behind.
func groupName(self statefile.Process) string {
	return fmt.Sprintf("build-%d-%d-%s", self.PID, self.StartTime, strings.ToLower(rand.Text()[:12]))
}

// sweepGroups removes the groups of processes that are gone. Failures do not matter: a group that
// has processes cannot be removed, and the next build tries again.
func sweepGroups(ctx context.Context, host *cgroup.Host) {
	found := map[string]bool{}
	for _, h := range host.Hierarchies() {
		dirs, _ := filepath.Glob(filepath.Join(h.Mountpoint, "teu", "build-*"))
		for _, dir := range dirs {
			if abandoned(dir) {
				found[path.Base(dir)] = true
			}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for name := range found {
		host.Open(path.Join("teu", name)).Remove(ctx)
	}
}

// abandoned says whether the process that made the group is gone. One of another PID namespace looks
// gone too; its groups are busy but for the moment in which they are made.
func abandoned(dir string) bool {
	var pid int
	var start uint64
	if n, _ := fmt.Sscanf(filepath.Base(dir), "build-%d-%d-", &pid, &start); n != 2 {
		return false
	}
	fi, err := os.Stat(dir)
	if err != nil || time.Since(fi.ModTime()) < time.Minute {
		return false
	}
	now, err := statefile.Identify(pid)
	return err != nil || now.StartTime != start
}
