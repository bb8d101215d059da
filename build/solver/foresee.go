package solver

import (
	"context"
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
)

// What a vertex stands on need not be there for its own result to be known: the layers of a stage that
// an image only copies a file from are of no use once the copy is in the cache, and no other machine was
// sent them. So, before anything runs, a vertex is looked for under the key that it would have if its
// inputs were run, whose keys follow from their definitions in the same way.

// A prospect is what can be said of a vertex without running anything.
type prospect[R any] struct {
	known bool // the key is what it is in node.record, whether or not found
	found bool // the outputs are there too
	node  node[R]
}

// A study is the prospect of a vertex and what it took to see it, for one Solver.
type study[R any] struct {
	done chan struct{} // closed when prospect is set
	prospect[R]

	mu       sync.Mutex
	keyed    bool // key is set
	key      Key
	read     bool // contents is set
	contents []digest.Digest
	told     bool // an event said what became of the vertex
}

// study returns the one of v.
func (s *Solver[R]) study(v *Vertex[R]) *study[R] {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, ok := s.studies[v.ID]
	if !ok {
		st = &study[R]{}
		s.studies[v.ID] = st
	}
	return st
}

// opKey asks v's operation for its key, once.
func (s *Solver[R]) opKey(ctx context.Context, v *Vertex[R]) (Key, error) {
	st := s.study(v)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.keyed {
		return st.key, nil
	}
	key, err := v.Op.Key(ctx)
	if err == nil {
		st.keyed, st.key = true, key
	}
	return key, err
}

// contentKeys asks v's operation for its content keys, once.
func (s *Solver[R]) contentKeys(ctx context.Context, c *Console, v *Vertex[R], in []R) ([]digest.Digest, error) {
	st := s.study(v)
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.read {
		return st.contents, nil
	}
	digests, err := v.Op.ContentKeys(ctx, c, in)
	if err == nil {
		st.read, st.contents = true, digests
	}
	return digests, err
}

// foresee returns the prospect of v; the first to ask does the work. Whatever fails leaves it unknown:
// who resolves the vertex will meet the failure again.
func (s *Solver[R]) foresee(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R]) prospect[R] {
	st := s.study(v)
	for {
		s.mu.Lock()
		first := st.done == nil
		if first {
			st.done = make(chan struct{})
		}
		done := st.done
		s.mu.Unlock()
		if first {
			p := s.look(ctx, fail, v)
			s.mu.Lock()
			st.prospect = p
			if !p.known && ctx.Err() != nil {
				st.done = nil // the call was given up; another may look again
			}
			s.mu.Unlock()
			close(done)
			return p
		}
		select {
		case <-ctx.Done():
			return prospect[R]{}
		case <-done:
		}
		s.mu.Lock()
		p, again := st.prospect, st.done == nil
		s.mu.Unlock()
		if !again {
			return p
		}
	}
}

func (s *Solver[R]) look(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R]) (p prospect[R]) {
	if v.IgnoreCache {
		return p // it will be a result of a new identity
	}
	op, err := s.opKey(ctx, v)
	if err != nil {
		return p
	}
	if op.Live {
		n, err := s.resolve(ctx, fail, v)
		return prospect[R]{err == nil, err == nil, n}
	}
	in, there, ok := s.foreseeInputs(ctx, fail, v)
	if !ok {
		return p
	}
	key := definitionKey(op, in)
	if n, ok, err := s.get(ctx, key); ok || err != nil {
		return prospect[R]{err == nil, err == nil, n}
	}
	digests, err := s.foreseeContent(ctx, v, op, in, there)
	content := contentKey(op, in, digests)
	if err != nil || content.transient {
		return p
	}
	plain := plainKeys(v, op, in, digests)
	n, ok, err := s.get(ctx, content)
	if err != nil {
		return p
	}
	if !ok {
		return prospect[R]{known: true, node: node[R]{record: Record[R]{Key: content.digest, Plain: plain}}}
	}
	if err := s.alias(ctx, keys{key, content, plain}, n); err != nil {
		return p
	}
	return prospect[R]{true, true, n}
}

// foreseeContent returns the content keys of v, if what it reads of its inputs is there.
func (s *Solver[R]) foreseeContent(ctx context.Context, v *Vertex[R], op Key, in []input[R], there []bool) ([]digest.Digest, error) {
	whole, reads := true, false
	for i, ok := range there {
		if !ok && op.reads(i) {
			return nil, errMissing
		}
		whole, reads = whole && ok, reads || op.reads(i)
	}
	if !reads {
		return nil, nil
	}
	c := NewConsole(v.ID, v.Name, s.emit)
	if !whole {
		return v.Op.ContentKeys(ctx, c, values(in)) // it is asked again with all of them
	}
	return s.contentKeys(ctx, c, v, values(in))
}

// errMissing is what cannot be foreseen.
var errMissing = errors.New("an input is not there")

// reads says whether ContentKeys looks at input i.
func (k Key) reads(i int) bool { return k.Reads == nil || i < len(k.Reads) && k.Reads[i] }

// foreseeInputs returns the inputs of v as far as they can be foreseen: there says which have a value,
// ok that the keys of all of them are known.
func (s *Solver[R]) foreseeInputs(ctx context.Context, fail context.CancelCauseFunc, v *Vertex[R]) (in []input[R], there []bool, ok bool) {
	prospects := make([]prospect[R], len(v.Inputs))
	var wg sync.WaitGroup
	for i := 1; i < len(v.Inputs); i++ {
		wg.Go(func() { prospects[i] = s.foresee(ctx, fail, v.Inputs[i].Vertex) })
	}
	if len(v.Inputs) > 0 {
		prospects[0] = s.foresee(ctx, fail, v.Inputs[0].Vertex)
	}
	wg.Wait()
	in = make([]input[R], len(v.Inputs))
	there = make([]bool, len(v.Inputs))
	for i, p := range prospects {
		if !p.known {
			return nil, nil, false
		}
		in[i] = newInput(p.node, v.Inputs[i].Index)
		if there[i] = p.found; !p.found {
			continue
		}
		var err error
		if in[i].value, err = p.node.output(v.Inputs[i].Index); err != nil {
			return nil, nil, false
		}
	}
	return in, there, true
}

// tellFound tells that v, and what it stands on, was found.
func (s *Solver[R]) tellFound(v *Vertex[R]) { s.tellBelow(v, map[*Vertex[R]]bool{}) }

// tellBelow is tellFound for those that are not seen yet: there may be more ways to a vertex than can be walked.
func (s *Solver[R]) tellBelow(v *Vertex[R], seen map[*Vertex[R]]bool) {
	if seen[v] {
		return
	}
	seen[v] = true
	st := s.study(v)
	s.mu.Lock()
	told, found := st.told, st.found
	st.told = st.told || found
	s.mu.Unlock()
	if told {
		return
	}
	for _, in := range v.Inputs {
		s.tellBelow(in.Vertex, seen)
	}
	if found {
		s.tellCached(v)
	}
}

func (s *Solver[R]) tellCached(v *Vertex[R]) {
	c := NewConsole(v.ID, v.Name, s.emit)
	c.send(Event{Kind: Started})
	c.send(Event{Kind: Cached})
}
