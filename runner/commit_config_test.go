package runner

import (
	"encoding/json"
	"testing"
)

func TestFillConfig(t *testing.T) {
	const base = `{"Cmd":["sh"],"Entrypoint":["/e"],"Env":["A=1","B=2"],"Labels":{"a":"1","b":"2"},"ExposedPorts":{"80/tcp":{}},` +
		`"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"],"User":"u","Healthcheck":{"Test":["CMD","t"],"Interval":5}}`
	for _, tt := range []struct{ sent, want string }{
		{`{}`, base},
		{`{"User":"","Labels":null,"Env":[]}`, base},
		{`{"Labels":{"b":"3","c":"4"},"Env":["B=x"],"ExposedPorts":{"81/tcp":{}},"Healthcheck":{"Interval":7}}`,
			`{"Cmd":["sh"],"Entrypoint":["/e"],"Env":["B=x","A=1"],"Labels":{"a":"1","b":"3","c":"4"},"ExposedPorts":{"80/tcp":{},"81/tcp":{}},` +
				`"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"],"User":"u","Healthcheck":{"Test":["CMD","t"],"Interval":7}}`},
		{`{"Entrypoint":["/f"],"User":"v"}`,
			`{"Entrypoint":["/f"],"Env":["A=1","B=2"],"Labels":{"a":"1","b":"2"},"ExposedPorts":{"80/tcp":{}},` +
				`"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"],"User":"v","Healthcheck":{"Test":["CMD","t"],"Interval":5}}`},
		{`{"Entrypoint":[ ]}`,
			`{"Cmd":["sh"],"Env":["A=1","B=2"],"Labels":{"a":"1","b":"2"},"ExposedPorts":{"80/tcp":{}},` +
				`"OnBuild":["RUN x"],"Shell":["/bin/ash","-c"],"User":"u","Healthcheck":{"Test":["CMD","t"],"Interval":5}}`},
		{`{"Entrypoint":null}`, base},
	} {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal([]byte(base), &fields); err != nil {
			t.Fatal(err)
		}
		got, err := fillConfig([]byte(tt.sent), fields)
		if err != nil {
			t.Errorf("%s: %v", tt.sent, err)
			continue
		}
		if a, b := canonical(t, got), canonical(t, json.RawMessage(tt.want)); a != b {
			t.Errorf("%s gives\n%s, want\n%s", tt.sent, a, b)
		}
	}
}

// canonical writes JSON with sorted keys.
func canonical(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var any any
	if err := json.Unmarshal(b, &any); err != nil {
		t.Fatal(err)
	}
	b, _ = json.Marshal(any)
	return string(b)
}
