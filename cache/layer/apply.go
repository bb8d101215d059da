package layer

import (
	"context"
	"io"
)

// ApplyOptions change how Apply works.
type ApplyOptions struct {
	// UserXattr writes opaque markers as user.overlay.*, for mounts made with userxattr.
	UserXattr bool
	// NoChown leaves the owner of all files to the process, which cannot change it.
	NoChown bool
	// MaxEntries and MaxBytes bound the number of entries and the sum of the sizes of
	// the files; 0 means the limits of the package.
	MaxEntries, MaxBytes int64
}

// A Link is a hard link to a file that is not in the layer, so must be in one below.
type Link struct{ Path, Target string }

// Result says what Apply did.
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
// its root. A tar that cannot be a layer is an errdefs.ErrInvalidArgument. After an error dir
// holds an unspecified part of the layer.
func Apply(ctx context.Context, dir string, r io.Reader, o ApplyOptions) (Result, error) {
	return Result{}, errTODO
}
