// Package systemd has systemd make the control groups of containers, as transient scopes.
package systemd

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// Scope names a transient unit whose control group is a container's; systemd.scope(5).
type Scope struct {
	Unit  string // "libpod-ID.scope", "" if there is none
	Slice string // "machine.slice"
}

// ParseScope reads a cgroupsPath as it is where systemd makes the groups:
// "SLICE:PREFIX:NAME" (runc, docs/systemd.md). One that is empty takes the defaults.
func ParseScope(cgroupsPath, id string, user bool) (Scope, error) {
	s := Scope{Slice: "system.slice"}
	if user {
		s.Slice = "user.slice"
	}
	if cgroupsPath == "" {
		cgroupsPath = ":teu-oci:" + id
	}
	parts := strings.Split(cgroupsPath, ":")
	if len(parts) != 3 {
		return s, fmt.Errorf("cgroupsPath %q is not of the form slice:prefix:name, which control groups made by systemd have: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}
	if parts[0] != "" {
		s.Slice = parts[0]
	}
	if _, err := slicePath(s.Slice); err != nil {
		return s, err
	}
	s.Unit = strings.TrimPrefix(parts[1]+"-", "-") + parts[2] + ".scope"
	if !unitName().MatchString(s.Unit) || parts[2] == "" || strings.HasSuffix(parts[2], ".slice") {
		return s, fmt.Errorf("cgroupsPath %q: no name for a scope: %w", cgroupsPath, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// unitName is what a unit can be called; systemd.unit(5).
func unitName() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9:_.\\@-]{1,255}$`) }

// Path is the control group of a scope below that of the manager.
func (s Scope) Path() (string, error) {
	dir, err := slicePath(s.Slice)
	return path.Join(dir, s.Unit), err
}

// slicePath is the control group of a slice: "a-b.slice" is below "a.slice"; systemd.slice(5).
func slicePath(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if name == "-" && ok {
		return "/", nil
	}
	if !ok || !unitName().MatchString(slice) {
		return "", fmt.Errorf("slice %q: no name of a slice: %w", slice, errdefs.ErrInvalidArgument)
	}
	dir, at := "/", ""
	for part := range strings.SplitSeq(name, "-") {
		if part == "" {
			return "", fmt.Errorf("slice %q: no name of a slice: %w", slice, errdefs.ErrInvalidArgument)
		}
		at = strings.TrimPrefix(at+"-"+part, "-")
		dir = path.Join(dir, at+".slice")
	}
	return dir, nil
}
