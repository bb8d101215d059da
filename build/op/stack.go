package op

import (
	"context"
	"slices"

	"github.com/teu-dev/teu/build/solver"
)

// A stack is what the overlay of some layers is made of. A state has as many layers as steps, and
// each step but the last is asked for by the next: what is known of it is not looked up again.
type stack struct {
	ids    []string // lowest first
	lowers []string // top first
}

// lowers returns the directories of r for an overlay, top first; at least one.
func (e *Env) lowers(ctx context.Context, c *solver.Console, r Result) (lowers, ids []string, err error) {
	if ids, err = e.LayerIDs(ctx, c, r); err != nil {
		return nil, nil, err
	}
	if len(ids) == 0 {
		dir, err := e.empty()
		return []string{dir}, nil, err
	}
	below := e.stackBelow(ids)
	lowers, err = e.Store.Layers.StackOn(ctx, below.lowers, ids, len(below.ids))
	if err == nil && len(below.ids) < len(ids) {
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.stacks == nil {
			e.stacks = map[string]stack{}
		}
		e.stacks[ids[len(ids)-1]] = stack{ids, lowers}
	}
	return lowers, ids, err
}

// stackBelow returns what is known of ids: the whole, all but the topmost, or nothing.
func (e *Env) stackBelow(ids []string) stack {
	e.mu.Lock()
	defer e.mu.Unlock()
	for n := len(ids); n > max(0, len(ids)-2); n-- {
		if s := e.stacks[ids[n-1]]; slices.Equal(s.ids, ids[:n]) {
			return s
		}
	}
	return stack{}
}

// touchLayer says whether the layer id is there. One that is stays for as long as the caller's pin: a step need not
// ask again for all that it stands on.
func (e *Env) touchLayer(id string) (bool, error) {
	e.mu.Lock()
	known := e.there[id]
	e.mu.Unlock()
	if known {
		return true, nil
	}
	ok, err := e.Store.Layers.Touch(id)
	if !ok || err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.there == nil {
		e.there = map[string]bool{}
	}
	e.there[id] = true
	return true, nil
}
