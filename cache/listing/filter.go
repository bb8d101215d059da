package listing

import (
	"context"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache"
)

// Filters choose among images, by key as in `docker images --filter`.
type Filters map[string][]string

// ParseFilters reads KEY=VALUE.
func ParseFilters(list []string) (Filters, error) {
	f := Filters{}
	for _, s := range list {
		key, value, ok := strings.Cut(s, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !ok {
			return nil, Worded(errdefs.ErrInvalidArgument, "invalid filter %q, want NAME=VALUE", s)
		}
		if !slices.Contains([]string{"dangling", "reference", "label", "label!", "before", "since", "until"}, key) {
			return nil, Worded(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
		f[key] = append(f[key], strings.TrimSpace(value))
	}
	return f, nil
}

// Select returns those of images that all filters let through. Several values of label
// must all match, several of reference need not. Of an image that is found by reference
// only the names that match remain.
func Select(ctx context.Context, store *cache.Store, images []Image, f Filters) ([]Image, error) {
	var tests []func(*Image) bool
	for key, values := range f {
		test, err := newFilter(ctx, store, key, values)
		if err != nil {
			return nil, err
		}
		tests = append(tests, test)
	}
	if len(tests) == 0 {
		return images, nil
	}
	var out []Image
	for _, img := range images {
		if !slices.ContainsFunc(tests, func(test func(*Image) bool) bool { return !test(&img) }) {
			out = append(out, img)
		}
	}
	return out, nil
}

func newFilter(ctx context.Context, store *cache.Store, key string, values []string) (func(*Image) bool, error) {
	switch key {
	case "dangling":
		want, err := strconv.ParseBool(values[len(values)-1])
		if err != nil {
			return nil, Worded(errdefs.ErrInvalidArgument, "invalid filter 'dangling=%s'", values[len(values)-1])
		}
		return func(i *Image) bool { return i.Dangling() == want }, nil
	case "label", "label!":
		return func(i *Image) bool { return hasLabels(i, values) == (key == "label") }, nil
	case "reference":
		for _, pattern := range values {
			if _, err := path.Match(pattern, ""); err != nil {
				return nil, Worded(errdefs.ErrInvalidArgument, "invalid reference pattern %q", pattern)
			}
		}
		return func(i *Image) bool { return i.keep(values) }, nil
	}
	limit, err := moment(ctx, store, key, values)
	if err != nil {
		return nil, err
	}
	if key == "since" {
		return func(i *Image) bool { return i.Created.After(limit) }, nil
	}
	return func(i *Image) bool { return i.Created.Before(limit) }, nil
}

// moment is the time that before, since (images) and until (times, all of which hold) mean.
func moment(ctx context.Context, store *cache.Store, key string, values []string) (first time.Time, err error) {
	if key == "until" {
		for _, v := range values {
			t, err := parseUntil(v, time.Now())
			if err != nil {
				return t, err
			}
			if first.IsZero() || t.Before(first) {
				first = t
			}
		}
		return first, nil
	}
	if len(values) != 1 {
		return time.Time{}, Worded(errdefs.ErrInvalidArgument, "filter %s can be given once", key)
	}
	_, img, err := Find(ctx, store, values[0])
	if err != nil {
		return time.Time{}, err
	}
	if img.Config.Created == nil {
		return time.Time{}, nil
	}
	return *img.Config.Created, nil
}

// parseUntil understands docker's timestamps: a duration before now, seconds since 1970
// and RFC 3339 with or without its end.
func parseUntil(s string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	if sec, err := strconv.ParseFloat(s, 64); err == nil && sec >= 0 && sec < 1<<40 {
		return time.Unix(0, int64(sec*1e9)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, Worded(errdefs.ErrInvalidArgument, "invalid filter 'until=%s'", s)
}

func hasLabels(i *Image, want []string) bool {
	for _, w := range want {
		key, value, exact := strings.Cut(w, "=")
		got, ok := i.Labels[key]
		if !ok || (exact && got != value) {
			return false
		}
	}
	return true
}

// keep leaves the names that match one of the patterns, and reports whether there are any.
func (i *Image) keep(patterns []string) bool {
	other := func(name string) bool {
		return !slices.ContainsFunc(patterns, func(p string) bool { return matches(p, name) })
	}
	i.Tags = slices.DeleteFunc(slices.Clone(i.Tags), other)
	i.Digests = slices.DeleteFunc(slices.Clone(i.Digests), func(name string) bool {
		return other(name) && !slices.ContainsFunc(i.Tags, func(tag string) bool { return Repository(tag) == Repository(name) })
	})
	return !i.Dangling()
}

// matches is docker's rule: a pattern is about the name with or without tag. Names may
// also be written in full.
func matches(pattern, name string) bool {
	repository := Repository(name)
	for _, s := range []string{Familiar(name), Familiar(repository), name, repository} {
		if ok, _ := path.Match(pattern, s); ok {
			return true
		}
	}
	return false
}

// Repository is a canonical name without tag and digest, "" for what is no name.
func Repository(name string) string {
	repository, _ := splitName(name)
	return repository
}
