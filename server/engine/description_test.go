package engine_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// object is a part of the description, or of an answer.
type object = map[string]any

// description is moby's swagger.yaml of the version of the API that teu serves.
type description struct{ root object }

// readDescription finds it in the module that has docker's types too.
func readDescription(t *testing.T) description {
	t.Helper()
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/moby/moby/api").Output()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "swagger.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var d description
	if err := yaml.Unmarshal(b, &d.root); err != nil {
		t.Fatal(err)
	}
	return d
}

// check says what is wrong with the answer to a request such as "GET /v1.56/info". What is described as a list, a map or
// a number may be null: so it is in dockerd's answers, where Go has none.
func (d description) check(request string, status int, answer any) (wrong []string) {
	method, path, _ := strings.Cut(request, " ")
	path, _, _ = strings.Cut(path, "?")
	path = regexp.MustCompile(`^/v1\.[0-9]+`).ReplaceAllString(path, "")
	if status >= 400 {
		if told, ok := answer.(object); method != "HEAD" && (!ok || told["message"] == nil || told["message"] == "") {
			return []string{"an error without a message"}
		}
		return nil // which of them is dockerd's business: it has many that are not described
	}
	operation := d.operation(strings.ToLower(method), path)
	if operation == nil {
		return []string{"no such operation"}
	}
	for name, response := range operation["responses"].(object) {
		if name != fmt.Sprint(status) {
			continue
		}
		if schema, ok := d.whole(response)["schema"]; ok && answer != nil {
			d.compare(d.whole(schema), answer, "", &wrong)
		}
		return wrong
	}
	return []string{fmt.Sprintf("status %d is not described", status)}
}

// operation is that of the longest path that fits.
func (d description) operation(method, path string) object {
	paths := d.root["paths"].(object)
	for _, pattern := range slices.SortedFunc(maps.Keys(paths), func(a, b string) int {
		return cmp.Or(strings.Count(a, "{")-strings.Count(b, "{"), len(b)-len(a))
	}) {
		like := regexp.MustCompile(`\{[^}]*\}`).ReplaceAllString(pattern, `[^/]+`)
		if operation, ok := paths[pattern].(object)[method].(object); ok && regexp.MustCompile("^"+like+"$").MatchString(path) {
			return operation
		}
	}
	return nil
}

// whole is a schema with what it refers to and what it is put together from.
func (d description) whole(schema any) object {
	all := object{}
	s := schema.(object)
	if ref, ok := s["$ref"].(string); ok {
		target := any(d.root)
		for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
			target = target.(object)[part]
		}
		maps.Copy(all, d.whole(target))
	}
	properties := object{}
	parts, _ := s["allOf"].([]any)
	for _, part := range parts {
		one := d.whole(part)
		inner, _ := one["properties"].(object)
		maps.Copy(properties, inner)
		one["required"] = slices.Concat(list(all["required"]), list(one["required"]))
		maps.Copy(all, one)
	}
	own, _ := s["properties"].(object)
	maps.Copy(properties, own)
	maps.Copy(all, s)
	if len(properties) > 0 {
		all["properties"] = properties
	}
	return all
}

func list(v any) []any {
	l, _ := v.([]any)
	return l
}

// compare notes where v is not what its schema says.
func (d description) compare(schema object, v any, at string, wrong *[]string) {
	note := func(format string, args ...any) { *wrong = append(*wrong, at+": "+fmt.Sprintf(format, args...)) }
	kind, _ := schema["type"].(string)
	if v == nil {
		if (kind == "string" || kind == "boolean") && schema["x-nullable"] != true {
			note("null, not a %s", kind)
		}
		return
	}
	is := ""
	switch v := v.(type) {
	case string:
		is = "string"
		if enum := list(schema["enum"]); enum != nil && !slices.Contains(enum, any(v)) {
			note("%s is none of %v", v, enum)
		}
		if strings.EqualFold(fmt.Sprint(schema["format"]), "date-time") || schema["format"] == "dateTime" {
			if _, err := time.Parse(time.RFC3339Nano, v); err != nil {
				note("%v", err)
			}
		}
	case bool:
		is = "boolean"
	case float64:
		if is = "number"; kind == "integer" && v == float64(int64(v)) {
			is = kind
		}
	case []any:
		is = "array"
		if items, ok := schema["items"]; ok {
			for _, e := range v {
				d.compare(d.whole(items), e, at+"[]", wrong)
			}
		}
	case object:
		is = "object"
		for _, name := range list(schema["required"]) {
			if _, ok := v[name.(string)]; !ok {
				note("%s is missing", name)
			}
		}
		properties, _ := schema["properties"].(object)
		other, _ := schema["additionalProperties"].(object)
		for name, e := range v {
			if s, ok := properties[name]; ok {
				d.compare(d.whole(s), e, at+"."+name, wrong)
			} else if other != nil {
				d.compare(d.whole(other), e, at+"{}", wrong)
			}
		}
	}
	if kind != "" && is != kind {
		note("%s, not a %s", is, kind)
	}
}

// TestDescription: what is wrong with an answer is found.
func TestDescription(t *testing.T) {
	d := readDescription(t)
	for _, c := range []struct {
		request string
		status  int
		answer  string
		want    string
	}{
		{"GET /v1.56/volumes/x", 200, `{"Name":"x","Driver":"local","Mountpoint":"/x","Labels":null,"Scope":"local","Options":{"a":"b"},"CreatedAt":"2026-01-02T03:04:05Z"}`, ""},
		{"GET /v1.56/volumes/x", 200, `{"Name":"x","Driver":"local","Labels":{},"Scope":"here","Options":{"a":1},"CreatedAt":"yesterday"}`,
			`.CreatedAt: parsing time "yesterday".*; .Options{}: number, not a string; .Scope: here is none of \[local global\]; : Mountpoint is missing`},
		{"GET /v1.56/images/a/json", 404, `{"message":"no"}`, ""},
		{"GET /v1.56/images/a/json", 404, `{}`, "an error without a message"},
		{"GET /v1.56/containers/json", 200, `[{"Id":true,"State":"asleep"}]`, `\[\].Id: boolean, not a string; \[\].State: asleep is none of .*`},
		{"GET /v1.56/containers/json", 201, `[]`, "status 201 is not described"},
		{"GET /v1.56/containers", 200, `[]`, "no such operation"},
	} {
		var answer any
		if err := json.Unmarshal([]byte(c.answer), &answer); err != nil {
			t.Fatal(err)
		}
		wrong := d.check(c.request, c.status, answer)
		slices.Sort(wrong)
		got := strings.Join(wrong, "; ")
		if want := regexp.MustCompile("^" + c.want + "$"); !want.MatchString(got) {
			t.Errorf("%s %d %s: %q, want %q", c.request, c.status, c.answer, got, c.want)
		}
	}
}
