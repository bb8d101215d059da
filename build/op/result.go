package op

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/cache/snapshot"
)

// A Result is the state of a filesystem. It is a value; the zero Result is empty (scratch).
type Result struct {
	// Layers make the state, lowest first.
	Layers []Layer `json:"layers,omitempty"`
	// Local, unless nil, is a directory of this machine which is the state, read in place.
	// Layers is then empty.
	Local *Local `json:"-"`
}

// A Layer is one layer of a state.
type Layer struct {
	// ID names it in the layer store; "" for a layer of a base image, which is found by its
	// DiffID, or fetched when somebody asks for its bytes.
	ID string `json:"id,omitempty"`
	// DiffID is set for layers of images. Those a build made are sealed later.
	DiffID digest.Digest `json:"diffID,omitempty"`
	// Blob is the compressed layer in its image's manifest, and Origin where that image is.
	Blob   *ocispec.Descriptor `json:"blob,omitempty"`
	Origin *Origin             `json:"origin,omitempty"`
	// From has Blob instead of an Origin, for a layer of a cache that builds share. It is not part of
	// what is remembered: a Result that has it is kept only once its layers are here.
	From Blobs `json:"-"`
	// Created is when a build made the layer; zero for layers of images. The history of an
	// image that has the layer says so.
	Created time.Time `json:"created,omitzero"`
}

// Blobs is where the layers of a shared cache are.
type Blobs interface {
	content.Fetcher
	String() string // names it for people
}

// A FetchError is a layer of a shared cache that could not be brought.
type FetchError struct {
	From Blobs
	Err  error
}

func (e *FetchError) Error() string { return e.From.String() + ": " + e.Err.Error() }
func (e *FetchError) Unwrap() error { return e.Err }

// An Origin says where a base image came from.
type Origin struct {
	Ref      string             `json:"ref,omitempty"`    // canonical name; "" if only local
	Layout   string             `json:"layout,omitempty"` // directory of an OCI layout instead
	Manifest ocispec.Descriptor `json:"manifest"`
	Platform ocispec.Platform   `json:"platform"`
}

