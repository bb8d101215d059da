package op

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/runner/network"
)

func newDir(f *os.File) *rootfs.Dir { return rootfs.FromFile(f) }

// openMutable opens the overlay of m, or a read-only one of lowers if m is nil.
func openMutable(m *mutable, lowers []string) (*os.File, error) {
	if m == nil {
		return mount.View(lowers)
	}
	over, err := m.overlay()
	if err != nil {
		return nil, err
	}
	return over.Open()
}

// memory holds files for a command that must not reach a disk, in a tmpfs mounted nowhere.
type memory struct {
	whole *os.File
	dir   *rootfs.Dir
	count int
}

// file returns a read-only mount, without a target, of a file with the given content.
func (y *memory) file(data []byte, mode uint32, uid, gid int) (Mount, error) {
	if y.dir == nil {
		whole, err := newTmpfs()
		if err != nil {
			return Mount{}, err
		}
		y.whole, y.dir = whole, newDir(whole)
	}
	y.count++
	name := fmt.Sprint(y.count)
	if err := y.write(name, data, mode, uid, gid); err != nil {
		return Mount{}, err
	}
	d, err := detach(y.dir, name, y.whole)
	if err != nil {
		return Mount{}, err
	}
	m := Mount{Source: d.File, File: true, Options: []string{"ro"}}
	if mode&0o111 == 0 {
		m.Options = append(m.Options, "noexec")
	}
	return m, nil
}

func (y *memory) write(name string, data []byte, mode uint32, uid, gid int) (err error) {
	f, err := y.dir.OpenFile(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := unix.Fchown(int(f.Fd()), uid, gid); err != nil {
		return err
	}
	return unix.Fchmod(int(f.Fd()), mode&0o777)
}

func (y *memory) close() error {
	if y.dir == nil {
		return nil
	}
	return y.dir.Close()
}

// systemFiles gives the command a hosts file and a resolver, which are not part of the image.
func (r *execRun) systemFiles() error {
	hosts := fmt.Sprintf("127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", r.process.Hostname)
	for _, h := range r.op.Meta.ExtraHosts {
		if net.ParseIP(h.IP) == nil || strings.ContainsAny(h.Host, " \t\n#") {
			return fmt.Errorf("extra host %q with the address %q: %w", h.Host, h.IP, errdefs.ErrInvalidArgument)
		}
		hosts += h.IP + "\t" + h.Host + "\n"
	}
	resolver, err := resolvConf(r.process.Network)
	if err != nil {
		return err
	}
	for target, text := range map[string][]byte{"/etc/hosts": []byte(hosts), "/etc/resolv.conf": resolver} {
		m, err := r.memory.file(text, 0o644, 0, 0)
		if err != nil {
			return fmt.Errorf("making %s: %w", target, err)
		}
		r.later(m.Source.Close)
		m.Target = target
		r.process.Mounts = append(r.process.Mounts, m)
	}
	return nil
}

// resolvConf is the resolv.conf of the host, where the command can use it as it is.
func resolvConf(n Network) ([]byte, error) {
	if n == NetworkHost {
		data, err := os.ReadFile("/etc/resolv.conf")
		if err == nil || !errors.Is(err, os.ErrNotExist) {
			return data, err
		}
	}
	r, err := network.HostResolver()
	if err != nil {
		return nil, err
	}
	return r.Bytes(), nil
}

// mountSecret shows a secret as a file.
func (r *execRun) mountSecret(ctx context.Context, m *pb.Mount) error {
	s := m.SecretOpt
	if s == nil || s.ID == "" {
		return fmt.Errorf("secret without an ID: %w", errdefs.ErrInvalidArgument)
	}
	data, err := r.env.secret(ctx, s.ID)
	if errdefs.IsNotFound(err) && s.Optional {
		return nil
	}
	if err != nil {
		return err
	}
	mnt, err := r.memory.file(data, s.Mode, int(s.Uid), int(s.Gid))
	if err != nil {
		return err
	}
	r.later(mnt.Source.Close)
	r.add(m, mnt)
	return nil
}

// mountSSH shows a socket that leads to an agent of the user.
func (r *execRun) mountSSH(ctx context.Context, index int, m *pb.Mount) error {
	s := m.SSHOpt
	if s == nil {
		return fmt.Errorf("ssh mount without options: %w", errdefs.ErrInvalidArgument)
	}
	id := s.ID
	if id == "" {
		id = "default"
	}
	agent, ok := r.env.agent(ctx, id)
	if !ok {
		if s.Optional {
			return nil
		}
		return fmt.Errorf("ssh agent %q: %w", id, errdefs.ErrNotFound)
	}
	dir, err := os.MkdirTemp(r.env.RunDir, fmt.Sprintf("ssh%d-", index))
	if err != nil {
		return err
	}
	r.later(func() error { return os.RemoveAll(dir) })
	proxy, err := listenAgent(filepath.Join(dir, "s"), agent)
	if err != nil {
		return err
	}
	r.later(proxy.close)
	tree, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer tree.Close()
	path := filepath.Join(dir, "s")
	if err := errors.Join(os.Chmod(path, os.FileMode(s.Mode&0o777)), os.Chown(path, int(s.Uid), int(s.Gid))); err != nil {
		return err
	}
	d, err := detach(tree, "s", nil)
	if err != nil {
		return err
	}
	r.later(d.Close)
	r.add(m, Mount{Source: d.File, File: true})
	return nil
}
