package ui

import (
	"bytes"
	"testing"
)

// TestNulls: what is not set is for templates what it is in docker.
func TestNulls(t *testing.T) {
	object := map[string]any{"Config": map[string]any{"Cmd": nil, "Volumes": nil, "Healthcheck": nil, "User": "", "Env": []string{"A=b"}},
		"Set": map[string]any{"ExposedPorts": map[string]any{"80/tcp": struct{}{}}}}
	for format, want := range map[string]string{
		"{{.Config.Cmd}}":                                "[]\n",
		"{{json .Config.Cmd}}":                           "null\n",
		"{{.Config.Volumes}}":                            "map[]\n",
		"{{json .Config.Volumes}}":                       "null\n",
		"{{.Set.ExposedPorts}}":                          "map[80/tcp:{}]\n",
		"{{json .Set}}":                                  `{"ExposedPorts":{"80/tcp":{}}}` + "\n",
		"{{.Config.Env}}":                                "[A=b]\n",
		"{{if .Config.Healthcheck}}yes{{else}}no{{end}}": "no\n",
		"{{range .Config.Cmd}}x{{end}}.":                 ".\n",
		"{{len .Config.Volumes}}":                        "0\n",
		"{{json .}}":                                     `{"Config":{"Cmd":null,"Env":["A=b"],"Healthcheck":null,"User":"","Volumes":null},"Set":{"ExposedPorts":{"80/tcp":{}}}}` + "\n",
	} {
		var out bytes.Buffer
		if err := (&UI{Out: &out}).Inspect(format, []any{object}); err != nil || out.String() != want {
			t.Errorf("%s: %q, %v, want %q", format, out.String(), err, want)
		}
	}
}
