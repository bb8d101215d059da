package provenance

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for name, c := range map[string]struct {
		settings string
		want     *Options
		fails    bool
	}{
		"nothing":           {"", &Options{Version: "v1"}, false},
		"what CI asks for":  {"type=provenance,mode=max,builder-id=https://github.com/o/r/actions/runs/1", &Options{Version: "v1", BuilderID: "https://github.com/o/r/actions/runs/1"}, false},
		"for private ones":  {"mode=min,inline-only=true", &Options{Version: "v1", Min: true, InlineOnly: true}, false},
		"the older version": {"version=v0.2,reproducible=true,filename=p.json", &Options{Version: "v0.2", Reproducible: true, Filename: "p.json"}, false},
		"a word alone":      {"complete-materials", &Options{Version: "v1", Complete: true}, false},
		"the older word":    {"mode=full", &Options{Version: "v1"}, false},
		"not wanted":        {"disabled=true,mode=max", nil, false},
		"wanted after all":  {"disabled=false", &Options{Version: "v1"}, false},
		"no mode":           {"mode=most", nil, true},
		"no version":        {"version=v2", nil, true},
		"no bool":           {"reproducible=perhaps", nil, true},
		"another directory": {"filename=../p.json", nil, true},
		"unknown":           {"color=red", nil, true},
		"no CSV":            {"mode=\"max", nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(c.settings)
			if diff := cmp.Diff(c.want, got); diff != "" && !c.fails {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if c.fails != errdefs.IsInvalidArgument(err) || !c.fails && err != nil {
				t.Errorf("error: %v", err)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add("type=provenance,mode=min,\"builder-id=a,b\"")
	f.Fuzz(func(t *testing.T, settings string) {
		if o, err := Parse(settings); err == nil && o != nil && o.Version == "" {
			t.Error("no version")
		}
	})
}
