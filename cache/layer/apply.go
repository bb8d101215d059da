package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ApplyOptions change how Apply works.
type ApplyOptions struct {
	// UserXattr writes opaque markers as user.overlay.*, for mounts made with userxattr.
	UserXattr bool
	// NoChown leaves the owner of all files to the process, which cannot change it.
	NoChown bool
	// Plain is for a tar that is no layer: files may be called as whiteouts are.
	Plain bool
	// MaxEntries and MaxBytes bound the number of entries and the sum of the sizes of
	// the files; 0 means the limits of the package.
	MaxEntries, MaxBytes int64
}

const (
	defaultMaxEntries = 16 << 20
	defaultMaxBytes   = 1 << 40 // a sparse file of a few bytes may claim any size, and is read to its end
	maxNames          = 256 << 20
	maxLinks          = 1 << 16
	maxWarnings       = 20
	bufferSize        = 512 << 10
)

// A Link is a hard link to a file that is not in the layer, so must be in one below.
type Link struct{ Path, Target string }

// Result says what Apply did. Paths are relative to the layer, without a leading slash.
type Result struct {
	Size       int64    // bytes of files, rounded up to blocks
	Entries    int64    // entries of the tar
	Implicit   []string // see Layer
	Links      []Link   // in the order of the tar
	OpaqueRoot bool     // the layer hides everything below it
	Warnings   []string // what the filesystem or the lack of privileges did not allow
}

// Apply unpacks the OCI layer tar r into the empty directory dir as an overlay directory:
// whiteouts become character devices 0/0 and opaque markers extended attributes.
//
// Nothing outside dir is read or changed, whatever r says: each name is resolved with dir as
// its root. A later entry of the same name replaces an earlier one; directories are merged.
// A name whose parent is a symbolic link of this layer goes where the link leads inside dir, as
// with docker and with GNU tar in a chroot. A parent that is a symbolic link only in a layer
// below cannot be seen here: it becomes an implicit directory, which Stack puts right.
//
// Attributes trusted.overlay.* and user.overlay.* are ignored, as are labels of the host's
// security policy (security.* but capability). A tar that cannot be a layer is an
// errdefs.ErrInvalidArgument. After an error dir holds an unspecified part of the layer.
func Apply(ctx context.Context, dir string, r io.Reader, o ApplyOptions) (Result, error) {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Result{}, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(root)
	a := newApplier(root, tar.NewReader(r), o)
	defer a.parents.reset()
	if err := a.entries(ctx); err != nil {
		return Result{}, err
	}
	return a.res, a.finish()
}

// An applier unpacks one tar.
type applier struct {
	root    int
	o       ApplyOptions
	tr      *tar.Reader
	buf     []byte
	parents parentCache
	aufs    bool // aufsLinks is there, until the end
	stale   bool // a name that the cached parents were found through has been replaced
	res     Result
	bytes   int64
	names   int64 // bytes of the names remembered

	times    map[string]unix.Timespec // of directories; set last, since each entry changes them
	acls     map[string]string        // default ACLs of directories; set last, since each entry would take them over
	implicit map[string]bool          // directories without an entry
	replaced map[string]bool          // directories that took the place of something: nothing below shows through
	opaque   map[string]bool          // directories with an opaque marker: what is in them below does not show
}

func newApplier(root int, tr *tar.Reader, o ApplyOptions) *applier {
	if o.MaxEntries == 0 {
		o.MaxEntries = defaultMaxEntries
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = defaultMaxBytes
	}
	a := &applier{
		root: root, o: o, tr: tr, buf: make([]byte, bufferSize),
		times: map[string]unix.Timespec{}, acls: map[string]string{}, implicit: map[string]bool{"": true},
		replaced: map[string]bool{}, opaque: map[string]bool{},
	}
	a.parents.root = root
	return a
}

func (a *applier) entries(ctx context.Context) error {
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		hdr, err := a.tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) { // we judge names ourselves
			return tarError(err)
		}
		a.res.Entries++
		if a.res.Entries > a.o.MaxEntries {
			return fmt.Errorf("more than %d entries: %w", a.o.MaxEntries, errdefs.ErrInvalidArgument)
		}
		e, err := a.check(hdr)
		if err == nil && !e.ignored {
			err = a.apply(ctx, e)
		}
		if err != nil {
			return fmt.Errorf("%s %q: %w", typeName(hdr.Typeflag), shorten(hdr.Name), err)
		}
	}
}

// apply puts one checked entry in its place.
func (a *applier) apply(ctx context.Context, e *entry) error {
	if e.path == "" {
		return a.rootEntry(e)
	}
	dir, base := splitPath(e.path)
	if e.passing && !a.aufs {
		a.aufs = true
		if err := unix.Mkdirat(a.root, aufsLinks, 0o700); err != nil {
			return &os.PathError{Op: "mkdirat", Path: aufsLinks, Err: err}
		}
	}
	p, err := a.parent(dir, e.mtime)
	if err != nil {
		return err
	}
	at := place{dir: p, base: base}
	switch {
	case e.opaque:
		return a.markOpaque(p)
	case e.whiteout:
		return a.whiteout(at)
	}
	switch e.kind {
	case tar.TypeDir:
		return a.directory(at, e)
	case tar.TypeReg:
		return a.regular(ctx, at, e)
	case tar.TypeSymlink:
		return a.symlink(at, e)
	case tar.TypeLink:
		return a.link(at, e)
	default:
		return a.node(at, e)
	}
}

// remember counts the bytes of a name that is kept until the end.
func (a *applier) remember(name string) error {
	a.names += int64(len(name)) + 64
	if a.names > maxNames {
		return fmt.Errorf("the names of the directories take more than %d bytes: %w", maxNames, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (a *applier) warn(format string, args ...any) {
	if len(a.res.Warnings) < maxWarnings {
		a.res.Warnings = append(a.res.Warnings, fmt.Sprintf(format, args...))
	}
}

// tarError classes the errors of archive/tar; those of the reader below it are passed on.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("reading the tar: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("reading the tar: %w", err)
}
