package op

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/runner/cgroup"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
)

// A place is what a command has outside of its container's program: a network namespace and a control
// group. No two commands have the same. Should we die, the next to come takes it back.
type place struct {
	kind  placeKind
	id    string
	netns string // for the spec
	group *cgroup.Group
	files keeper.Cgroup // of the group

	remove []func(context.Context) error // called backwards

	made chan struct{} // closed when the rest is set
	err  error
}

// A placeKind says which commands a place is fit for.
type placeKind struct {
	network Network
	cgroup  string // see Process
}

// newPlace returns a place that is still to be made.
func newPlace(kind placeKind, self statefile.Process) *place {
	return &place{kind: kind, id: groupName(self), made: make(chan struct{})}
}

// furnish makes the place. One that could not be made leaves nothing behind.
func (x *Containers) furnish(ctx context.Context, p *place, self statefile.Process) {
	defer close(p.made)
	if p.err = x.connect(ctx, p, self); p.err == nil {
		p.err = x.join(ctx, p)
	}
	if p.err != nil {
		p.err = errors.Join(p.err, p.leave(ctx))
	}
}

// leave takes the place away, also after a cancellation.
func (p *place) leave(ctx context.Context) (err error) {
	for len(p.remove) > 0 {
		last := len(p.remove) - 1
		err = errors.Join(err, p.remove[last](context.WithoutCancel(ctx)))
		p.remove = p.remove[:last]
	}
	return err
}

// connect gives the place a network.
func (x *Containers) connect(ctx context.Context, p *place, self statefile.Process) error {
	switch p.kind.network {
	case NetworkHost:
		p.netns = "host"
		return nil
	case NetworkNone:
		return nil
	}
	if err := network.Possible(); err != nil {
		x.warn([]string{"steps use the network of this machine: " + err.Error()})
		p.netns = "host"
		return nil
	}
	sb, err := x.Network.Attach(ctx, p.id, network.Options{Owner: &self})
	if err != nil {
		return fmt.Errorf("network of the step: %w", err)
	}
	p.netns = sb.NetNS
	p.remove = append(p.remove, func(ctx context.Context) error { return x.Network.Detach(ctx, p.id) })
	if err := x.Network.OpenOutlet(ctx); err != nil {
		x.warn([]string{err.Error()})
	}
	return nil
}

// join gives the place a control group without limits.
func (x *Containers) join(ctx context.Context, p *place) (err error) {
	x.findGroups(ctx)
	if x.hostErr != nil {
		return x.hostErr
	}
	if p.group, _, err = x.host.Create(path.Join("teu", p.kind.cgroup, p.id), nil); err != nil {
		return err
	}
	p.files = cgroupFiles(p.group)
	p.remove = append(p.remove, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		return p.group.Remove(ctx)
	})
	return nil
}
