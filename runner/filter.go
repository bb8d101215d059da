package runner

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// hasLabels applies docker's filters label and label! (KEY or KEY=VALUE, all must hold).
func hasLabels(labels map[string]string, filters map[string][]string) bool {
	has := func(want string) bool {
		key, value, valued := strings.Cut(want, "=")
		got, ok := labels[key]
		return ok && (!valued || got == value)
	}
	for _, want := range filters["label"] {
		if !has(want) {
			return false
		}
	}
	return !slices.ContainsFunc(filters["label!"], has)
}

// checkFilters refuses filters that are not known.
func checkFilters(filters map[string][]string, known ...string) error {
	for k := range filters {
		if !slices.Contains(known, k) {
			return worded(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	return nil
}

// boolFilter is the value of a filter that is true or false; an absent one is not given.
func boolFilter(filters map[string][]string, name string) (value, given bool, err error) {
	list := filters[name]
	if len(list) == 0 {
		return false, false, nil
	}
	value, err = strconv.ParseBool(list[0])
	if err != nil || len(list) > 1 {
		return false, false, worded(errdefs.ErrInvalidArgument, "invalid filter '%s=%s'", name, list)
	}
	return value, true, nil
}

// pattern is a filter for names: a regular expression that the name contains (moby
// daemon/internal/filters, Args.Match); what is none finds nothing but itself.
type pattern struct {
	text string
	re   *regexp.Regexp // nil if text is none
}

// maxPattern bounds the regular expressions of clients, in bytes.
const maxPattern = 1 << 10

// patterns are the values of a filter for names.
func patterns(filters map[string][]string, name string) (list []pattern, err error) {
	for _, text := range filters[name] {
		if len(text) > maxPattern {
			return nil, worded(errdefs.ErrInvalidArgument, "invalid filter '%s': longer than %d bytes", name, maxPattern)
		}
		re, _ := regexp.Compile(text)
		list = append(list, pattern{text, re})
	}
	return list, nil
}

// matchAny says whether a name fits one of the patterns; any does when there is none.
func matchAny(list []pattern, name string) bool {
	return len(list) == 0 || slices.ContainsFunc(list, func(p pattern) bool {
		return name == p.text || p.re != nil && p.re.MatchString(name)
	})
}

func (e *Engine) filterVolumes(all []Volume, filters map[string][]string) ([]Volume, error) {
	if err := checkFilters(filters, "name", "label", "label!", "driver", "dangling"); err != nil {
		return nil, err
	}
	dangling, given, err := boolFilter(filters, "dangling")
	if err != nil {
		return nil, err
	}
	names, err := patterns(filters, "name")
	if err != nil {
		return nil, err
	}
	users, err := e.VolumeUsers()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(v Volume) bool {
		return !matchAny(names, v.Name) ||
			!anyOf(filters["driver"], func(s string) bool { return v.Driver == s }) ||
			given && dangling != (len(users[v.Name]) == 0) || !hasLabels(v.Labels, filters)
	}), nil
}
