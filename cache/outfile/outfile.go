// Package outfile writes the files that commands leave where their callers say: archives of images and of containers.
package outfile

import (
	"bufio"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write calls fill with the file at path, which appears only when it is whole: nobody takes half an archive for a whole
// one. What is at path and no regular file is not replaced but written to: a FIFO, a device, a link as /dev/stdout is.
func Write(path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	if fi, err := os.Lstat(path); err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
		if err != nil {
			return err
		}
		return finish(f, fill)
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(path), ".teu-"+rand.Text()), os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err = finish(f, fill); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// finish fills f and closes it.
func finish(f *os.File, fill func(io.Writer) error) error {
	w := bufio.NewWriterSize(f, 1<<20)
	err := fill(w)
	if err == nil {
		err = w.Flush()
	}
	return errors.Join(err, f.Close())
}
