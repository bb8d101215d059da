package layer

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Measure returns the bytes the layer id takes on disk, about. One that was not sealed yet is walked.
func (s *Store) Measure(ctx context.Context, id string) (size int64, err error) {
	l, err := s.Get(id)
	if err != nil || l.Size > 0 {
		return l.Size, err
	}
	err = filepath.WalkDir(s.Path(id), func(path string, _ fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed meanwhile
		case err != nil:
			return err
		}
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil {
			size += st.Blocks * 512
		}
		return nil
	})
	return size, err
}
