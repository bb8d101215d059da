// Package userns makes an ordinary user root of a user namespace, in which everything else
// of teu then works as it does for root.
//
// All processes of a user share one user namespace and one mount namespace: only in the
// namespace of a container's parent may a process signal its processes, enter it and see
// its mounts. A process of a few instructions, the holder, keeps both alive; it is named in
//
//	RUNROOT/namespaces.json
//
// and made by who comes first. When it was killed, another takes its place in the
// namespaces of any process that was left, a container's keeper.
//
//	teu (uid 1000) -- execve --> tinyelf.Enter: setns(user), setns(mnt) -- execve --> teu (uid 0)
//
// A Go program has several threads from its beginning, and setns(2) takes none such into a
// user namespace; hence the step between. The process remains the same.
//
// For containers with users of their own it makes namespaces that belong to those (Make).
package userns

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/slack"
	"github.com/teu-dev/teu/runner/tinyelf"
)

// Options say where the namespaces are and what is executed in them.
type Options struct {
	RunRoot string // directory of volatile state, made for the user alone
	// Survivors are processes that may be in the namespaces, should their holder be gone.
	Survivors func() []statefile.Process
	// Warn is told once, when namespaces are made, what they cannot have.
	Warn func(string)
	Path string   // the program
	Args []string // with its name
	Env  []string
}

// Needed says whether this process can do what teu does in a user namespace only: its user is not
// root, or a root who may not mount or not change networks, as in most containers.
func Needed() bool {
	if os.Geteuid() != 0 {
		return true
	}
	var caps [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &caps[0]) != nil {
		return false
	}
	const needed = 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN
	return caps[0].Effective&needed != needed
}

// Enter executes a program as root of the user's namespaces, in place of this process. It
// returns only with an error.
func Enter(ctx context.Context, o Options) error {
	if err := OwnDir(o.RunRoot); err != nil {
		return fmt.Errorf("%w; set XDG_RUNTIME_DIR or TEU_RUN_ROOT to a directory that does", err)
	}
	ns, err := find(ctx, o)
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	defer ns.close()
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	return ns.execute(dir, o.Path, o.Args, o.Env)
}

// OwnDir makes a directory of the user alone. In a directory where everybody may write,
// somebody else could have been there first, which is an errdefs.ErrPermissionDenied.
func OwnDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Dir(dir)} {
		var st unix.Stat_t
		if err := unix.Lstat(d, &st); err != nil {
			return &os.PathError{Op: "lstat", Path: d, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() && (d == dir || st.Uid != 0) || d == dir && st.Mode&0o022 != 0 {
			return fmt.Errorf("%s does not belong to user %d alone: %w", d, os.Geteuid(), errdefs.ErrPermissionDenied)
		}
	}
	return nil
}

// record is namespaces.json.
type record struct{ Holder statefile.Process }

func recordFile(runRoot string) string { return filepath.Join(runRoot, "namespaces.json") }

// find opens the namespaces, which it makes if there are none.
func find(ctx context.Context, o Options) (namespaces, error) {
	if ns, err := recorded(o.RunRoot); err == nil {
		return ns, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	unlock, err := statefile.Lock(ctx, filepath.Join(o.RunRoot, "namespaces.lock"), statefile.LockOptions{})
	if err != nil {
		return namespaces{}, err
	}
	defer unlock()
	if ns, err := recorded(o.RunRoot); err == nil {
		return ns, nil
	}
	in, stay, err := os.Pipe()
	if err != nil {
		return namespaces{}, err
	}
	defer in.Close()
	defer stay.Close()
	holder, err := reviveHolder(in, o.Survivors)
	if err != nil {
		holder, err = newHolder(ctx, in, o.Warn)
	}
	if err != nil {
		return namespaces{}, err
	}
	err = statefile.Write(recordFile(o.RunRoot), record{holder}, statefile.WriteOptions{})
	if err == nil { // before, it would end with this process, as nobody else could find it
		_, err = stay.Write([]byte{1})
	}
	if err == nil {
		var ns namespaces
		if ns, err = open(holder); err == nil {
			return ns, nil
		}
	}
	return namespaces{}, errors.Join(err, ignoreGone(unix.Kill(holder.PID, unix.SIGKILL)))
}

// recorded opens the namespaces of the holder that is on record.
func recorded(runRoot string) (namespaces, error) {
	var r record
	if err := statefile.Read(recordFile(runRoot), &r); err != nil {
		return namespaces{}, err
	}
	return open(r.Holder)
}

// End ends the holder of a run root, for who takes everything down. The namespaces live on
// as long as a process is in them.
func End(runRoot string) error {
	var r record
	err := statefile.Read(recordFile(runRoot), &r)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && r.Holder.Alive() {
		err = ignoreGone(unix.Kill(r.Holder.PID, unix.SIGKILL))
	}
	return errors.Join(err, os.Remove(recordFile(runRoot)))
}

func ignoreGone(err error) error {
	if err == unix.ESRCH {
		return nil
	}
	return err
}

// namespaces are those of one process, open.
type namespaces struct{ user, mounts *os.File }

// open opens the namespaces of a process that is still the one that is meant.
func open(p statefile.Process) (ns namespaces, err error) {
	if p.PID <= 0 {
		return ns, errdefs.ErrNotFound
	}
	if ns.user, err = os.Open(fmt.Sprintf("/proc/%d/ns/user", p.PID)); err == nil {
		ns.mounts, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", p.PID))
	}
	if err == nil && !p.Alive() { // only now: its number cannot have become another's before
		err = fmt.Errorf("process %d: %w", p.PID, errdefs.ErrNotFound)
	}
	if err != nil {
		ns.close()
		return namespaces{}, err
	}
	return ns, nil
}

func (ns namespaces) close() {
	for _, f := range []*os.File{ns.user, ns.mounts} {
		if f != nil {
			f.Close()
		}
	}
}

// execute executes a program inside, in place of this process.
func (ns namespaces) execute(dir, path string, args, env []string) error {
	user, mounts := int(ns.user.Fd()), int(ns.mounts.Fd())
	step, err := tinyelf.Memfd("teu-enter", tinyelf.Enter(user, mounts))
	if err != nil {
		return err
	}
	defer unix.Close(step)
	for _, fd := range []int{user, mounts} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
			return err
		}
	}
	slack.Usual(func() {
		err = unix.Exec(fmt.Sprintf("/proc/self/fd/%d", step), append([]string{path, dir}, args...), env)
	})
	return fmt.Errorf("execve: %w", err)
}
