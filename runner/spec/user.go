package spec

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Limits of what is read of the image.
const (
	maxPasswd = 4 << 20
	maxID     = 1<<31 - 1 // larger ones turn negative in many a program (CVE-2024-40635)
	maxGroups = 65536     // NGROUPS_MAX, setgroups(2)
)

// defaultPath is docker's PATH for images without one; moby oci/defaults.go.
const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// user resolves the user and makes the environment, which knows the user's home.
func (m *maker) user() error {
	name := m.img.User
	if m.o.User != "" {
		name = m.o.User
	}
	u, home, err := resolveUser(m.o.Files, name, m.o.Groups)
	if err != nil {
		return err
	}
	m.spec.Process.User = u
	env := []string{defaultPath}
	if m.o.Hostname != "" {
		env = append(env, "HOSTNAME="+m.o.Hostname)
	}
	if m.o.TTY {
		env = append(env, "TERM=xterm")
	}
	m.spec.Process.Env, err = environment(env, home, MergeEnv(m.o.Env, m.img.Env))
	return err
}

// resolveUser finds user[:group] in the image's files, by docker's rules: a number that is
// nobody's is taken as it is, a name must exist; the groups of the user are added unless a
// group was given; the group of the process is among the additional ones (CVE-2022-36109).
func resolveUser(files Files, name string, groups []string) (u specs.User, home string, err error) {
	passwd, err := readAccounts(files, "/etc/passwd")
	if err != nil {
		return u, "", err
	}
	group, err := readAccounts(files, "/etc/group")
	if err != nil {
		return u, "", err
	}
	found, err := user.GetExecUser(name, nil, reader(passwd), reader(group))
	if err != nil {
		return u, "", classify(fmt.Sprintf("user %q", name), err)
	}
	added, err := user.GetAdditionalGroups(groups, reader(group))
	if err != nil {
		return u, "", classify(fmt.Sprintf("groups %q", groups), err)
	}
	all := slices.Concat([]int{found.Gid}, found.Sgids, added)
	for _, id := range append(all, found.Uid) {
		if id < 0 || id > maxID {
			return u, "", invalid("user %q: id %d is out of range", name, id)
		}
	}
	if len(all) > maxGroups {
		return u, "", invalid("user %q has %d groups", name, len(all))
	}
	u.UID, u.GID = uint32(found.Uid), uint32(found.Gid)
	for _, g := range all {
		u.AdditionalGids = append(u.AdditionalGids, uint32(g))
	}
	slices.Sort(u.AdditionalGids)
	u.AdditionalGids = slices.Compact(u.AdditionalGids)
	if found.Home == "" || strings.IndexByte(found.Home, 0) >= 0 {
		return u, "/", nil
	}
	return u, found.Home, nil
}

// reader is nil where there is no file, which the parsers understand.
func reader(b []byte) io.Reader {
	if b == nil {
		return nil
	}
	return bytes.NewReader(b)
}

// readAccounts reads a file of the image, nil if there is none.
func readAccounts(files Files, path string) ([]byte, error) {
	if files == nil {
		return nil, nil
	}
	b, err := files.ReadFile(path, maxPasswd)
	switch {
	case err == nil && b == nil:
		return []byte{}, nil
	case err == nil:
		return b, nil
	case errors.Is(err, os.ErrNotExist) || errdefs.IsNotFound(err):
		return nil, nil
	}
	return nil, fmt.Errorf("reading %s of the image: %w", path, err)
}

// classify makes an error of the parsers one of what was wished for. One that names a user
// who is not there is in docker's words already.
func classify(what string, err error) error {
	if errors.Is(err, user.ErrNoPasswdEntries) || errors.Is(err, user.ErrNoGroupEntries) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%s: %w: %w", what, err, errdefs.ErrInvalidArgument)
}

// MergeEnv is the environment of a container's configuration: the user's variables, and those of the
// image that have no name of these (moby daemon/commit.go, merge).
func MergeEnv(user, image []string) []string {
	env := slices.Clone(user)
	for _, kv := range image {
		name, _, _ := strings.Cut(kv, "=")
		if !slices.ContainsFunc(user, func(u string) bool { n, _, _ := strings.Cut(u, "="); return n == name }) {
			env = append(env, kv)
		}
	}
	return env
}

// environment is base, changed by the variables of changes. A name
// without a value removes the variable; it never means a variable of ours
// (CVE-2026-57231). HOME stands last if it is ours, so that an exec as another user can
// tell it from one that was asked for.
func environment(base []string, home string, changes []string) ([]string, error) {
	env := slices.Clone(base)
	for _, kv := range changes {
		name, _, set := strings.Cut(kv, "=")
		if strings.IndexByte(kv, 0) >= 0 {
			return nil, invalid("environment variable %q has a NUL", name)
		}
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case name == "": // "=x" is no variable
		case set && i >= 0:
			env[i] = kv
		case set:
			env = append(env, kv)
		case i >= 0:
			env = slices.Delete(env, i, i+1)
		}
	}
	return withHome(env, home), nil
}

// withHome adds HOME at the end, or makes sure that one that was asked for is not there. An empty one
// counts as none, as for runc.
func withHome(env []string, home string) []string {
	i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, "HOME=") })
	if i >= 0 && env[i] == "HOME=" {
		env, i = slices.Delete(env, i, i+1), -1
	}
	if i < 0 {
		return append(env, "HOME="+home)
	}
	asked := env[i]
	return append([]string{asked}, slices.Delete(env, i, i+1)...)
}
