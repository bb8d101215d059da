package buildkit

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/filters"
	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/util/gitutil"
)

type recordMatch = func(*controlapi.BuildHistoryRecord) bool

// historyFilter reads filters of builds: one is meant that any of them matches, and each is a list in CSV of
// conditions that all have to hold. Those of times are BuildKit's own, the others are containerd's.
func historyFilter(list []string) (recordMatch, error) {
	var any []recordMatch
	for _, text := range list {
		match, err := conditions(text)
		if err != nil {
			return nil, fmt.Errorf("filter %q: %w: %w", text, errdefs.ErrInvalidArgument, err)
		}
		any = append(any, match)
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, match := range any {
			if match(r) {
				return true
			}
		}
		return len(any) == 0
	}, nil
}

func conditions(text string) (recordMatch, error) {
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return nil, err
	}
	var all []recordMatch
	var others []string
	for _, f := range fields {
		match, err := timeCondition(f)
		if err != nil {
			return nil, err
		}
		if match == nil {
			others = append(others, f)
			continue
		}
		all = append(all, match)
	}
	filter, err := filters.ParseAll(strings.Join(others, ","))
	if err != nil {
		return nil, err
	}
	return func(r *controlapi.BuildHistoryRecord) bool {
		for _, match := range all {
			if !match(r) {
				return false
			}
		}
		return filter.Match(filters.AdapterFunc(func(path []string) (string, bool) { return recordField(r, path) }))
	}, nil
}

// timeCondition reads a condition such as startedAt>=24h, where 24h stands for that long ago; nil: it is another.
func timeCondition(text string) (recordMatch, error) {
	at := strings.IndexAny(text, "<>")
	if at < 0 {
		return nil, nil
	}
	name, value := text[:at], text[at+1:]
	value, equal := strings.CutPrefix(value, "=")
	var of func(*controlapi.BuildHistoryRecord) int64
	switch name {
	case "startedAt":
		of = func(r *controlapi.BuildHistoryRecord) int64 { return r.CreatedAt.AsTime().Unix() }
	case "completedAt":
		of = func(r *controlapi.BuildHistoryRecord) int64 { return r.CompletedAt.AsTime().Unix() }
	case "duration":
		of = func(r *controlapi.BuildHistoryRecord) int64 {
			return int64(r.CompletedAt.AsTime().Sub(r.CreatedAt.AsTime()))
		}
	default:
		return nil, nil
	}
	d, err := time.ParseDuration(value)
	limit := int64(d)
	if name != "duration" {
		limit = time.Now().Add(-d).Unix()
		if err != nil {
			var t time.Time
			t, err = time.Parse(time.RFC3339, value)
			limit = t.Unix()
		}
	}
	if err != nil {
		return nil, err
	}
	wanted := map[byte]int{'<': -1, '>': 1}[text[at]]
	return func(r *controlapi.BuildHistoryRecord) bool {
		c := cmp.Compare(of(r), limit)
		return c == wanted || c == 0 && equal
	}, nil
}

// recordField returns what the other conditions may be about.
func recordField(r *controlapi.BuildHistoryRecord, path []string) (value string, ok bool) {
	if len(path) != 1 {
		return "", false
	}
	switch path[0] {
	case "ref":
		return r.Ref, true
	case "status":
		return recordStatus(r), true
	case "repository":
		if source, ok := r.FrontendAttrs["vcs:source"]; ok {
			return source, true
		}
		if u, err := gitutil.ParseURL(r.FrontendAttrs["context"]); err == nil {
			return u.Remote, true
		}
	}
	return "", false
}

func recordStatus(r *controlapi.BuildHistoryRecord) string {
	switch {
	case r.Error == nil:
		return "completed"
	case strings.Contains(r.Error.Message, "context canceled"): // as clients tell it
		return "canceled"
	}
	return "error"
}
