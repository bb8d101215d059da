package keeper

import "time"

// Docker's back-off (docs "Restart policy details"; moby restartmanager): 100 ms, doubled
// at each restart up to a minute, and 100 ms again once a run has lasted ten seconds.
const (
	firstDelay = 100 * time.Millisecond
	lastDelay  = time.Minute
	steadyTime = 10 * time.Second
)

// again says whether the policy wants another run after an exit which followed count
// restarts.
func (p RestartPolicy) again(e ExitStatus, count int) bool {
	switch p.Name {
	case "always", "unless-stopped":
		return true
	case "on-failure":
		return e.Code != 0 && (p.MaxRetries == 0 || count < p.MaxRetries)
	}
	return false
}
