package export

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func at(sec int64) *time.Time {
	t := time.Unix(sec, 0).UTC()
	return &t
}

// TestFinishConfig compares whole configs with what BuildKit v0.33 writes for the same input.
func TestFinishConfig(t *testing.T) {
	base := `{"architecture":"amd64","os":"linux","history":[{"created":"2001-01-01T00:00:00Z","created_by":"base"}],"docker_version":"1"}`
	cases := map[string]struct {
		config, base string
		layers       []layerInfo
		epoch        *time.Time
		want         string
	}{
		"times come from layers, forward; unknown fields stay": {
			config: `{"architecture":"amd64","os":"linux","variant.unknown":{"x":1},"history":[{"created":"2001-01-01T00:00:00Z","created_by":"base"},{"created_by":"ENV","empty_layer":true},{"created_by":"RUN"},{"created_by":"CMD","empty_layer":true}]}`,
			layers: []layerInfo{{diffID: "sha256:a"}, {diffID: "sha256:b", created: at(2000000000)}},
			want: `{"architecture":"amd64","os":"linux","variant.unknown":{"x":1},"created":"2033-05-18T03:33:20Z",
				"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]},
				"history":[{"created":"2001-01-01T00:00:00Z","created_by":"base"},{"created":"2033-05-18T03:33:20Z","created_by":"ENV","empty_layer":true},{"created":"2033-05-18T03:33:20Z","created_by":"RUN"},{"created":"2033-05-18T03:33:20Z","created_by":"CMD","empty_layer":true}]}`,
		},
		"scratch": {
			config: `{"architecture":"amd64","os":"linux"}`,
			want:   `{"architecture":"amd64","os":"linux","created":null,"history":null,"rootfs":{"type":"layers","diff_ids":[]}}`,
		},
		"the epoch clamps what is new and leaves the base alone": {
			config: `{"architecture":"amd64","os":"linux","history":[{"created":"2001-01-01T00:00:00Z","created_by":"base"},{"created_by":"RUN"}]}`,
			base:   base,
			layers: []layerInfo{{diffID: "sha256:a"}, {diffID: "sha256:b", created: at(2000000000)}},
			epoch:  at(1),
			want: `{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:01Z",
				"rootfs":{"type":"layers","diff_ids":["sha256:a","sha256:b"]},
				"history":[{"created":"2001-01-01T00:00:00Z","created_by":"base"},{"created":"1970-01-01T00:00:01Z","created_by":"RUN"}]}`,
		},
		"layers without history get entries, history without layers becomes empty": {
			config: `{"architecture":"amd64","os":"linux","history":[{"created_by":"x"},{"created_by":"y"}]}`,
			layers: []layerInfo{{diffID: "sha256:a", created: at(1)}},
			want: `{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:01Z","rootfs":{"type":"layers","diff_ids":["sha256:a"]},
				"history":[{"created":"1970-01-01T00:00:01Z","created_by":"x"},{"created":"1970-01-01T00:00:01Z","created_by":"y","empty_layer":true}]}`,
		},
		"a layer nobody spoke of": {
			config: `{"architecture":"amd64","os":"linux"}`,
			layers: []layerInfo{{diffID: "sha256:a", created: at(1), description: "COPY"}},
			want: `{"architecture":"amd64","os":"linux","created":"1970-01-01T00:00:01Z","rootfs":{"type":"layers","diff_ids":["sha256:a"]},
				"history":[{"created":"1970-01-01T00:00:01Z","created_by":"COPY","comment":"buildkit.exporter.image.v0"}]}`,
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := finishConfig([]byte(c.config), []byte(c.base), c.layers, c.epoch)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(decode(t, []byte(c.want)), decode(t, got)); diff != "" {
				t.Errorf("config (-want +got):\n%s", diff)
			}
		})
	}
}

func TestFinishConfigRefusesNonsense(t *testing.T) {
	for _, config := range []string{"", "null", "[]", `{"os":"linux"}`, `{"architecture":"amd64"}`, `{"os":1}`} {
		if _, err := finishConfig([]byte(config), nil, nil, nil); err == nil {
			t.Errorf("%q: no error", config)
		}
	}
}

func decode(t *testing.T, b []byte) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}
