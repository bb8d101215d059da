// Package program keeps on disk the programs that an executable carries inside, so that
// they are unpacked once for all processes that use them.
package program

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// keep is how long the program of another executable stays: whoever uses one in turn with
// another does not unpack it each time.
const keep = 24 * time.Hour

// Unpack returns the directory below dir with the file of that name, mode 0500, alone in
// it. write gives its bytes when it is not there: what the executable of that identity
// carries inside. It is there whole or not at all, also after a power cut. Those of other
// executables go when they are a day old; who runs one keeps it.
func Unpack(dir, identity, file string, write func(io.Writer) error) (string, error) {
	target := filepath.Join(dir, identity)
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return target, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	sweep(dir)
	if err := place(dir, target, file, write); err != nil {
		return "", fmt.Errorf("unpacking %s to %s: %w", file, dir, err)
	}
	return target, nil
}

// Executable is Unpack for who wants to execute the file now: where the directory cannot be
// written, or nothing in it executed, the path is of a file in this process's memory, and
// good for this process only.
func Executable(dir, identity, file string, write func(io.Writer) error) (path string, err error) {
	if home, err := Unpack(dir, identity, file, write); err == nil {
		path := filepath.Join(home, file)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	fd, err := unix.MemfdCreate(file, unix.MFD_CLOEXEC)
	if err != nil {
		return "", fmt.Errorf("memfd_create: %w", err)
	}
	path = fmt.Sprintf("/proc/self/fd/%d", fd)
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // not an os.File of fd, which the garbage collector would close
	if err != nil {
		return "", err
	}
	return path, errors.Join(write(f), f.Close())
}

// Self returns the identity of the running executable, which tells it from all others that
// were or will be at its path.
func Self() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: "/proc/self/exe", Err: err}
	}
	return fmt.Sprintf("%x-%x-%x-%x", st.Dev, st.Ino, st.Size, st.Ctim.Nano()), nil
}

// sweep removes what is old. That it cannot is no reason not to unpack.
func sweep(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, d := range entries {
		if info, err := d.Info(); err == nil && time.Since(info.ModTime()) > keep {
			os.RemoveAll(filepath.Join(dir, d.Name()))
		}
	}
}

// place makes the target beside its place and renames it.
func place(dir, target, file string, write func(io.Writer) error) error {
	tmp, err := os.MkdirTemp(dir, "new-")
	if err != nil {
		return err
	}
	err = writeFile(filepath.Join(tmp, file), write)
	if err == nil {
		err = os.Rename(tmp, target)
	}
	if err != nil {
		err = errors.Join(err, os.RemoveAll(tmp))
	}
	if errors.Is(err, fs.ErrExist) { // another process was as fast
		return nil
	}
	return err
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return err
	}
	err = write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
