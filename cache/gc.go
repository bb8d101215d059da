package cache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/result"
	"github.com/teu-dev/teu/cache/snapshot"
	"github.com/teu-dev/teu/cache/statefile"
)

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
	DryRun  bool                 // report what would go, remove nothing
	Results *result.PruneOptions // which build results go first; nil: none
}

// A Report says what GC removed.
type Report struct {
	Removed []Object // results, snapshots, layers, blobs
	Bytes   int64
}

// GC removes every object that no name, lease, live pin or build result leads to.
//
// What makes it safe beside any number of processes that use the store:
//
//   - A process that means to use an object touches it, which sets its time and tells whether it
//     is there, holding gc.lock shared. GC holds gc.lock exclusively while it looks at the time of
//     one object and takes its name away. So whoever was told that it is there, has it.
//   - An object is only taken if its time is before the oldest live pin began, and before GC
//     began. So whatever somebody touched under a pin stays until he has named it, with what it leads
//     to, and what is made while GC runs stays until the next.
//   - The pins are read before the roots: when a pin is gone by then, its root is there.
func (s *Store) GC(ctx context.Context, o GCOptions) (Report, error) {
	pruned, err := s.pruneResults(ctx, o)
	if err != nil {
		return Report{}, err
	}
	before, err := s.cutoff()
	if err != nil {
		return Report{}, fmt.Errorf("collecting: %w", err)
	}
	dropped := map[digest.Digest]bool{}
	for _, r := range pruned {
		dropped[r.Key] = true
	}
	all, err := s.survey(ctx, surveyOptions{dropped: dropped, before: before, sizeless: true})
	if err != nil {
		return Report{}, fmt.Errorf("collecting: %w", err)
	}
	var report Report
	for _, r := range pruned {
		// Its bytes are those of the layers and blobs that go with it.
		report.Removed = append(report.Removed, Object{Kind: KindResult, ID: string(r.Key)})
	}
	for _, obj := range all.dead() {
		if all.live[obj.node()] { // by now
			continue
		}
		if err := ctx.Err(); err != nil {
			return report, err
		}
		if obj.Kind == KindLayer {
			obj.Size = s.Layers.Size(obj.ID)
		}
		gone := true
		if !o.DryRun {
			if gone, err = s.expire(ctx, obj.Object, before); err != nil {
				return report, fmt.Errorf("collecting %s %s: %w", obj.Kind, obj.ID, err)
			}
		}
		if !gone { // somebody wants it after all, so also what it leads to
			if err := all.revive(obj.node()); err != nil {
				return report, fmt.Errorf("collecting: %w", err)
			}
			continue
		}
		report.Removed = append(report.Removed, obj.Object)
		report.Bytes += obj.Size
	}
	if o.DryRun {
		return report, nil
	}
	return report, s.tidy(ctx, &all, report.Removed)
}

func (s *Store) pruneResults(ctx context.Context, o GCOptions) ([]result.Record, error) {
	if o.Results == nil {
		return nil, nil
	}
	prune := *o.Results
	prune.DryRun = prune.DryRun || o.DryRun
	return s.Results.Prune(ctx, prune)
}

// cutoff returns the time before which an object must have been used last to be taken.
func (s *Store) cutoff() (time.Time, error) {
	began, err := s.stamp()
	if err != nil {
		return time.Time{}, err
	}
	return s.oldestPin(began)
}

// Cutoff returns the time for Take. Whoever takes an object asks for it before he looks at what needs that. It is later than
// all that was used before, which took place in the same tick of the clock perhaps.
func (s *Store) Cutoff() (time.Time, error) {
	first, err := s.stamp()
	for began := first; err == nil; began, err = s.stamp() {
		if began.After(first) {
			return s.oldestPin(began)
		}
		time.Sleep(time.Millisecond)
	}
	return time.Time{}, err
}

