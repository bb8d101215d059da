package runner

import (
	"context"
	"maps"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/teu-dev/teu/runner/event"
	"github.com/teu-dev/teu/runner/network"
)

// EventOptions choose events.
type EventOptions struct {
	Since, Until time.Time // both zero: from now on until the context ends
	Filters      map[string][]string
	Begun        func() // see event.Range
}

// Events calls fn for every event that fits, whichever process caused it, until ctx or the
// range ends or fn fails. Filters are docker's: container, event, image, label, type,
// volume, network, daemon, scope; those of one name are alternatives, except labels. Other
// names choose nothing, as with dockerd.
func (e *Engine) Events(ctx context.Context, o EventOptions, fn func(event.Event) error) error {
	if o.Since.IsZero() && !o.Until.IsZero() {
		o.Since = time.Unix(0, 0) // as docker: an end alone means all there is before it
	}
	return e.journal().Follow(ctx, event.Range{Since: o.Since, Until: o.Until, Begun: o.Begun}, func(ev event.Event) error {
		if !fits(ev, o.Filters) {
			return nil
		}
		return fn(ev)
	})
}

// Emit adds an event to the journal: what a command did to an image, volume or network.
func (e *Engine) Emit(kind, action, id string, attributes map[string]string) error {
	return e.journal().Append(event.Event{Type: kind, Action: action, Actor: event.Actor{ID: id, Attributes: attributes}})
}

func (e *Engine) journal() event.Journal {
	return event.Journal{Dir: filepath.Join(e.RunRoot, "events")}
}

// tell adds an event of a container. A journal that cannot be written stops nothing.
func (e *Engine) tell(c *Container, action string, more map[string]string) {
	e.Emit(event.Container, action, c.ID, c.eventAttributes(more))
}

// tellExec tells of a command in a container in docker's form, with a blank even where there are no arguments.
func (e *Engine) tellExec(c *Container, action string, args []string, id string) {
	command := strings.Join(args, " ")
	if len(args) == 1 {
		command += " "
	}
	e.tell(c, action+": "+command, map[string]string{"execID": id})
}

// TellPruned adds docker's event of a prune: how many bytes it has freed of a kind of things.
func (e *Engine) TellPruned(kind string, freed int64) {
	e.Emit(kind, "prune", "", map[string]string{"reclaimed": strconv.FormatInt(freed, 10)})
}

// eventAttributes are docker's: the labels, image and name of the container, and more.
func (c *Container) eventAttributes(more map[string]string) map[string]string {
	all := c.Labels()
	if all = maps.Clone(all); all == nil {
		all = map[string]string{}
	}
	all["image"], all["name"] = c.Options.Image, c.Name
	maps.Copy(all, more)
	return all
}

// tellJoined tells which networks and volumes a start has given to a container.
func (e *Engine) tellJoined(c *Container, s network.Sandbox) {
	e.tellNetworks(c, s, "connect")
	for _, p := range c.Mounts {
		if p.Type == "volume" {
			e.Emit("volume", "mount", p.Name, map[string]string{
				"container": c.ID, "destination": p.Destination, "driver": p.Driver, "propagation": p.Propagation, "read/write": strconv.FormatBool(p.RW),
			})
		}
	}
}

// tellLeft tells what a container that has ended leaves. It comes before it does.
func (e *Engine) tellLeft(c *Container) {
	s, err := e.network.Get(c.ID)
	if err != nil || s.Idle || !e.hasRunDir(c.ID) {
		return // it has left already
	}
	e.tellNetworks(c, s, "disconnect")
	for _, p := range c.Mounts {
		if p.Type == "volume" {
			e.Emit("volume", "unmount", p.Name, map[string]string{"container": c.ID, "driver": p.Driver})
		}
	}
}

func (e *Engine) tellNetworks(c *Container, s network.Sandbox, action string) {
	tell := func(id, name, driver string) {
		e.Emit("network", action, id, map[string]string{"container": c.ID, "name": name, "type": driver})
	}
	for _, ep := range s.Endpoints {
		tell(ep.Network, ep.NetworkName, ep.Driver)
	}
	if mode := c.Options.networkMode(); mode == "none" || mode == "host" {
		if n, err := e.network.Find(mode); err == nil {
			tell(n.ID, n.Name, n.Driver)
		}
	}
}
