package ui

import (
	"bytes"
	"strings"
	"testing"
)

// box is an object as docker has them.
type box struct {
	ID      string `json:"Id"`
	Config  boxConfig
	Health  *boxHealth `json:",omitempty"`
	Mounts  []boxMount
	Address map[string]string `json:",omitempty"`
}

type boxConfig struct {
	Cmd, Env []string
	Volumes  map[string]struct{}
	Labels   map[string]string
}

type boxHealth struct{ Status string }

type boxMount struct {
	Type string
	Name string `json:",omitempty"`
}

// reshaped is an object whose templates see more than its JSON has.
type reshaped map[string]string

func (reshaped) ForTemplates() any { return struct{ Shape string }{"other"} }

func TestRawList(t *testing.T) {
	table := Table{
		Fields: []Field{{Name: "ID"}, {Name: "Image"}, {Name: "Labels"}},
		Raw:    []Field{{Name: "ID", Header: "container_id"}, {Name: "Labels", Header: "labels"}},
	}
	var out bytes.Buffer
	if err := (&UI{Out: &out}).List(table, "raw", []Row{{"ID": "c0ffee", "Image": "x", "Labels": "a=b"}, {"ID": "decaf"}}); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "container_id: c0ffee\nlabels: a=b\n\ncontainer_id: decaf\nlabels:\n\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTemplates: names are docker's Go names or those of the JSON; what is not set is what it is in docker; what is not
// there at all is docker's error.
func TestTemplates(t *testing.T) {
	object := &box{ID: "c0ffee", Config: boxConfig{Env: []string{"A=b"}, Labels: map[string]string{"a": "b"}}, Mounts: []boxMount{{Type: "bind"}}}
	for format, want := range map[string]string{
		"{{.ID}} {{.Config.Cmd}}":                     "c0ffee []",
		"{{.Id}}":                                     "c0ffee",
		`{{pad .Id 1 2}}.{{pad "" 1 2}}.`:             " c0ffee  ..",
		"{{json .Config.Cmd}}":                        "null",
		"{{.Config.Volumes}} {{len .Config.Volumes}}": "map[] 0",
		"{{json .Config.Volumes}}":                    "null",
		"{{.Config.Env}}":                             "[A=b]",
		"{{if .Health}}yes{{else}}no{{end}}":          "no",
		"{{.Health}}":                                 "<nil>",
		"{{range .Config.Cmd}}x{{end}}.":              ".",
		"{{range .Mounts}}{{.Type}},{{.Name}}{{end}}": "bind,",
		"{{.Config.Labels.a}}{{.Config.Labels.nope}}": "b<no value>",
		`{{index .Config.Labels "nope"}}`:             "",
		"{{json .}}":                                  `{"Id":"c0ffee","Config":{"Cmd":null,"Env":["A=b"],"Volumes":null,"Labels":{"a":"b"}},"Mounts":[{"Type":"bind"}]}`,
		"json":                                        `[{"Id":"c0ffee","Config":{"Cmd":null,"Env":["A=b"],"Volumes":null,"Labels":{"a":"b"}},"Mounts":[{"Type":"bind"}]}]`,
	} {
		var out bytes.Buffer
		if err := (&UI{Out: &out}).Inspect(format, []any{object}); err != nil || out.String() != want+"\n" {
			t.Errorf("%s: %q, %v, want %q", format, out.String(), err, want)
		}
	}
	for format, want := range map[string]string{
		"{{.Nope}}":          `template parsing error: template: :1:2: executing "" at <.Nope>: map has no entry for key "Nope"`,
		"{{.Health.Status}}": `template parsing error: template: :1:9: executing "" at <.Health.Status>: map has no entry for key "Health"`,
		"{{.ID.x}}":          `template parsing error: template: :1:5: executing "" at <.ID.x>: map has no entry for key "ID"`,
		"{{.Config":          `template parsing error: template: :1: unclosed action`,
	} {
		var out bytes.Buffer
		if err := (&UI{Out: &out}).Inspect(format, []any{object}); err == nil || err.Error() != want || out.Len() > 0 {
			t.Errorf("%s: %q, %v, want %q", format, out.String(), err, want)
		}
	}
	var one bytes.Buffer
	if err := (&UI{Out: &one}).Describe("json", boxMount{Type: "bind"}); err != nil || one.String() != `{"Type":"bind"}`+"\n" {
		t.Errorf("one object: %q, %v", one.String(), err)
	}
	// One object that has not the name leaves the others, as docker does.
	var out bytes.Buffer
	err := (&UI{Out: &out}).Inspect("{{.Shape}}", []any{map[string]string{"Shape": "one"}, object, reshaped{"Name": "x"}})
	if err == nil || !strings.Contains(err.Error(), `no entry for key "Shape"`) || out.String() != "one\nother\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
}
