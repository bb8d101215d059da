package selinux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// hosts are directories of which the host's own programs would no longer be able to use
// what is in them; go-selinux refuses the same.
func hosts() []string {
	return []string{"/", "/bin", "/boot", "/dev", "/etc", "/etc/passwd", "/etc/pki", "/etc/shadow", "/home", "/lib", "/lib64", "/media", "/opt",
		"/proc", "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log"}
}

// Relabel labels everything at and below path. Nothing else is reached, whatever somebody
// who has it mounted does meanwhile: each name is looked up in a directory that is held
// open, and links are labelled themselves. File systems without labels are passed over.
func Relabel(path, label string) error {
	path = filepath.Clean(path)
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return err
	}
	if home, _ := os.UserHomeDir(); slices.Contains(hosts(), real) || real == filepath.Clean(home) {
		return fmt.Errorf("SELinux relabeling of %s is not allowed: %w", path, errdefs.ErrInvalidArgument)
	}
	fd, err := unix.Open(real, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: real, Err: err}
	}
	f := os.NewFile(uintptr(fd), real)
	defer f.Close()
	return relabel(f, label)
}

func relabel(f *os.File, label string) error {
	fd := int(f.Fd())
	if fileLabel(fd) != label {
		err := unix.Setxattr(fmt.Sprintf("/proc/self/fd/%d", fd), Attribute, []byte(label), 0)
		if err == unix.ENOTSUP {
			return nil
		}
		if err != nil {
			return &os.PathError{Op: "labelling " + label, Path: f.Name(), Err: err}
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err
	}
	dir, err := openAt(fd, ".", f.Name(), unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		names, err := dir.Readdirnames(256)
		for _, name := range names {
			if err := relabelAt(dir, name, label); err != nil {
				return err
			}
		}
		if len(names) == 0 || err != nil {
			return nil // io.EOF; what vanishes needs no label
		}
	}
}

func relabelAt(dir *os.File, name, label string) error {
	f, err := openAt(int(dir.Fd()), name, filepath.Join(dir.Name(), name), unix.O_PATH)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return relabel(f, label)
}

func openAt(dir int, name, path string, flags int) (*os.File, error) {
	fd, err := unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
