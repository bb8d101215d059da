package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/teu-dev/teu/cmd/teu/ui"
	"github.com/teu-dev/teu/runner"
	"github.com/teu-dev/teu/runner/event"
)

// apiEvent is an event with the fields that docker kept from before API 1.22.
type apiEvent struct {
	Status string `json:"status,omitempty"`
	ID     string `json:"id,omitempty"`
	From   string `json:"from,omitempty"`
	event.Event
}

func showEvents(ctx context.Context, a *app, since, until, format string, list []string) error {
	o := runner.EventOptions{}
	var err error
	if o.Since, o.Until, err = span(since, until); err != nil {
		return err
	}
	if !o.Since.IsZero() && !o.Until.IsZero() && o.Until.Before(o.Since) {
		return fmt.Errorf("`since` time (%s) cannot be after `until` time (%s)", since, until)
	}
	o.Filters = splitFilters(list)
	var t *template.Template
	if format != "" && format != "json" {
		if t, err = ui.ParseTemplate(format); err == nil {
			err = t.Execute(io.Discard, apiEvent{})
		}
		if err != nil {
			return withExitCode(exitTemplate, fmt.Errorf("Error parsing format: %w", err))
		}
	}
	err = a.engine().Events(ctx, o, func(e event.Event) error {
		all := apiEvent{Event: e}
		if e.Type == event.Container {
			all.Status, all.ID, all.From = e.Action, e.Actor.ID, e.Actor.Attributes["image"]
		}
		switch {
		case t != nil:
			return a.ui.Line(t, all)
		case format == "json":
			return a.ui.JSONLine(all)
		}
		a.ui.Println(eventLine(e))
		return a.ui.WriteError()
	})
	return cmp.Or(err, ctx.Err())
}

// eventLine is docker's: time, type, action, ID and the attributes by name.
func eventLine(e event.Event) string {
	when := time.Unix(0, e.TimeNano).Format("2006-01-02T15:04:05.000000000Z07:00")
	line := fmt.Sprintf("%s %s %s %s", when, e.Type, e.Action, e.Actor.ID)
	var attributes []string
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		attributes = append(attributes, k+"="+e.Actor.Attributes[k])
	}
	if len(attributes) > 0 {
		line += " (" + strings.Join(attributes, ", ") + ")"
	}
	return line
}
