package runner

import (
	"context"
	"maps"
	"path/filepath"
	"time"

	"github.com/teu-dev/teu/runner/event"
)

// EventOptions choose events.
type EventOptions struct {
	Since, Until time.Time // zero: from now on; until the context ends
	Filters      map[string][]string
	Begun        func() // see event.Range
}

// Events calls fn for every event that fits, whichever process caused it, until ctx or the
// range ends or fn fails. Filters are docker's: container, event, image, label, type,
// volume, network, daemon, scope; those of one name are alternatives, except labels.
func (e *Engine) Events(ctx context.Context, o EventOptions, fn func(event.Event) error) error {
	if err := checkEventFilters(o.Filters); err != nil {
		return err
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
