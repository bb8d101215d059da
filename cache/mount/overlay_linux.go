// Package mount makes overlay mounts of layer directories.
//
// It speaks the mount API of Linux 5.2 and later, with each lower directory as a parameter of
// its own ("lowerdir+", Linux 6.5), because the one string of mount(2) holds no more than a page.
// Where the kernel is older the directories are named through descriptors, which is short.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// An Overlay describes the union of some directories.
type Overlay struct {
	Lowers      []string // read only, top first, at least one
	Upper, Work string   // both or none; none makes the mount read-only
	Volatile    bool     // skip syncs of the upper; a crash may damage it
	UserXattr   bool     // user.overlay.* instead of trusted.overlay.*, for unprivileged mounts
}

// maxLowers is OVL_MAX_STACK of fs/overlayfs (Linux 4.19 to 6.18).
const maxLowers = 500

// Mount mounts the overlay at target.
func (o Overlay) Mount(target string) error {
	m, err := o.Open()
	if err != nil {
		return err
	}
	defer m.Close()
	err = unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("placing the overlay: %w", &os.PathError{Op: "move_mount", Path: target, Err: err})
	}
	return nil
}

// Open makes the mount without a place, as an O_PATH descriptor of its root. It can be used with
// openat, move_mount or open_tree, and goes away with its last user. It is read-only without an upper.
func (o Overlay) Open() (*os.File, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dirs, err := o.open()
	if err != nil {
		return nil, err
	}
	defer dirs.close()
	open := o.fsmount
	if !KernelAtLeast(6, 5) { // asked for lowerdir+ it would write to its log for every mount
		open = o.classic
	}
	m, err := open(dirs)
	if errors.Is(err, unix.EPERM) && !KernelAtLeast(5, 11) {
		err = fmt.Errorf("%w (ordinary users may do this since Linux 5.11)", err)
	}
	if err != nil {
		return nil, fmt.Errorf("overlay of %d layers: %w", len(o.Lowers), err)
	}
	return m, nil
}

// KernelAtLeast says that the running kernel is of that release or newer.
func KernelAtLeast(major, minor int) bool {
	var u unix.Utsname
	var a, b int
	if unix.Uname(&u) != nil {
		return false
	}
	if n, _ := fmt.Sscanf(unix.ByteSliceToString(u.Release[:]), "%d.%d", &a, &b); n != 2 {
		return false
	}
	return a > major || (a == major && b >= minor)
}

// CanSetAttr says that the kernel has mount_setattr(2), Linux 5.12.
func CanSetAttr() bool {
	return !errors.Is(unix.MountSetattr(-1, "", unix.AT_EMPTY_PATH, &unix.MountAttr{}), unix.ENOSYS)
}

