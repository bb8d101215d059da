package cgroup

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Host is where the hierarchies of this host are mounted.
type Host struct {
	mode        Mode
	hierarchies []Hierarchy // V2: the one
	base        string      // below which groups are made, "" for the root
	denied      bool        // no process may be put into a group
}

// Hierarchy is one tree of groups.
type Hierarchy struct {
	Name        string   // the directory it is usually mounted on: "memory", "cpu,cpuacct"
	Mountpoint  string   // absolute
	Controllers []string // v1 only, "name=systemd" for a named one
}

// Options are the mount options that name a v1 hierarchy.
func (h Hierarchy) Options() []string {
	if len(h.Controllers) > 0 && strings.HasPrefix(h.Controllers[0], "name=") {
		return append([]string{"none"}, h.Controllers...)
	}
	return h.Controllers
}

func (h Hierarchy) has(controller string) bool { return slices.Contains(h.Controllers, controller) }

// Detect finds the hierarchies this process can see. A host without any is no error.
func Detect() (*Host, error) {
	f, err := os.Open("/proc/thread-self/mountinfo") // the thread's own: it may have left the others' mounts
	if err != nil {
		return nil, fmt.Errorf("looking for control groups: %w", err)
	}
	defer f.Close()
	h, err := parseMountinfo(f)
	if err != nil {
		return nil, fmt.Errorf("looking for control groups: %w", err)
	}
	return h, nil
}

// Denied says that there are control groups, and none for this user.
func (h *Host) Denied() bool { return h.denied }

// Mode returns the kind of hierarchies.
func (h *Host) Mode() Mode { return h.mode }

// Hierarchies are those in which groups are made.
func (h *Host) Hierarchies() []Hierarchy { return h.inUse() }

// controllers are the v1 controllers a spec can set something of.
func controllers() []string {
	return []string{"memory", "cpu", "cpuacct", "pids", "devices", "freezer", "cpuset", "blkio", "hugetlb", "net_cls", "net_prio", "rdma"}
}

// systemdHierarchy has no controllers: systemd keeps its units there. A systemd in a container
// takes the group it finds itself in for its own, which must not be one of the host's.
const systemdHierarchy = "name=systemd"

func (h *Host) inUse() []Hierarchy {
	if h.mode != V1 {
		return h.hierarchies
	}
	var list []Hierarchy
	for _, hi := range h.hierarchies {
		if hi.controls() || hi.has(systemdHierarchy) {
			list = append(list, hi)
		}
	}
	return list
}

// controls says whether something can be set in a v1 hierarchy.
func (h Hierarchy) controls() bool {
	return slices.ContainsFunc(h.Controllers, func(c string) bool { return slices.Contains(controllers(), c) })
}

// find is the v1 hierarchy of a controller.
func (h *Host) find(controller string) (Hierarchy, bool) {
	for _, hi := range h.inUse() {
		if hi.has(controller) {
			return hi, true
		}
	}
	return Hierarchy{}, false
}

// parseMountinfo reads proc_pid_mountinfo(5). Of several mounts of one hierarchy the first
// whose root is the hierarchy's (as far as this process sees it) counts.
func parseMountinfo(r io.Reader) (*Host, error) {
	var v2 *Hierarchy
	h := &Host{}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, fs := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(fs) < 3 || !strings.HasPrefix(fields[4], "/") {
			continue
		}
		root, point := fields[3], Unescape(fields[4])
		if root != "/" && !strings.HasPrefix(root, "/..") {
			continue // a bind mount of a part
		}
		switch fs[0] {
		case "cgroup2":
			if v2 == nil {
				v2 = &Hierarchy{Mountpoint: point}
			}
		case "cgroup":
			h.addV1(point, fs[2])
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	switch {
	case slices.ContainsFunc(h.hierarchies, Hierarchy.controls):
		h.mode = V1
	case v2 != nil:
		h.mode, h.hierarchies = V2, []Hierarchy{*v2}
	default:
		h.hierarchies = nil
	}
	return h, nil
}

func (h *Host) addV1(point, options string) {
	var list []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "xattr", "noprefix", "clone_children", "none", "cpuset_v2_mode", "favordynmods", "nofavordynmods":
		default:
			if !strings.Contains(o, "=") || strings.HasPrefix(o, "name=") {
				list = append(list, o)
			}
		}
	}
	if len(list) == 0 || slices.ContainsFunc(h.hierarchies, func(x Hierarchy) bool { return x.has(list[0]) }) {
		return
	}
	h.hierarchies = append(h.hierarchies, Hierarchy{Name: filepath.Base(point), Mountpoint: point, Controllers: list})
}

// Unescape undoes the octal escapes of proc_pid_mountinfo(5).
func Unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Own are the groups this process is in, one directory for each of Hierarchies.
func (h *Host) Own() ([]string, error) {
	text, err := readFile("/proc/self", "cgroup")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, hi := range h.inUse() {
		for line := range strings.Lines(text) { // "4:cpu,cpuacct:/path"; v2 has no controllers
			f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			if len(f) == 3 && (h.mode == V2) == (f[1] == "") && (f[1] == "" || hi.has(strings.Split(f[1], ",")[0])) {
				dirs = append(dirs, filepath.Join(hi.Mountpoint, f[2]))
			}
		}
	}
	if len(dirs) != len(h.inUse()) {
		return nil, fmt.Errorf("finding own control groups: %d of %d", len(dirs), len(h.inUse()))
	}
	return dirs, nil
}