// stamp returns the time by the clock that the files of the store get their times from.
func (s *Store) stamp() (time.Time, error) {
	f, err := os.OpenFile(s.gcLock(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, f.Name(), now, 0); err != nil {
		return time.Time{}, &os.PathError{Op: "utimensat", Path: f.Name(), Err: err}
	}
	fi, err := f.Stat()
	if err != nil {
		return time.Time{}, err
	}
	return fi.ModTime(), nil
}

// Take takes the blob d away as GC does, although something leads to it, and says whether it did: it stays if it was used at
// before, a Cutoff, or later. One that is not there is an errdefs.ErrNotFound.
func (s *Store) Take(ctx context.Context, d digest.Digest, before time.Time) (gone bool, err error) {
	if _, err := s.Content.Stat(ctx, d); err != nil {
		return false, err
	}
	return s.expire(ctx, Object{Kind: KindBlob, ID: string(d)}, before)
}

// expire takes one object away if it was not used meanwhile, and says whether it did.
func (s *Store) expire(ctx context.Context, obj Object, before time.Time) (gone bool, err error) {
	unlock, err := statefile.Lock(ctx, s.gcLock(), statefile.LockOptions{})
	if err != nil {
		return false, err
	}
	remove, err := s.takeName(ctx, obj, before)
	if err := errors.Join(err, unlock()); err != nil || remove == nil {
		return false, err
	}
	return true, remove() // what takes long, without the lock
}

// takeName is called with gc.lock held. remove is nil if the object stays.
func (s *Store) takeName(ctx context.Context, obj Object, before time.Time) (remove func() error, err error) {
	switch obj.Kind {
	case KindLayer:
		return s.Layers.Expire(obj.ID, before)
	case KindSnapshot:
		return s.Snapshots.Expire(obj.ID, before)
	case KindBlob:
		info, err := s.Content.Stat(ctx, digest.Digest(obj.ID))
		if errdefs.IsNotFound(err) || err == nil && !info.ModTime.Before(before) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return func() error { return nil }, s.Content.Delete(ctx, digest.Digest(obj.ID))
	}
	return nil, fmt.Errorf("cannot collect a %s: %w", obj.Kind, errdefs.ErrInvalidArgument)
}

// tidy removes what dead processes left behind, and makes what is there last.
func (s *Store) tidy(ctx context.Context, all *survey, removed []Object) error {
	layers, blobs := all.there(removed)
	errs := []error{s.Content.Sweep(ctx), s.Layers.Sweep(layers), s.Snapshots.Sweep(), s.sweepCompressed(ctx, all.graph.compressed, blobs)}
	for _, dir := range []string{"leases", "compressed", "images/names", "images/dangling"} {
		errs = append(errs, statefile.Sweep(s.path(dir)))
	}
	errs = append(errs, s.Layers.Sync(ctx))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tidying the store: %w", err)
	}
	return nil
}

// A survey is what is in the store, and which of it is reached from a root.
type survey struct {
	objects []object // snapshots, layers, blobs
	live    map[node]bool
	graph   *graph
}

type surveyOptions struct {
	dropped  map[digest.Digest]bool // build results that count as gone
	before   time.Time              // objects used at it or later are roots
	sizeless bool                   // the sizes of layers are not needed
}

type object struct {
	Object
	used time.Time
}

func (o object) node() node { return node{o.Kind, o.ID} }

// revive marks n and what it leads to as live.
func (v *survey) revive(n node) error {
	more, err := mark([]node{n}, v.graph.refs)
	maps.Copy(v.live, more)
	return err
}

// dead returns what is not live. What refers to others comes first.
func (v *survey) dead() []object {
	var dead []object
	for _, obj := range v.objects {
		if !v.live[obj.node()] {
			dead = append(dead, obj)
		}
	}
	order := []Kind{KindSnapshot, KindLayer, KindBlob}
	slices.SortFunc(dead, func(a, b object) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Kind), slices.Index(order, b.Kind)), cmp.Compare(a.ID, b.ID))
	})
	return dead
}

