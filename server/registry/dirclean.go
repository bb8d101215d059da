package registry

import (
	"os"
	"strings"
	"sync"
	"time"
)

// cleanList remembers the repositories without garbage, so that a collection need not read
// the manifests of what nobody pushed to since. A change by whoever it may be changes the
// stamp.
type cleanList struct {
	mu sync.Mutex
	m  map[string]string // repository -> stamp
}

// stampRepository returns what changes with every manifest and blob that is added to or
// removed from a repository. "" when it has changed just now, see settled.
func (s *directory) stampRepository(repo string) string {
	var b strings.Builder
	now := time.Now()
	for _, sub := range []string{"/_manifests/", "/_blobs/"} {
		for _, a := range algorithms {
			fi, err := os.Lstat(s.repo(repo) + sub + a.String())
			if err != nil {
				b.WriteString("- ")
				continue
			}
			if now.Sub(fi.ModTime()) < settled {
				return ""
			}
			b.WriteString(fi.ModTime().Format(time.RFC3339Nano) + " ")
		}
	}
	return b.String()
}

func (l *cleanList) is(repo, stamp string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return stamp != "" && l.m[repo] == stamp
}

func (l *cleanList) set(repo, stamp string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.m == nil || len(l.m) >= maxKnown {
		l.m = map[string]string{}
	}
	l.m[repo] = stamp
}
