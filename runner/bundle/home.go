package bundle

import (
	"io"
	"strings"

	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// maxPasswd is how much of a container's /etc/passwd is read.
const maxPasswd = 4 << 20

// withHome adds the HOME that /etc/passwd below root names for uid to an environment that
// has none, as runc does; "/" if nothing can be learned there.
func withHome(env []string, root string, uid uint32) []string {
	for _, kv := range env {
		if home, ok := strings.CutPrefix(kv, "HOME="); ok && home != "" {
			return env
		}
	}
	return append(env[:len(env):len(env)], "HOME="+homeOf(root, uid))
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
