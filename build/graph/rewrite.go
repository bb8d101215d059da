package graph

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// maxChanges is how many sources Rewrite has changed at once.
const maxChanges = 16

// Rewrite returns def with the sources that change made others of, and def itself if there are none. change is
// called with the copy of an operation that is a source, once for each, and for several at once: it may ask a client, who
// asks a registry. What is wrong with def otherwise is for Load.
func Rewrite(ctx context.Context, def *pb.Definition, change func(context.Context, *pb.Op) (bool, error)) (*pb.Definition, error) {
	if n := len(def.GetDef()); n > maxOps {
		return nil, fmt.Errorf("build definition: has %d operations, want 2 to %d: %w", n, maxOps, errdefs.ErrInvalidArgument)
	}
	w := rewriter{ops: make(map[string]*pb.Op, len(def.GetDef())), changed: map[string]bool{}, names: map[string]string{}, bytes: map[string][]byte{}}
	ids := make([]string, len(def.GetDef()))
	for i, b := range def.GetDef() {
		op := &pb.Op{}
		if err := op.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("build definition: operation cannot be decoded: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		ids[i] = digest.FromBytes(b).String()
		if w.ops[ids[i]] != nil {
			continue
		}
		w.ops[ids[i]] = op
	}
	if err := w.change(ctx, change); err != nil {
		return nil, err
	}
	if len(w.changed) == 0 {
		return def, nil
	}
	res := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	if def.Source != nil {
		res.Source = &pb.Source{Infos: def.Source.Infos, Locations: maps.Clone(def.Source.Locations)}
	}
	for i, id := range ids {
		name, err := w.name(id)
		if err != nil {
			return nil, err
		}
		b := w.bytes[name]
		if b == nil {
			b = def.Def[i]
		}
		res.Def = append(res.Def, b)
		if m, ok := def.Metadata[id]; ok {
			res.Metadata[name] = m
		}
		if where, ok := def.Source.GetLocations()[id]; ok && name != id {
			res.Source.Locations[name] = where
		}
	}
	return res, nil
}

type rewriter struct {
	ops     map[string]*pb.Op // by their names before
	changed map[string]bool
	names   map[string]string // new ones by old ones; "" while one is looked for
	bytes   map[string][]byte // of operations with a new name, by that
}

// change lets change have all sources, and notes which are others then.
func (w *rewriter) change(ctx context.Context, change func(context.Context, *pb.Op) (bool, error)) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxChanges)
	var mu sync.Mutex
	for id, op := range w.ops {
		if op.GetSource() == nil {
			continue
		}
		g.Go(func() error {
			changed, err := change(ctx, op)
			mu.Lock()
			defer mu.Unlock()
			if changed {
				w.changed[id] = true
			}
			return err
		})
	}
	return g.Wait()
}

// name returns the digest of an operation when those that it stands on have theirs.
func (w *rewriter) name(id string) (string, error) {
	if name, known := w.names[id]; known || w.ops[id] == nil {
		if known && name == "" {
			return "", fmt.Errorf("build definition: operation %s stands on itself: %w", id, errdefs.ErrInvalidArgument)
		}
		if !known {
			name = id // it is missing
		}
		return name, nil
	}
	w.names[id] = ""
	op, changed := w.ops[id], w.changed[id]
	for _, in := range op.Inputs {
		if in == nil {
			continue
		}
		name, err := w.name(in.Digest)
		if err != nil {
			return "", err
		}
		changed = changed || name != in.Digest
		in.Digest = name
	}
	name := id
	if changed {
		b, err := op.Marshal()
		if err != nil {
			return "", fmt.Errorf("build definition: %w", err)
		}
		name = digest.FromBytes(b).String()
		w.bytes[name] = b
	}
	w.names[id] = name
	return name, nil
}
