package keeper

import (
	"compress/gzip"
	"fmt"
	"io"
	"os"
)

// Rotated files are compressed beside the container's life: path.1 becomes path.1.gz.
// There is at most one compressor, so that a container which floods its log is never held up. What is rotated
// while it is busy comes after, the newest first: the oldest may be dropped before its turn.

// compressNext compresses the newest file that is to be, if none is being compressed. mu is held.
func (l *jsonLog) compressNext() {
	if !l.cfg.Compress || l.busy || l.closing {
		return
	}
	for i := l.done; i < l.cfg.MaxFiles; i++ {
		f, err := os.Open(l.name(i))
		if err != nil {
			continue // compressed, or not there
		}
		l.busy = true
		l.work.Go(func() {
			defer f.Close()
			err := l.compress(f)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.busy = false
			if err != nil { // the next rotation tries again
				fmt.Fprintln(os.Stderr, "compressing the log:", err)
				return
			}
			l.compressNext()
		})
		return
	}
}

// sent tells that a file that was rotated has now been sent, and those before it.
func (l *jsonLog) sent(f *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := l.rotated(f); i > 0 {
		l.done = i
		l.compressNext()
	}
}

// sentBefore tells that the files with higher numbers than i have been sent.
func (l *jsonLog) sentBefore(i int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.done = i + 1
	l.compressNext()
}

// rotated returns the number that the rotated file behind f has by now, 0 if it was dropped. mu is held.
func (l *jsonLog) rotated(f *os.File) int {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	for i := 1; i < l.cfg.MaxFiles; i++ {
		if now, err := os.Stat(l.name(i)); err == nil && os.SameFile(now, st) {
			return i
		}
	}
	return 0
}

// compress writes what is in f compressed, and gives it the place of f, wherever that has
// been rotated to meanwhile.
func (l *jsonLog) compress(f *os.File) error {
	tmp := l.cfg.Path + ".gz.tmp"
	out, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	zw, _ := gzip.NewWriterLevel(out, gzip.BestSpeed)
	_, err = io.Copy(zw, f)
	for _, e := range []error{zw.Close(), out.Sync(), out.Close()} { // the plain one is removed
		err = errOr(err, e)
	}
	if err != nil {
		os.Remove(tmp)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := l.rotated(f)
	if i == 0 {
		return os.Remove(tmp) // it was dropped
	}
	if err := os.Rename(tmp, l.name(i)+".gz"); err != nil {
		return err
	}
	return os.Remove(l.name(i))
}

// name is the path of a file of the log, 0 for the current one.
func (l *jsonLog) name(i int) string {
	if i == 0 {
		return l.cfg.Path
	}
	return fmt.Sprintf("%s.%d", l.cfg.Path, i)
}

// shift moves every file one number up, with its compressed form.
func (l *jsonLog) shift() error {
	last := l.cfg.MaxFiles - 1
	for i := last; i > 0; i-- {
		for _, suffix := range []string{"", ".gz"} {
			err := os.Rename(l.name(i-1)+suffix, l.name(i)+suffix)
			if os.IsNotExist(err) {
				err = nil
				if i == last { // the other form must not stay in its place
					os.Remove(l.name(i) + suffix)
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}