func (o Overlay) check() error {
	switch {
	case len(o.Lowers) == 0:
		return fmt.Errorf("overlay without a lower directory: %w", errdefs.ErrInvalidArgument)
	case len(o.Lowers) > maxLowers:
		return fmt.Errorf("%d layers: Linux puts no more than %d on each other, and docker 127; FROM scratch and COPY --from=STAGE / / makes one layer of a stage: %w",
			len(o.Lowers), maxLowers, errdefs.ErrInvalidArgument)
	case (o.Upper == "") != (o.Work == ""):
		return fmt.Errorf("overlay needs both an upper and a work directory, or none: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}

// options are the parameters besides directories. What is off would write into the upper what
// only this kernel, or only these lowers, can make sense of; an upper is to become a layer.
func (o Overlay) options() [][2]string {
	opts := [][2]string{{"index", "off"}, {"xino", "off"}}
	if o.UserXattr {
		// fs/overlayfs/params.c refuses to be told redirect_dir and metacopy here; they are off.
		opts = append(opts, [2]string{"userxattr", ""})
	} else {
		// nofollow: an image could bring redirects of its own.
		opts = append(opts, [2]string{"redirect_dir", "nofollow"}, [2]string{"metacopy", "off"})
	}
	if o.Volatile && o.Upper != "" {
		opts = append(opts, [2]string{"volatile", ""})
	}
	return opts
}

// directories are the parts of an overlay, held open so that they have short names.
type directories struct {
	lowers      []*os.File
	upper, work *os.File
	unplace     func() // takes the place of the last lower, which is empty and was not asked for; or nil
}

func (d directories) close() {
	for _, f := range append(d.lowers, d.upper, d.work) {
		if f != nil {
			f.Close() // O_PATH: nothing to lose
		}
	}
	if d.unplace != nil {
		d.unplace()
	}
}

func (o Overlay) open() (d directories, err error) {
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	for _, dir := range o.Lowers {
		f, err := openDir(dir)
		if err != nil {
			return d, err
		}
		d.lowers = append(d.lowers, f)
	}
	if o.Upper == "" {
		if len(d.lowers) == 1 {
			// The kernel asks for two directories; a bind mount instead would show whiteouts as devices.
			empty, err := emptyDir()
			if err != nil {
				return d, err
			}
			d.lowers = append(d.lowers, empty)
			if !KernelAtLeast(6, 15) {
				d.unplace, err = place(empty)
			}
			return d, err
		}
		return d, nil
	}
	if d.upper, err = openDir(o.Upper); err != nil {
		return d, err
	}
	d.work, err = openDir(o.Work)
	return d, err
}

func openDir(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir), nil
}

// emptyDir returns a directory with nothing in it, of a tmpfs that is mounted nowhere.
func emptyDir() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0755"); err != nil {
		return nil, fmt.Errorf("fsconfig mode of tmpfs: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("fsconfig create of tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		return nil, fmt.Errorf("fsmount of tmpfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "empty"), nil
}

// fsmount makes the mount by fsopen(2), fsconfig(2) and fsmount(2).
func (o Overlay) fsmount(d directories) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", "overlay"); err != nil { // as mount(8) does: scripts look for it
		return nil, explain(fs, "source", err)
	}
	for _, lower := range d.lowers {
		if err := unix.FsconfigSetString(fs, "lowerdir+", name(lower)); err != nil {
			return nil, explain(fs, "lower directory "+lower.Name(), err)
		}
	}
	if o.Upper != "" {
		if err := unix.FsconfigSetString(fs, "upperdir", name(d.upper)); err != nil {
			return nil, explain(fs, "upper directory "+o.Upper, err)
		}
		if err := unix.FsconfigSetString(fs, "workdir", name(d.work)); err != nil {
			return nil, explain(fs, "work directory "+o.Work, err)
		}
	}
	if err := o.configure(fs); err != nil {
		return nil, err
	}
	return o.attach(fs)
}

// configure sets the options of o.
func (o Overlay) configure(fs int) error {
	for _, opt := range o.options() {
		var err error
		if opt[1] == "" {
			err = unix.FsconfigSetFlag(fs, opt[0])
		} else {
			err = unix.FsconfigSetString(fs, opt[0], opt[1])
		}
		if err != nil {
			return explain(fs, "option "+opt[0], err)
		}
	}
	return nil
}

// attach turns the configured context into a mount.
func (o Overlay) attach(fs int) (*os.File, error) {
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, explain(fs, "creating", err)
	}
	attr := 0
	if o.Upper == "" {
		attr = unix.MOUNT_ATTR_RDONLY
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return nil, explain(fs, "fsmount", err)
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// name returns a path of f that fsconfig(2) takes: 255 bytes at most, and without the
// characters that overlayfs gives a meaning to. Plain paths are kept, for those who read mountinfo.
func name(f *os.File) string {
	path, err := filepath.Abs(f.Name())
	if err != nil || len(path) > 255 || strings.ContainsAny(path, `\:,`) || f.Name() == "empty" {
		return short(f)
	}
	return path
}

func short(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// messages returns what the kernel has to say about the context fs, fsopen(2), "The message retrieval interface".
func messages(fs int) string {
	var all []string
	buf := make([]byte, 4096)
	for range 16 {
		n, err := unix.Read(fs, buf)
		if err != nil || n <= 0 {
			break
		}
		all = append(all, strings.TrimSpace(string(buf[:n])))
	}
	return strings.Join(all, "; ")
}

// explain adds the kernel's words to an error number.
func explain(fs int, what string, err error) error {
	if text := messages(fs); text != "" {
		return fmt.Errorf("%s: %w (%s)", what, err, text)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// classic makes the mount by mount(2), in a directory made for it, and takes it away from there.
func (o Overlay) classic(d directories) (_ *os.File, err error) {
	target, err := os.MkdirTemp("", "teu-mount-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.Remove(target)) }()
	flags := uintptr(0)
	if o.Upper == "" {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("overlay", target, "overlay", flags, o.data(d)); err != nil {
		return nil, &os.PathError{Op: "mount overlay", Path: target, Err: err}
	}
	runtime.KeepAlive(d)
	fd, err := unix.OpenTree(unix.AT_FDCWD, target, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err := errors.Join(err, Unmount(target)); err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: target, Err: err}
	}
	return os.NewFile(uintptr(fd), "overlay"), nil
}

// place gives the empty directory a place until unplace is called, for kernels before 6.15, on which
// overlayfs takes no directory of a mount without one. An overlay keeps a copy.
func place(empty *os.File) (unplace func(), err error) {
	dir, err := os.MkdirTemp("", "teu-empty-")
	if err != nil {
		return nil, err
	}
	if err := unix.MoveMount(int(empty.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, errors.Join(&os.PathError{Op: "move_mount", Path: dir, Err: err}, os.Remove(dir))
	}
	return func() {
		_ = Unmount(dir) // of what was mounted just now
		_ = os.Remove(dir)
	}, nil
}

// data is the option string of mount(2).
func (o Overlay) data(d directories) string {
	lowers := make([]string, len(d.lowers))
	for i, f := range d.lowers {
		lowers[i] = short(f)
	}
	opts := []string{"lowerdir=" + strings.Join(lowers, ":")}
	if o.Upper != "" {
		opts = append(opts, "upperdir="+short(d.upper), "workdir="+short(d.work))
	}
	for _, opt := range o.options() {
		opts = append(opts, strings.TrimSuffix(opt[0]+"="+opt[1], "="))
	}
	return strings.Join(opts, ",")
}

// Unmount detaches what is mounted at target. Nothing mounted there is not an error.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || err == unix.EINVAL || err == unix.ENOENT {
		return nil // umount2(2): EINVAL is "target is not a mount point"
	}
	return &os.PathError{Op: "umount", Path: target, Err: err}
}
