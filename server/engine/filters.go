package engine

import (
	"encoding/json"
	"slices"

	"github.com/containerd/errdefs"
)

// filters reads the filters parameter: JSON of name -> values, or of name -> value -> true
// as clients sent it before 1.22 (moby daemon/internal/filters).
func (r *request) filters(known ...string) (map[string][]string, error) {
	text := r.param("filters")
	if text == "" {
		return map[string][]string{}, nil
	}
	all := map[string][]string{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &sets); err == nil {
		for name, values := range sets {
			for v, on := range values {
				if on {
					all[name] = append(all[name], v)
				}
			}
			slices.Sort(all[name])
		}
	} else {
		all = nil
		if err := json.Unmarshal([]byte(text), &all); err != nil {
			return nil, invalid("invalid filter: %s", err)
		}
	}
	if all == nil {
		all = map[string][]string{}
	}
	if len(known) > 0 {
		for name := range all {
			if !slices.Contains(known, name) {
				return nil, worded(errdefs.ErrInvalidArgument, "invalid filter '%s'", name)
			}
		}
	}
	return all, nil
}

// anyOf says whether one of a filter's values fits; a filter that is not given fits all.
func anyOf(filters map[string][]string, name string, fits func(string) bool) bool {
	return len(filters[name]) == 0 || slices.ContainsFunc(filters[name], fits)
}

// boolFilter is a filter that is true or false, not both; given says whether there is one.
func boolFilter(filters map[string][]string, name string) (value, given bool, err error) {
	for _, v := range filters[name] {
		yes := v == "1" || v == "true"
		if !yes && v != "0" && v != "false" || given && yes != value {
			return false, false, invalid("invalid filter '%s=%s'", name, filters[name])
		}
		value, given = yes, true
	}
	return value, given, nil
}
