package userns

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Range are IDs in a row.
type Range struct{ Start, Count uint32 }

// Mapping is who the users and groups of the namespace are outside of it: root is the user,
// those from 1 on are the subordinate IDs the administrator has granted.
type Mapping struct {
	UID, GID   uint32
	UIDs, GIDs []Range // none: root is the only one
	Same       bool    // every ID is the same outside, which takes a root with CAP_SETUID and CAP_SETGID
}

// userMapping is the mapping of this process's user. Without subordinate IDs of either
// kind, or the programs that may map them, it has one ID only; Lacking says what lacks. Root has
// the IDs that it has.
func userMapping() (Mapping, error) {
	m := Mapping{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	if m.UID == 0 {
		m.Same = true
		return m, nil
	}
	name := userName(m.UID)
	uids, err := Subordinate("/etc/subuid", name, m.UID)
	if err != nil {
		return m, err
	}
	gids, err := Subordinate("/etc/subgid", name, m.UID)
	if err != nil {
		return m, err
	}
	if len(uids) > 0 && len(gids) > 0 && len(Lacking()) == 0 {
		m.UIDs, m.GIDs = uids, gids
	}
	return m, nil
}

// Lacking are the programs that map subordinate IDs and are not installed.
func Lacking() (names []string) {
	for _, p := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(p); err != nil {
			names = append(names, p)
		}
	}
	return names
}

// userName is the name of a user, or its number where nobody knows it.
func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return number
}

// Subordinate reads the ranges a file grants to a user, by name or number; subuid(5). A
// missing file grants none.
func Subordinate(file, name string, uid uint32) ([]Range, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list, err := parseSubordinate(f, name, uid)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// maxRanges keeps within the kernel's 340 lines of a map (user_namespaces(7)).
const maxRanges = 300

// parseSubordinate reads lines of NAME:START:COUNT. What is none is passed over, as by
// newuidmap.
func parseSubordinate(r io.Reader, name string, uid uint32) (list []Range, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<16)
	for lines.Scan() && len(list) < maxRanges {
		f := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(f) != 3 || f[0] != name && f[0] != strconv.FormatUint(uint64(uid), 10) {
			continue
		}
		start, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 != nil || err2 != nil || count == 0 || start == 0 || start+count >= 1<<32-1 {
			continue
		}
		list = append(list, Range{uint32(start), uint32(count)})
	}
	return list, lines.Err()
}

// arguments are those of newuidmap(1) after the process: inside, outside, count, and again.
func arguments(root uint32, ranges []Range) []string {
	args := []string{"0", fmt.Sprint(root), "1"}
	next := uint64(1)
	for _, r := range ranges {
		if next+uint64(r.Count) >= 1<<32-1 {
			break
		}
		args = append(args, fmt.Sprint(next), fmt.Sprint(r.Start), fmt.Sprint(r.Count))
		next += uint64(r.Count)
	}
	return args
}

// apply gives the user namespace of a process its mapping.
func (m Mapping) apply(ctx context.Context, pid int) error {
	if m.Same {
		return applySame(pid)
	}
	if len(m.UIDs) == 0 {
		return m.applySingle(pid)
	}
	for _, p := range []struct {
		name string
		args []string
	}{{"newuidmap", arguments(m.UID, m.UIDs)}, {"newgidmap", arguments(m.GID, m.GIDs)}} {
		out, err := exec.CommandContext(ctx, p.name, append([]string{strconv.Itoa(pid)}, p.args...)...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%s: %w: %s: %w", p.name, err, strings.TrimSpace(string(out)), errdefs.ErrFailedPrecondition)
		}
	}
	return nil
}

// applySame maps all IDs of this process's namespace to themselves.
func applySame(pid int) error {
	for _, name := range []string{"uid_map", "gid_map"} {
		own, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), []byte(sameMap(string(own))), 0); err != nil {
			return fmt.Errorf("mapping users takes CAP_SETUID, CAP_SETGID and CAP_SETFCAP: %w", err)
		}
	}
	return nil
}

// sameMap is the map of a namespace that has the IDs of one with the map own. The last of all IDs is left
// out: it is no user (setreuid(2)), and only the host's own namespace has a map that is whole (Inside).
func sameMap(own string) string {
	var b strings.Builder
	for line := range strings.Lines(own) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			continue
		}
		if count = min(count, 1<<32-2-inside); count > 0 {
			fmt.Fprintf(&b, "%d %d %d\n", inside, inside, count)
		}
	}
	return b.String()
}

// applySingle maps the user alone, which needs nobody's permission if groups cannot be set.
func (m Mapping) applySingle(pid int) error {
	for _, f := range []struct{ name, text string }{
		{"setgroups", "deny"},
		{"uid_map", fmt.Sprintf("0 %d 1\n", m.UID)},
		{"gid_map", fmt.Sprintf("0 %d 1\n", m.GID)},
	} {
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, f.name), []byte(f.text), 0); err != nil {
			return cannotMake(err)
		}
	}
	return nil
}
