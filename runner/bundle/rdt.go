package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/cgroup"
)

// rdt are the groups of resctrl that a container's processes are in: shares of caches and of
// memory bandwidth; runtime-spec 1.3, config-linux.md, "IntelRdt", and the kernel's
// Documentation/filesystems/resctrl.rst.
type rdt struct {
	Class   string `json:",omitempty"` // directory of the class of service
	Own     bool   `json:",omitempty"` // the class is the container's alone
	Monitor string `json:",omitempty"` // directory of its monitoring group
}

// claimRDT chooses the groups of a container, which are made by makeRDT.
func (c *Container) claimRDT(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	root, err := c.store.resctrl()
	if err != nil {
		return err
	}
	class := cmp.Or(r.ClosID, c.ID)
	if class != filepath.Base(class) || slices.Contains([]string{".", "..", "info", "mon_data", "mon_groups"}, class) || strings.Contains(class, "\n") {
		return fmt.Errorf("intelRdt: closID %q: %w", class, errdefs.ErrInvalidArgument)
	}
	c.RDT = rdt{Class: filepath.Join(root, class)} // "/" is the root
	if r.ClosID == "" {
		_, err := os.Lstat(c.RDT.Class)
		c.RDT.Own = errors.Is(err, os.ErrNotExist)
	}
	if r.EnableMonitoring {
		c.RDT.Monitor = filepath.Join(c.RDT.Class, "mon_groups", c.ID)
	}
	return nil
}

// makeRDT makes the groups. A class that is there is somebody else's, whose shares stay as they are.
func (c *Container) makeRDT(r *specs.LinuxIntelRdt) error {
	if r == nil {
		return nil
	}
	lines := schemata(r)
	made := false
	if r.ClosID == "" || len(lines) > 0 {
		err := os.Mkdir(c.RDT.Class, 0o755)
		if made = err == nil; !made && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("intelRdt: %w", err)
		}
	}
	if _, err := os.Stat(c.RDT.Class); err != nil {
		return fmt.Errorf("intelRdt: no such class of service: %w", err)
	}
	switch {
	case len(lines) == 0:
	case made:
		if err := c.writeRDT(c.RDT.Class, "schemata", strings.Join(lines, "\n")+"\n"); err != nil {
			return err
		}
	default:
		now, err := os.ReadFile(filepath.Join(c.RDT.Class, "schemata"))
		if err != nil {
			return fmt.Errorf("intelRdt: %w", err)
		}
		if err := sameShares(shares(lines), shares(strings.Split(string(now), "\n"))); err != nil {
			return err
		}
	}
	if c.RDT.Monitor != "" {
		if err := os.Mkdir(c.RDT.Monitor, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("intelRdt: %w", err)
		}
	}
	return nil
}

// sameShares says which of the wanted shares a class has not.
func sameShares(wanted, has map[string]string) error {
	for _, domain := range slices.Sorted(maps.Keys(wanted)) {
		if has[domain] != wanted[domain] {
			return fmt.Errorf("intelRdt: the class of service is there and has %s=%s, not %s: %w", domain, has[domain], wanted[domain], errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// shares reads lines of schemata such as "L3:0=7f0;1=1f": the last of each domain, "L3:0", counts.
func shares(lines []string) map[string]string {
	m := map[string]string{}
	for _, line := range lines {
		resource, list, _ := strings.Cut(strings.TrimSpace(line), ":")
		for part := range strings.SplitSeq(list, ";") {
			if domain, value, ok := strings.Cut(part, "="); ok {
				value = strings.TrimLeft(strings.ToLower(strings.TrimSpace(value)), "0")
				m[resource+":"+strings.TrimSpace(domain)] = cmp.Or(value, "0")
			}
		}
	}
	return m
}

// schemata are the lines to be written, those that are given as such last.
func schemata(r *specs.LinuxIntelRdt) (lines []string) {
	for line := range strings.SplitSeq(r.L3CacheSchema, "\n") {
		// What is said of bandwidth elsewhere counts.
		if line != "" && (r.MemBwSchema == "" || !strings.HasPrefix(line, "MB:")) {
			lines = append(lines, line)
		}
	}
	if r.MemBwSchema != "" {
		lines = append(lines, r.MemBwSchema)
	}
	return append(lines, r.Schemata...)
}

// dirs are the directories of the groups.
func (r rdt) dirs() []string {
	return slices.DeleteFunc([]string{r.Class, r.Monitor}, func(dir string) bool { return dir == "" })
}

// joinRDT puts the first process, which waits for its start, into the groups.
func (c *Container) joinRDT(pid int) error {
	for _, dir := range c.RDT.dirs() {
		if err := c.writeRDT(dir, "tasks", strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// writeRDT writes a file of a group. The kernel says in another file what it does not like.
func (c *Container) writeRDT(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("intelRdt: %w", err)
	}
	_, err = f.WriteString(value)
	if err = errors.Join(err, f.Close()); err == nil {
		return nil
	}
	if root, e := c.store.resctrl(); e == nil {
		if why, e := os.ReadFile(filepath.Join(root, "info/last_cmd_status")); e == nil {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(why)))
		}
	}
	return fmt.Errorf("intelRdt: writing %q: %w", value, err)
}

// leaveRDT removes what is the container's own of its groups; the processes have ended.
func (c *Container) leaveRDT() error {
	for _, dir := range slices.Backward(c.RDT.dirs()) {
		if dir == c.RDT.Class && !c.RDT.Own {
			continue
		}
		if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
			return fmt.Errorf("intelRdt: rmdir %s: %w", dir, err)
		}
	}
	return nil
}

// mountedResctrl is where the host has resctrl.
func mountedResctrl() (string, error) {
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(info)) {
		before, after, _ := strings.Cut(line, " - ")
		if f := strings.Fields(before); len(f) > 4 && strings.HasPrefix(after, "resctrl ") {
			return cgroup.Unescape(f[4]), nil
		}
	}
	return "", fmt.Errorf("intelRdt: no resctrl file system is mounted on this host: %w", errdefs.ErrNotImplemented)
}