// there returns the layers and blobs that were there, without those that were removed since.
func (v *survey) there(removed []Object) (layers map[string]bool, blobs map[digest.Digest]bool) {
	layers, blobs = map[string]bool{}, map[digest.Digest]bool{}
	for _, obj := range v.objects {
		switch obj.Kind {
		case KindLayer:
			layers[obj.ID] = true
		case KindBlob:
			blobs[digest.Digest(obj.ID)] = true
		}
	}
	for _, obj := range removed {
		delete(layers, obj.ID)
		delete(blobs, digest.Digest(obj.ID))
	}
	return layers, blobs
}

// survey looks at the whole store.
func (s *Store) survey(ctx context.Context, o surveyOptions) (survey, error) {
	roots, err := s.roots(ctx, o.dropped)
	if err != nil {
		return survey{}, err
	}
	v := survey{graph: &graph{
		s: s, ctx: ctx, layers: map[digest.Digest][]string{}, diffIDs: map[string]digest.Digest{},
		snapshots: map[string][]string{},
	}}
	var all errgroup.Group // where there are many layers, both take their time
	all.Go(func() (err error) {
		v.graph.compressed, err = s.allCompressed()
		return err
	})
	all.Go(func() error { return s.list(ctx, &v, o) })
	if err := all.Wait(); err != nil {
		return survey{}, err
	}
	v.graph.unpacked = make(map[digest.Digest]bool, len(v.graph.compressed.blobs))
	for _, blobs := range v.graph.compressed.blobs {
		for _, d := range blobs {
			v.graph.unpacked[d] = true
		}
	}
	for _, obj := range v.objects {
		if !obj.used.Before(o.before) {
			roots = append(roots, obj.node())
		}
	}
	v.live, err = mark(roots, v.graph.refs)
	return v, err
}

// list fills in the objects and what they refer to.
func (s *Store) list(ctx context.Context, v *survey, o surveyOptions) error {
	blobs := make(chan error, 1) // beside the layers: there are many of both
	var found []object
	go func() {
		blobs <- s.Content.Walk(ctx, func(b content.Info) error {
			found = append(found, object{Object{KindBlob, string(b.Digest), b.Size}, b.ModTime})
			return nil
		})
	}()
	walk := s.Layers.Walk
	if o.sizeless {
		walk = s.Layers.List
	}
	err := errors.Join(
		s.Snapshots.Walk(ctx, func(sn snapshot.Info) error {
			v.objects = append(v.objects, object{Object{KindSnapshot, sn.ID, 0}, sn.Used})
			v.graph.snapshots[sn.ID] = sn.Layers
			return nil
		}),
		walk(ctx, func(l layer.Info) error {
			v.objects = append(v.objects, object{Object{KindLayer, l.ID, l.Size}, l.Used})
			if !l.Stale && l.DiffID != "" {
				v.graph.layers[l.DiffID] = append(v.graph.layers[l.DiffID], l.ID)
				v.graph.diffIDs[l.ID] = l.DiffID
			}
			return nil
		}),
		<-blobs,
	)
	v.objects = append(v.objects, found...)
	return err
}

// roots returns what names, leases and build results stand for.
func (s *Store) roots(ctx context.Context, dropped map[digest.Digest]bool) ([]node, error) {
	var roots []node
	images, err := s.Images.Snapshot(ctx)
	if err != nil {
		return nil, err
	}
	for _, img := range images {
		roots = append(roots, blobNode(img.Target.Digest))
	}
	leases, err := s.leases()
	if err != nil {
		return nil, err
	}
	for _, l := range leases {
		roots = append(roots, l.nodes()...)
	}
	err = s.Results.Walk(ctx, func(r result.Record) error {
		if dropped[r.Key] {
			return nil
		}
		roots = append(roots, layerNodes(r.Layers)...)
		for _, d := range r.Blobs {
			roots = append(roots, blobNode(d))
		}
		return nil
	})
	return roots, err
}
