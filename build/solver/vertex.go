package solver

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"
)

// solve looks v up, or runs it, and tells of it.
func (s *Solver[R]) solve(ctx context.Context, v *Vertex[R], in []input[R]) (node[R], error) {
	st := s.study(v)
	s.mu.Lock()
	st.told = true
	s.mu.Unlock()
	c := NewConsole(v.ID, v.Name, s.emit)
	c.send(Event{Kind: Started})
	n, found, err := s.find(ctx, c, v, in)
	switch {
	case err != nil:
		if ctx.Err() != nil {
			err = context.Canceled
		}
		c.send(Event{Kind: Completed, Err: err})
		return n, &VertexError{v.ID, v.Name, err}
	case found:
		c.send(Event{Kind: Cached})
	default:
		c.send(Event{Kind: Completed})
	}
	return n, nil
}

// find is the algorithm of the package comment. found says that nothing had to run.
func (s *Solver[R]) find(ctx context.Context, c *Console, v *Vertex[R], in []input[R]) (n node[R], found bool, err error) {
	op, err := s.opKey(ctx, v)
	if err != nil {
		return n, false, err
	}
	key := definitionKey(op, in)
	if op.Live {
		outputs, err := v.Op.Run(ctx, c, values(in))
		return newNode(key, v, outputs), false, err
	}
	if !v.IgnoreCache {
		if n, ok, err := s.get(ctx, key); ok || err != nil {
			return n, ok, err
		}
	}
	digests, err := s.contentKeys(ctx, c, v, values(in))
	if err != nil {
		return n, false, err
	}
	content := contentKey(op, in, digests)
	if content.transient {
		outputs, err := s.run(ctx, c, v, in)
		return newNode(key, v, outputs), false, err
	}
	return s.findOrRun(ctx, c, v, in, keys{key, content, plainKeys(v, op, in, digests)})
}

// keys are those under which a result may be known.
type keys struct {
	definition, content recordKey
	plain               []digest.Digest // see Record.Plain
}

// findOrRun looks for the content key, which may be the same as that of the definition, and runs v if there is
// nothing. It holds the lock of the content key, so that of several builds only one runs it; when that fails, those that
// waited run it all at once. One that is run in spite of the cache is nobody else's, nor is another's of use for it: only
// this Solver has to wait.
func (s *Solver[R]) findOrRun(ctx context.Context, c *Console, v *Vertex[R], in []input[R], k keys) (n node[R], found bool, err error) {
	lock := k.content.digest
	if v.IgnoreCache {
		lock = digest.FromString(s.id + lock.String())
	}
	select {
	case <-ctx.Done():
		return n, false, context.Cause(ctx)
	case s.lines <- struct{}{}:
	}
	defer func() { <-s.lines }()
	unlock, err := s.cache.Lock(ctx, lock)
	if err != nil {
		return n, false, err
	}
	defer func() {
		failed := err
		if ctx.Err() != nil {
			failed = nil // it was given up: that says nothing of the next who tries
		}
		if e := unlock(failed); e != nil {
			err = errors.Join(err, e)
		}
	}()
	n, found, err = s.known(ctx, v, k.content)
	if err != nil {
		return n, false, err
	}
	if !found {
		outputs, err := s.run(ctx, c, v, in)
		if err != nil {
			return n, false, err
		}
		n = newNode(k.content, v, outputs)
		n.record.Plain = k.plain
		if v.IgnoreCache {
			// A new identity: what stands on the old result must not be found for this one.
			n.record.Key = digest.FromString(rand.Text())
		}
		if err := s.save(ctx, v, n, k.content); err != nil {
			return n, false, err
		}
	}
	return n, found, s.alias(ctx, k, n)
}

// alias makes n, which its content key has led to, found by the others too.
func (s *Solver[R]) alias(ctx context.Context, k keys, n node[R]) error {
	others := k.plain
	if !k.definition.transient {
		others = append(slices.Clone(others), k.definition.digest)
	}
	for i, key := range others {
		if key == k.content.digest || key == n.record.Key || slices.Contains(others[:i], key) {
			continue
		}
		if err := s.cache.Alias(ctx, key, n.record.Key); err != nil {
			return err
		}
	}
	return nil
}

// known looks content up; with IgnoreCache only among what this Solver made.
func (s *Solver[R]) known(ctx context.Context, v *Vertex[R], content recordKey) (node[R], bool, error) {
	if !v.IgnoreCache {
		return s.get(ctx, content)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.fresh[content.digest]
	return n, ok, nil
}

func (s *Solver[R]) save(ctx context.Context, v *Vertex[R], n node[R], content recordKey) error {
	if err := s.cache.Put(ctx, n.record); err != nil {
		return err
	}
	if !v.IgnoreCache {
		return nil
	}
	s.mu.Lock()
	s.fresh[content.digest] = n
	s.mu.Unlock()
	return s.cache.Alias(ctx, content.digest, n.record.Key)
}

func (s *Solver[R]) get(ctx context.Context, k recordKey) (node[R], bool, error) {
	if k.transient {
		return node[R]{}, false, nil
	}
	r, ok, err := s.cache.Get(ctx, k.digest)
	return node[R]{record: r}, ok, err
}

// run runs v when there is a slot. Whoever holds a slot waits for no other vertex and for no lock
// of a key, so the slots of all processes come free again.
func (s *Solver[R]) run(ctx context.Context, c *Console, v *Vertex[R], in []input[R]) ([]R, error) {
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case s.slots <- struct{}{}:
	}
	defer func() { <-s.slots }()
	c.send(Event{Kind: Running})
	return v.Op.Run(ctx, c, values(in))
}
