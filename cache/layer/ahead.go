package layer

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A walk goes through an overlay directory in the order of its tar, ahead of the one who writes it.
// What there is to know of the files, and the content of small ones, is read for several portions of
// them at the same time.
type walk struct {
	skip  func(path string) bool // may be nil
	order chan *portion          // in the order of the tar
	free  chan *portion          // to be used again
	next  *portion               // being filled
}

const (
	portionItems = 32
	portionData  = 1 << 20  // bytes of small files
	smallFile    = 64 << 10 // bytes
)

// A portion is some files that follow each other in the tar.
type portion struct {
	items []item
	data  []byte        // content of small files
	ready chan struct{} // closed when look has been here
}

// An item is a file of the tar to be.
type item struct {
	in   *openDir
	name string
	path string // in the layer
	kind fs.FileMode
	self *openDir // of a directory: itself

	// What look found:
	err    error
	st     unix.Stat_t
	xattrs []xattr
	link   string // where a symbolic link leads
	data   [2]int // where the content is in the portion
	large  int    // descriptor of a file whose content is still in it; -1: none
}

// An openDir is closed by the last one who has finished with it.
type openDir struct {
	*os.File
	users atomic.Int32
}

func newOpenDir(fd int, path string) *openDir {
	d := &openDir{File: os.NewFile(uintptr(fd), path)}
	d.users.Store(1)
	return d
}

func (d *openDir) fd() int { return int(d.Fd()) }

func (d *openDir) use() { d.users.Add(1) }

func (d *openDir) release() {
	if d.users.Add(-1) == 0 {
		d.Close() // nothing was written
	}
}

// newWalk begins to go through root, which it closes. The caller takes all portions and gives each
// back by done; once ctx has ended there soon are no more.
func newWalk(ctx context.Context, root int, skip func(string) bool) *walk {
	ahead := 2 * min(runtime.GOMAXPROCS(0), 4)
	w := &walk{skip: skip, order: make(chan *portion, ahead), free: make(chan *portion, ahead)}
	go func() {
		defer close(w.order)
		dir := newOpenDir(root, ".")
		defer dir.release()
		if err := w.dir(ctx, dir, ""); err != nil {
			w.add(ctx, item{err: err})
		}
		w.flush(ctx)
	}()
	return w
}

// dir goes through the directory d. Errors that are about one file are left in its item.
func (w *walk) dir(ctx context.Context, d *openDir, path string) error {
	if len(path) > maxPath {
		return invalid("the directory %s has a name of %d bytes", shorten(path), len(path))
	}
	entries, err := d.ReadDir(-1)
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(path), err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(a.Name(), b.Name()) })
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		it := item{in: d, name: e.Name(), path: joinPath(path, e.Name()), kind: e.Type()}
		if w.skip != nil && w.skip(it.path) {
			continue
		}
		if it.kind != fs.ModeDir {
			w.add(ctx, it)
			continue
		}
		if err := w.subdir(ctx, it); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) subdir(ctx context.Context, it item) error {
	fd, err := openInside(it.in.fd(), it.name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("%s: %w", shorten(it.path), err)
	}
	it.self = newOpenDir(fd, it.path)
	defer it.self.release()
	w.add(ctx, it)
	return w.dir(ctx, it.self, it.path)
}

// add puts it into the next portion, and sends that when it is full.
func (w *walk) add(ctx context.Context, it item) {
	if w.next == nil {
		select {
		case w.next = <-w.free:
		default:
			w.next = &portion{}
		}
		w.next.ready = make(chan struct{})
	}
	if it.in != nil {
		it.in.use()
	}
	if it.self != nil {
		it.self.use()
	}
	it.large = -1
	w.next.items = append(w.next.items, it)
	if len(w.next.items) == portionItems {
		w.flush(ctx)
	}
}

func (w *walk) flush(ctx context.Context) {
	p := w.next
	if p == nil {
		return
	}
	w.next = nil
	select {
	case w.order <- p:
		go func() {
			defer close(p.ready)
			for i := range p.items {
				p.look(&p.items[i])
			}
		}()
	case <-ctx.Done():
		p.release()
	}
}

// done gives a portion back.
func (w *walk) done(p *portion) {
	p.release()
	select {
	case w.free <- p:
	default:
	}
}

func (p *portion) release() {
	for _, it := range p.items {
		if it.in != nil {
			it.in.release()
		}
		if it.self != nil {
			it.self.release()
		}
		if it.large >= 0 {
			unix.Close(it.large)
		}
	}
	clear(p.items)
	p.items, p.data = p.items[:0], p.data[:0]
}

// look finds out about it.
func (p *portion) look(it *item) {
	switch {
	case it.err != nil:
	case it.self != nil:
		if it.err = os.NewSyscallError("fstat", unix.Fstat(it.self.fd(), &it.st)); it.err == nil {
			it.xattrs, it.err = openXattrs(it.self.fd())
		}
	case it.kind == 0:
		it.err = p.lookFile(it)
	default:
		it.err = it.lookNode()
	}
}

// lookFile opens a regular file, and reads it if it is small.
func (p *portion) lookFile(it *item) error {
	fd, err := unix.Openat(it.in.fd(), it.name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "openat", Path: it.name, Err: err}
	}
	keep := false
	defer func() {
		if !keep {
			unix.Close(fd)
		}
	}()
	if err := unix.Fstat(fd, &it.st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	if it.st.Mode&unix.S_IFMT != unix.S_IFREG {
		return changed("is something else than it was")
	}
	if it.xattrs, err = openXattrs(fd); err != nil {
		return err
	}
	size := int(it.st.Size)
	if size > smallFile || len(p.data)+size > portionData {
		keep = true
		it.large = fd
		return nil
	}
	from := len(p.data)
	p.data = slices.Grow(p.data, size)[:from+size]
	it.data = [2]int{from, from + size}
	return readFull(fd, p.data[from:])
}

// lookNode looks at what must not be opened.
func (it *item) lookNode() (err error) {
	if it.st, err = statAt(it.in.fd(), it.name); err != nil {
		return err
	}
	switch it.st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		return changed("is something else than it was")
	case unix.S_IFSOCK:
		return nil
	case unix.S_IFLNK:
		if it.link, err = readlinkAt(it.in.fd(), it.name); err != nil {
			return err
		}
	}
	if !isWhiteout(&it.st) {
		it.xattrs, err = listXattrs(fdPath(it.in.fd(), it.name))
	}
	return err
}

// readFull fills b.
func readFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return changed("shrank while it was read")
		}
		b = b[n:]
	}
	return nil
}
