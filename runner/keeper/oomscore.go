package keeper

import (
	"os"
	"sync"
)

const oomScoreFile = "/proc/self/oom_score_adj"

// oomScore protects the keeper from the kernel's choice of a victim, but not what it starts.
type oomScore struct {
	mu     sync.Mutex
	before string // the value to hand on; empty if ours could not be changed
}

func (o *oomScore) protect() {
	b, err := os.ReadFile(oomScoreFile)
	if err == nil && os.WriteFile(oomScoreFile, []byte("-900"), 0) == nil {
		o.before = string(b)
	}
}

// normal runs f, which forks, with the inherited score.
func (o *oomScore) normal(f func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.before != "" {
		os.WriteFile(oomScoreFile, []byte(o.before), 0)
		defer os.WriteFile(oomScoreFile, []byte("-900"), 0)
	}
	f()
}
