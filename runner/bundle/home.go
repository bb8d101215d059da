package bundle

import (
	"io"
	"slices"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// maxPasswd is how much of a container's /etc/passwd is read.
const maxPasswd = 4 << 20

// withHome adds the HOME that /etc/passwd below root names for uid to an environment that
// has none or an empty one, as runc does; "/" if nothing can be learned there.
func withHome(env []string, root string, uid uint32) []string {
	env = lastValues(env)
	i := slices.IndexFunc(env, func(kv string) bool { return strings.HasPrefix(kv, "HOME=") })
	switch {
	case i < 0:
		return append(env, "HOME="+homeOf(root, uid))
	case env[i] == "HOME=":
		env[i] += homeOf(root, uid)
	}
	return env
}

// lastValues has each variable once, with its last value: programs differ in which they take.
func lastValues(env []string) []string {
	seen := make(map[string]bool, len(env))
	list := make([]string, 0, len(env)+1)
	for _, kv := range slices.Backward(env) {
		name, _, _ := strings.Cut(kv, "=")
		if !seen[name] {
			list = append(list, kv)
		}
		seen[name] = true
	}
	slices.Reverse(list)
	return list
}

// homeOf looks without leaving root, and never waits: the file may be a FIFO (CVE-2024-9676).
func homeOf(root string, uid uint32) string {
	dir, err := rootfs.Open(root)
	if err != nil {
		return "/"
	}
	defer dir.Close()
	f, err := dir.OpenFile("/etc/passwd", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return "/"
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return "/"
	}
	found, err := user.ParsePasswdFilter(io.LimitReader(f, maxPasswd), func(u user.User) bool { return u.Uid == int(uid) })
	if err != nil || len(found) == 0 || !strings.HasPrefix(found[0].Home, "/") || strings.IndexByte(found[0].Home, 0) >= 0 {
		return "/"
	}
	return found[0].Home
}