// empty returns a directory with nothing in it, which stands below the first layer of all.
func (e *Env) empty() (string, error) {
	dir := filepath.Join(e.Dir, "empty")
	err := os.Mkdir(dir, 0o755)
	if errors.Is(err, os.ErrNotExist) {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return dir, nil
}

// available says whether all that r needs is there or can be fetched again, and counts as a use.
func (e *Env) available(r Result) (bool, error) {
	if r.Local != nil {
		return true, nil
	}
	for _, l := range r.Layers {
		if l.Origin != nil || l.From != nil {
			continue
		}
		if ok, err := e.touchLayer(l.ID); !ok || err != nil {
			return false, err
		}
	}
	return true, nil
}

// LayerIDs returns the IDs of the layers of r, lowest first, fetching and making what is
// not there yet.
func (e *Env) LayerIDs(ctx context.Context, c *solver.Console, r Result) ([]string, error) {
	if r.Local != nil {
		solid, err := r.Local.solid(ctx, c)
		if err != nil {
			return nil, err
		}
		r = solid
	}
	ids, missing, err := e.present(r)
	if err != nil || missing == nil {
		return ids, err
	}
	if err := e.bring(ctx, c, missing); err != nil {
		return nil, err
	}
	ids, missing, err = e.present(r)
	if missing != nil {
		err = fmt.Errorf("layer %s%s went again: %w", missing[0].ID, missing[0].DiffID, errdefs.ErrNotFound)
	}
	return ids, err
}

// LocalIDs is LayerIDs for those who can do without the bytes of layers that would have to be fetched;
// their IDs are "".
func (e *Env) LocalIDs(r Result) (ids []string, missing []*Layer, err error) {
	ids, missing, err = e.present(r)
	for _, l := range missing {
		if l.Blob == nil || l.Origin == nil && l.From == nil {
			return nil, nil, fmt.Errorf("layer %s: %w", l.ID, errdefs.ErrNotFound)
		}
	}
	return ids, missing, err
}

// present returns the IDs of the layers that are there, "" for those that are not, and those.
func (e *Env) present(r Result) (ids []string, missing []*Layer, err error) {
	for i := range r.Layers {
		l := &r.Layers[i]
		id := l.ID
		if id == "" {
			found, err := e.Store.Layers.ByDiffID(l.DiffID)
			if err != nil && !errdefs.IsNotFound(err) {
				return nil, nil, err
			}
			id = found.ID
		}
		ok := id != ""
		if ok {
			if ok, err = e.touchLayer(id); err != nil {
				return nil, nil, err
			}
		}
		if !ok {
			id, missing = "", append(missing, l)
		}
		ids = append(ids, id)
	}
	return ids, missing, nil
}

// A View is a state that can be read. It is closed by its user.
type View struct {
	Dir *rootfs.Dir
}

// Close gives the view back.
func (v *View) Close() error { return v.Dir.Close() }

// View opens r for reading. A local directory is shown whole, without its patterns.
func (e *Env) View(ctx context.Context, c *solver.Console, r Result) (*View, error) {
	dir, err := e.view(ctx, c, r)
	if err != nil {
		return nil, err
	}
	return &View{dir}, nil
}

func (e *Env) view(ctx context.Context, c *solver.Console, r Result) (*rootfs.Dir, error) {
	if r.Local != nil {
		return rootfs.Open(r.Local.path)
	}
	lowers, _, err := e.lowers(ctx, c, r)
	if err != nil {
		return nil, err
	}
	f, err := mount.View(lowers)
	if err != nil {
		return nil, err
	}
	return rootfs.FromFile(f), nil
}

// A mutable is a state being changed: a snapshot whose upper becomes a layer.
type mutable struct {
	env  *Env
	base []Layer
	snap snapshot.Snapshot
	dir  *rootfs.Dir // the whole tree; nil until open, and while a command has it
	old  *rootfs.Dir // the tree as it was; nil until before
	gone bool        // the snapshot
}

// prepare makes a state that begins as r.
func (e *Env) prepare(ctx context.Context, c *solver.Console, r Result) (*mutable, error) {
	if r.Local != nil {
		solid, err := r.Local.solid(ctx, c)
		if err != nil {
			return nil, err
		}
		r = solid
	}
	lowers, ids, err := e.lowers(ctx, c, r)
	if err != nil {
		return nil, err
	}
	snap, err := e.Store.Snapshots.Prepare(ctx, "build-"+rand.Text(), lowers, ids)
	if err != nil {
		return nil, err
	}
	return &mutable{env: e, base: r.Layers, snap: snap}, nil
}

// open gives the tree to work in. On nothing, the upper is all there is: no overlay is needed.
func (m *mutable) open() (*rootfs.Dir, error) {
	if m.dir != nil {
		return m.dir, nil
	}
	if len(m.base) == 0 {
		dir, err := rootfs.Open(m.snap.Upper)
		m.dir = dir
		return dir, err
	}
	over, err := m.overlay()
	if err != nil {
		return nil, err
	}
	f, err := over.Open()
	if err != nil {
		return nil, err
	}
	m.dir = rootfs.FromFile(f)
	return m.dir, nil
}

// before gives the tree as it was before the change, for reading, until commit or discard.
func (m *mutable) before() (*rootfs.Dir, error) {
	if m.old == nil {
		f, err := mount.View(m.snap.Lowers)
		if err != nil {
			return nil, err
		}
		m.old = rootfs.FromFile(f)
	}
	return m.old, nil
}

// overlay describes the mount of the state. It is volatile: the end of another would wait until
// all that was written to the whole disk is on it. A layer is synced later, or made again.
func (m *mutable) overlay() (mount.Overlay, error) {
	o := m.snap.Overlay()
	o.Volatile = true
	// What a volatile mount leaves so that it is not mounted again: Documentation/filesystems/overlayfs.rst, "Volatile mount".
	if err := os.RemoveAll(filepath.Join(o.Work, "work/incompat")); err != nil {
		return o, fmt.Errorf("mounting %s again: %w", m.snap.ID, err)
	}
	return o, nil
}

// copy calls fn with the tree to copy into.
func (m *mutable) copy(fn func(destination) error) (err error) {
	dir, err := m.open()
	if err != nil {
		return err
	}
	if len(m.base) == 0 {
		return fn(destination{Dir: dir})
	}
	upper, err := rootfs.Open(m.snap.Upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, upper.Close(), m.close()) }()
	return fn(destination{Dir: dir, upper: upper})
}

func (m *mutable) close() error {
	if m.dir == nil {
		return nil
	}
	err := m.dir.Close()
	m.dir = nil
	return err
}

// commit turns the state into a Result with one layer more. What is left of the state is removed beside
// what follows.
func (m *mutable) commit(ctx context.Context) (Result, error) {
	if err := m.close(); err != nil {
		return Result{}, err
	}
	if err := m.settle(); err != nil {
		return Result{}, err
	}
	l, err := m.env.Store.Layers.Adopt(ctx, m.snap.Upper)
	if err != nil {
		return Result{}, err
	}
	layers := append(slices.Clone(m.base), Layer{ID: l.ID, Created: time.Now().UTC()})
	m.gone = true
	old := m.old
	m.old = nil
	m.env.beside(func() error {
		err := m.env.Store.Snapshots.Remove(context.WithoutCancel(ctx), m.snap.ID)
		if old != nil {
			err = errors.Join(err, old.Close())
		}
		return err
	})
	return Result{Layers: layers}, nil
}

// discard drops the state, also after a cancellation. After commit it does nothing.
func (m *mutable) discard(ctx context.Context) error {
	err := m.close()
	if m.gone {
		return err
	}
	if m.old != nil {
		err = errors.Join(err, m.old.Close())
		m.old = nil
	}
	return errors.Join(err, m.env.Store.Snapshots.Remove(context.WithoutCancel(ctx), m.snap.ID))
}
