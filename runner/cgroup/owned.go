package cgroup

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/userns"
)

// DetectOwned is Detect for who may not be root of the host, or only of a container that cannot
// write to its groups. Where root's groups are out of reach it finds the part of the unified
// hierarchy that was delegated to the user, by systemd or by the administrator; without any the
// host counts as one without control groups. A process may be moved within the delegated part only (cgroups(7), "Delegation"):
// one that is elsewhere can look after groups there, and makes none.
func DetectOwned() (*Host, error) {
	h, err := Detect()
	if err != nil || h.writable() || !userns.Inside() && !userns.ProcCovered() {
		return h, err
	}
	none := &Host{denied: true}
	if h.mode != V2 {
		return none, nil
	}
	own, err := h.Own()
	if err != nil {
		return none, nil
	}
	root := h.hierarchies[0].Mountpoint
	if base := topmostWritable(root, own[0]); base != "" {
		h.base = base
		return h, nil
	}
	uid := userns.Owner()
	base := fmt.Sprintf("/user.slice/user-%d.slice/user@%d.service", uid, uid)
	if unix.Access(filepath.Join(root, base), unix.W_OK) == nil {
		h.base, h.denied = base, true
		return h, nil
	}
	return none, nil
}

// writable says whether groups can be made at the roots of all hierarchies.
func (h *Host) writable() bool {
	for _, hi := range h.inUse() {
		if unix.Access(hi.Mountpoint, unix.W_OK) != nil {
			return false
		}
	}
	return true
}

// topmostWritable is the path below root of the highest group on the way to dir in which
// this process may make groups and move processes, or "".
func topmostWritable(root, dir string) string {
	rel, err := filepath.Rel(root, dir)
	if err != nil || strings.HasPrefix(rel, "..") {
		return ""
	}
	at := ""
	for part := range strings.SplitSeq(rel, "/") {
		at = path.Join(at, "/", part)
		if unix.Access(filepath.Join(root, at), unix.W_OK) == nil && unix.Access(filepath.Join(root, at, "cgroup.procs"), unix.W_OK) == nil {
			return at
		}
	}
	return ""
}
