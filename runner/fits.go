package runner

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner/event"
)

// fits says whether an event is wanted by docker's filters (daemon/events/filter.go):
// those of one name are alternatives, different names must all fit, and every label must.
func fits(e event.Event, filters map[string][]string) bool {
	for name, values := range filters {
		if len(values) == 0 {
			continue
		}
		match := func(v string) bool { return eventFits(e, name, v) }
		if name == "label" {
			if slices.ContainsFunc(values, func(v string) bool { return !match(v) }) {
				return false
			}
		} else if !slices.ContainsFunc(values, match) {
			return false
		}
	}
	return true
}

func eventFits(e event.Event, name, v string) bool {
	a := e.Actor.Attributes
	switch name {
	case "event":
		action, _, _ := strings.Cut(e.Action, ":")
		return e.Action == v || action == v
	case "type":
		return e.Type == v
	case "scope":
		return e.Scope == v
	case "label":
		key, value, valued := strings.Cut(v, "=")
		got, ok := a[key]
		return ok && (!valued || got == value)
	case "image":
		if e.Type == "image" {
			return imageFits(e.Actor.ID, v) || imageFits(a["name"], v)
		}
		return imageFits(a["image"], v)
	case "container", "volume", "network", "daemon", "plugin", "service", "node", "secret", "config":
		// Of whatever type: dockerd does not look at it, nor at the container a network's event names.
		return strings.HasPrefix(e.Actor.ID, v) || strings.HasPrefix(a["name"], strings.TrimPrefix(v, "/"))
	}
	return true // dockerd looks at no other names: --filter status=start chooses every event
}

// imageFits compares a name of an image with or without its tag.
func imageFits(image, v string) bool {
	if image == v {
		return true
	}
	i := strings.LastIndexByte(image, ':')
	return i > strings.LastIndexByte(image, '/') && image[:i] == v
}

// pruneFits says whether a container may be pruned.
func (c *Container) pruneFits(filters map[string][]string, now time.Time) (bool, error) {
	for name, values := range filters {
		for _, v := range values {
			switch name {
			case "until":
				t, err := ParseTime(v, now)
				if err != nil {
					return false, err
				}
				if c.Created.After(t) {
					return false, nil
				}
			case "label", "label!":
				key, value, valued := strings.Cut(v, "=")
				got, ok := c.Labels()[key]
				if has := ok && (!valued || got == value); has != (name == "label") {
					return false, nil
				}
			default:
				return false, worded(errdefs.ErrInvalidArgument, "invalid filter '%s'", name)
			}
		}
	}
	return true, nil
}

// ParseTime understands docker's times: a duration before now, RFC 3339 and its beginnings
// in local time, and seconds since 1970. Empty is the zero time.
func ParseTime(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && text != "0" { // which is 1970
		return now.Add(-d), nil
	}
	whole, part, _ := strings.Cut(text, ".")
	if s, err := strconv.ParseInt(whole, 10, 64); err == nil && len(part) <= 9 && strings.Trim(part, "0123456789") == "" {
		nanos, _ := strconv.ParseInt((part + "000000000")[:9], 10, 64)
		return time.Unix(s, nanos), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04", "2006-01-02T15", "2006-01-02Z07:00", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, worded(errdefs.ErrInvalidArgument, "failed to parse value as time or duration: %q", text)
}
