package cache

import "context"

// A Kind is a kind of object that can be collected.
type Kind string

const (
	KindBlob     Kind = "blob"
	KindLayer    Kind = "layer"
	KindSnapshot Kind = "snapshot"
	KindResult   Kind = "result"
)

// An Object is something GC removed or would remove.
type Object struct {
	Kind Kind
	ID   string // digest of a blob, ID of another
	Size int64  // bytes
}

// GCOptions change how GC works.
type GCOptions struct {
	DryRun  bool // report what would go, remove nothing
	Results bool // drop the build cache first
}

// A Report says what GC removed.
type Report struct {
	Removed []Object
	Bytes   int64
}

// GC removes every object that no name, lease, live pin or build result leads to.
func (s *Store) GC(ctx context.Context, o GCOptions) (Report, error) { return Report{}, errTODO }

// A KindUsage sums up the objects of one kind.
type KindUsage struct {
	Count       int
	Bytes       int64
	Reclaimable int64 // bytes GC would free
}

// Usage says where the bytes of the store are.
type Usage struct {
	Blobs, Layers, Snapshots, Results KindUsage
}

// DiskUsage sums up the store.
func (s *Store) DiskUsage(ctx context.Context) (Usage, error) { return Usage{}, errTODO }
