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

// matchesName says whether a filter means a name: it is a regular expression that the name
// contains (moby daemon/internal/filters, Args.Match), and what is none finds nothing but itself.
func matchesName(name, filter string) bool {
	ok, err := regexp.MatchString(filter, name)
	return name == filter || err == nil && ok
}

func (e *Engine) filterVolumes(all []Volume, filters map[string][]string) ([]Volume, error) {
	if err := checkFilters(filters, "name", "label", "label!", "driver", "dangling"); err != nil {
		return nil, err
	}
	dangling, given, err := boolFilter(filters, "dangling")
	if err != nil {
		return nil, err
	}
	users, err := e.VolumeUsers()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(v Volume) bool {
		return !anyOf(filters["name"], func(s string) bool { return matchesName(v.Name, s) }) ||
			!anyOf(filters["driver"], func(s string) bool { return v.Driver == s }) ||
			given && dangling != (len(users[v.Name]) == 0) || !hasLabels(v.Labels, filters)
	}), nil
}
