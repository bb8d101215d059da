// Package statefile owns the small JSON documents in which teu keeps its state, and
// the locks and process identities that protect them.
//
// A document is written to a temporary name beside it and renamed, so a reader sees
// the old or the new one and never takes a lock. A lock is a flock on a file of its
// own, so the kernel gives it back when its holder dies.
package statefile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/coldjson"
)

const (
	// maxSize is the largest document Read takes, in bytes.
	maxSize = 8 << 20
	// tempPrefix begins the names of documents being written. No document's name begins with a dot.
	tempPrefix = ".tmp-"
)

// WriteOptions change how Write works.
type WriteOptions struct {
	// Durable makes the document survive a power loss once Write has returned: the
	// file and its directory are fsynced.
	Durable bool
	// Overwrite lets a document of what has happened, which cannot wait for room on a full disk, be written over the
	// one that is there, as far as that takes up enough. A power loss at that moment can leave neither.
	Overwrite bool
}

// Write stores v as JSON at path, replacing what is there in one step. The directory must exist.
func Write(path string, v any, o WriteOptions) error {
	data, err := coldjson.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	if len(data) >= maxSize {
		return fmt.Errorf("writing %s: %d bytes are more than the %d a document may have: %w", path, len(data), maxSize, errdefs.ErrInvalidArgument)
	}
	data = append(data, '\n')
	err = writeBytes(path, data, o)
	if o.Overwrite && NoRoom(err) && overwrite(path, data, o) == nil {
		return nil
	}
	return err
}

// NoRoom says whether an error is that of a full disk, or of a quota.
func NoRoom(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// overwrite writes into the blocks that a document has. What is left of a longer one becomes blanks.
func overwrite(path string, data []byte, o WriteOptions) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if int64(len(data)) > max(st.Size, st.Blocks*512) {
		return unix.ENOSPC
	}
	if rest := st.Size - int64(len(data)); rest > 0 {
		data = append(data, bytes.Repeat([]byte{' '}, int(rest))...)
	}
	if _, err = f.WriteAt(data, 0); err == nil && o.Durable {
		err = f.Sync()
	}
	return err
}

// writeBytes is Write of what is encoded already.
func writeBytes(path string, data []byte, o WriteOptions) error {
	f, err := os.CreateTemp(filepath.Dir(path), tempPrefix+"*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := fill(f, data, o); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(fmt.Errorf("writing %s: %w", path, err), os.Remove(f.Name()))
	}
	if o.Durable {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// fill writes and closes f.
func fill(f *os.File, data []byte, o WriteOptions) error {
	_, err := f.Write(data)
	if err == nil && o.Durable {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// SyncDir makes the names in dir survive a power loss.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Read decodes the JSON document at path into v. A missing document is both an
// errdefs.ErrNotFound and an fs.ErrNotExist. Documents larger than 8 MiB are refused.
func Read(path string, v any) error {
	for try := 0; ; try++ {
		data, err := ReadFile(path, maxSize)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
		}
		if err != nil {
			return err
		}
		err = coldjson.Unmarshal(data, v)
		if err == nil {
			return nil
		}
		if try == 2 {
			return fmt.Errorf("decoding %s: %w: %w", path, errdefs.ErrDataLoss, err)
		}
		time.Sleep(time.Millisecond) // it may just be overwritten
	}
}

// Sweep removes from dir what writers that died have left. No document takes an hour to write.
func Sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
		fi, err := e.Info()
		if err != nil || time.Since(fi.ModTime()) < time.Hour {
			continue // renamed meanwhile, or still being written
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
