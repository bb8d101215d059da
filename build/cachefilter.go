package build

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// ParseCacheFilters parses the filters of BuildKit's cache: NAME=VALUE, NAME!=VALUE, NAME~=REGEXP, and
// until (or unused-for), the time since the last use.
func ParseCacheFilters(list []string, now time.Time) (func(CacheEntry) bool, error) {
	var all []func(CacheEntry) bool
	for _, text := range list {
		name, value, ok := strings.Cut(text, "=")
		name, not := strings.CutSuffix(name, "!")
		name, like := strings.CutSuffix(name, "~")
		if !ok {
			value = "true" // shared, inuse
		}
		one, err := cachePredicate(name, value, like, now)
		if err != nil {
			return nil, fmt.Errorf("filter %s: %w: %w", text, err, errdefs.ErrInvalidArgument)
		}
		all = append(all, func(e CacheEntry) bool { return one(e) != not })
	}
	return func(e CacheEntry) bool {
		return !slices.ContainsFunc(all, func(one func(CacheEntry) bool) bool { return !one(e) })
	}, nil
}

func cachePredicate(name, value string, like bool, now time.Time) (func(CacheEntry) bool, error) {
	text := map[string]func(CacheEntry) string{
		"id":          func(e CacheEntry) string { return e.ID },
		"type":        func(e CacheEntry) string { return e.Type },
		"description": func(e CacheEntry) string { return e.Description },
		"shared":      func(e CacheEntry) string { return strconv.FormatBool(e.Shared) },
		"inuse":       func(e CacheEntry) string { return strconv.FormatBool(e.InUse) },
		"private":     func(e CacheEntry) string { return strconv.FormatBool(!e.Shared) },
		"mutable":     func(e CacheEntry) string { return strconv.FormatBool(e.Type == CacheMount) },
		"immutable":   func(e CacheEntry) string { return strconv.FormatBool(e.Type != CacheMount) },
	}
	get := text[name]
	switch {
	case name == "until" || name == "unused-for":
		d, err := time.ParseDuration(value)
		return func(e CacheEntry) bool { return now.Sub(e.LastUsed) >= d }, err
	case get == nil:
		return nil, fmt.Errorf("%q is none of id, type, description, shared, private, inuse, mutable, immutable, until", name)
	case like:
		re, err := regexp.Compile(value)
		return func(e CacheEntry) bool { return re.MatchString(get(e)) }, err
	case name == "id":
		return func(e CacheEntry) bool { return value != "" && strings.HasPrefix(e.ID, value) }, nil
	}
	return func(e CacheEntry) bool { return get(e) == value }, nil
}
