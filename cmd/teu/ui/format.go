package ui

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"reflect"
	"slices"
	"strings"
	"text/tabwriter"
	"text/template"
)

// Field is one value of a listing. Name is docker's template name (".ID"), Header
// its table heading ("CONTAINER ID").
type Field struct{ Name, Header string }

// Table describes a listing: every field a template may name, those that the default
// table shows, and those of the format "raw", by docker's names there.
type Table struct {
	Fields  []Field
	Default []string
	Raw     []Field
}

// Row maps field names to values. Values are strings, as docker's are, so that
// `--format json` prints the same types.
type Row map[string]string

// Label is what a template calls as {{.Label "name"}}: the value of one of the labels that
// .Labels shows, where they are NAME=VALUE joined by commas. A part without "=" belongs to
// the value before it.
func (r Row) Label(name string) string {
	value, found := "", false
	for part := range strings.SplitSeq(r["Labels"], ",") {
		k, v, named := strings.Cut(part, "=")
		switch {
		case !named && found:
			value += "," + part
		case named && found:
			return value
		case named && k == name:
			value, found = v, true
		}
	}
	return value
}

// MarshalJSON is the form that docker gives rows: all are strings but a platform, which is an object, or null.
func (r Row) MarshalJSON() ([]byte, error) {
	platform, ok := r["Platform"]
	if !ok {
		return marshal(map[string]string(r), "")
	}
	m := map[string]any{}
	for name, value := range r {
		m[name] = value
	}
	m["Platform"] = nil
	if parts := strings.Split(platform, "/"); len(parts) > 1 {
		o := map[string]string{"os": parts[0], "architecture": parts[1]}
		if len(parts) > 2 {
			o["variant"] = parts[2]
		}
		m["Platform"] = o
	}
	return marshal(m, "")
}

// headings are the row above the others.
type headings map[string]string

// Label is the heading of {{.Label "name"}}: the last part of a name with dots (docker/cli
// cli/command/formatter, HeaderContext).
func (headings) Label(name string) string {
	return strings.NewReplacer("-", " ", "_", " ").Replace(name[strings.LastIndexByte(name, '.')+1:])
}

// List prints rows by format: "" and "table" give the default table, "table
// TEMPLATE" a table of one's own, "json" one JSON object per line, "raw" a line
// per field if t has such, and anything else is a Go template executed per row.
func (u *UI) List(t Table, format string, rows []Row) error {
	return u.ListEach(t, format, slices.Values(rows))
}

// ListEach is List of very many rows. None is used any more when the next is asked for.
func (u *UI) ListEach(t Table, format string, rows iter.Seq[Row]) error {
	out := bufio.NewWriterSize(u.Out, 32<<10) // thousands of images are not as many calls of write(2)
	var w io.Writer = out
	switch {
	case !u.OutTerminal():
	case format == "json":
		w = jsonWriter{out}
	default:
		rows = visibleRows(rows) // and not the template's own text, in which people have colours
	}
	err := writeList(w, t, format, rows)
	if flushErr := out.Flush(); err == nil { // the rows before a bad one are shown
		err = flushErr
	}
	return err
}

func writeList(w io.Writer, t Table, format string, rows iter.Seq[Row]) error {
	switch {
	case format == "" || format == "table":
		return writeDefault(w, t, rows)
	case format == "json":
		return writeRows(w, "{{json .}}", t, rows)
	case format == "raw" && t.Raw != nil:
		return writeRows(w, t.rawTemplate(), t, rows)
	case strings.HasPrefix(format, "table "):
		return writeTable(w, unescape(strings.TrimPrefix(format, "table ")), t, rows)
	}
	return writeRows(w, unescape(format), t, rows)
}

// Check says what is wrong with a template, also when there are no rows to execute it for.
func (t Table) Check(format string) error {
	if format == "" || format == "json" {
		return nil
	}
	return writeRows(io.Discard, unescape(strings.TrimPrefix(format, "table")), t, slices.Values([]headings{headings(t.headers())}))
}

// rawTemplate writes a line for each field of "raw", and an empty one behind each row.
func (t Table) rawTemplate() string {
	var b strings.Builder
	for _, f := range t.Raw {
		fmt.Fprintf(&b, "%s:{{pad .%s 1 0}}\n", f.Header, f.Name)
	}
	return b.String()
}

// headers returns the row above the others.
func (t Table) headers() Row {
	headers := Row{}
	for _, f := range t.Fields {
		headers[f.Name] = f.Header
	}
	return headers
}

// writeDefault writes the default columns, without a template, which takes most of the time of a long list.
func writeDefault(w io.Writer, t Table, rows iter.Seq[Row]) error {
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	var line []byte
	write := func(row Row) error {
		line = line[:0]
		for i, name := range t.Default {
			if i > 0 {
				line = append(line, '\t')
			}
			line = append(line, Visible(row[name])...)
		}
		_, err := tw.Write(append(line, '\n'))
		return err
	}
	if err := write(t.headers()); err != nil {
		return err
	}
	for row := range rows {
		if err := write(row); err != nil {
			return err
		}
	}
	return tw.Flush()
}

func writeTable(w io.Writer, format string, t Table, rows iter.Seq[Row]) error {
	tw := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	if err := writeRows(tw, format, t, slices.Values([]headings{headings(t.headers())})); err != nil {
		return err
	}
	if err := writeRows(tw, format, t, visibleRows(rows)); err != nil {
		return err
	}
	return tw.Flush()
}

func visibleRows(rows iter.Seq[Row]) iter.Seq[Row] {
	return func(yield func(Row) bool) {
		for row := range rows {
			for name, cell := range row {
				row[name] = Visible(cell)
			}
			if !yield(row) {
				return
			}
		}
	}
}

// writeRows executes a template per row. A field that the table has not is an error.
func writeRows[R ~map[string]string](w io.Writer, format string, t Table, rows iter.Seq[R]) error {
	tmpl, err := parseTemplate(format)
	if err != nil {
		return err
	}
	tmpl.Option("missingkey=error")
	var b bytes.Buffer
	for row := range rows {
		for _, f := range t.Fields {
			if _, ok := row[f.Name]; !ok {
				row[f.Name] = ""
			}
		}
		b.Reset()
		if err := tmpl.Execute(&b, row); err != nil {
			return fmt.Errorf("template parsing error: %w", err)
		}
		b.WriteByte('\n')
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// Templated is an object that templates see in another form than its JSON has.
type Templated interface{ ForTemplates() any }

// TemplateError is a template that cannot be read.
type TemplateError struct{ error }

// Inspect prints objects as docker inspect does: format "" gives an indented JSON
// array, "json" a compact one, anything else is a template per object. One that cannot be read is a *TemplateError.
func (u *UI) Inspect(format string, objects []any) error {
	switch format {
	case "":
		return u.writeJSON(objects, "    ")
	case "json":
		return u.writeJSON(objects, "")
	}
	tmpl, err := parseTemplate(unescape(format))
	if err != nil {
		return &TemplateError{err}
	}
	var failures []error
	for _, o := range objects {
		text, err := execute(tmpl, o, u.OutTerminal())
		if err != nil {
			failures = append(failures, fmt.Errorf("template parsing error: %w", err))
			continue
		}
		fmt.Fprintln(u.Out, text)
	}
	return errors.Join(failures...)
}

// Describe prints what there is one of, such as a version: "json" gives the object itself.
func (u *UI) Describe(format string, object any) error {
	if format == "json" {
		return u.writeJSON(object, "")
	}
	return u.Inspect(format, []any{object})
}

func (u *UI) writeJSON(v any, indent string) error {
	b, err := marshal(v, indent)
	if err == nil {
		_, err = jsonFor(u.Out, u.OutTerminal()).Write(b)
	}
	return err
}

// JSONLine prints an object on one line, as encoding/json does.
func (u *UI) JSONLine(v any) error { return json.NewEncoder(jsonFor(u.Out, u.OutTerminal())).Encode(v) }

// Line prints what a template makes of an object. For a terminal its values are made visible, as in Inspect.
func (u *UI) Line(t *template.Template, object any) error {
	if u.OutTerminal() {
		object = visibleValue(reflect.ValueOf(object)).Interface()
	}
	if err := t.Execute(u.Out, object); err != nil {
		return err
	}
	_, err := fmt.Fprintln(u.Out)
	return err
}

// execute executes a template on an object and, if that does not know a name, on its JSON, where what is not there is
// an error (docker/cli cli/command/inspect, TemplateInspector). For a terminal the values are made visible, not the template's
// own text, in which people have colours.
func execute(tmpl *template.Template, object any, terminal bool) (string, error) {
	typed := object
	if t, ok := object.(Templated); ok {
		typed = t.ForTemplates()
	}
	show := func(v any) any {
		if !terminal || v == nil {
			return v
		}
		return visibleValue(reflect.ValueOf(v)).Interface()
	}
	var b bytes.Buffer
	if reflect.Indirect(reflect.ValueOf(typed)).Kind() == reflect.Struct && tmpl.Execute(&b, show(typed)) == nil {
		return b.String(), nil
	}
	raw, err := json.Marshal(object)
	if err != nil {
		return "", err
	}
	var value any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&value); err != nil {
		return "", err
	}
	strict, err := tmpl.Clone()
	if err != nil {
		return "", err
	}
	b.Reset()
	err = strict.Option("missingkey=error").Execute(&b, show(value))
	return b.String(), err
}

func marshal(v any, indent string) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	err := e.Encode(v)
	return b.Bytes(), err
}

// ParseTemplate parses a template of the command line.
func ParseTemplate(format string) (*template.Template, error) { return parseTemplate(unescape(format)) }

func parseTemplate(format string) (*template.Template, error) {
	// docker's template functions (docker/cli docs, "Format command and log output").
	t, err := template.New("").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			b, err := marshal(v, "")
			return strings.TrimSuffix(string(b), "\n"), err
		},
		"split":   strings.Split,
		"join":    join,
		"title":   title,
		"lower":   strings.ToLower,
		"upper":   strings.ToUpper,
		"println": fmt.Sprintln,
		"pad": func(s string, before, after int) string {
			if s == "" {
				return ""
			}
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return s[:min(n, len(s))] },
	}).Parse(format)
	if err != nil {
		return nil, fmt.Errorf("template parsing error: %w", err)
	}
	return t, nil
}

// join accepts what templates hand it: []string, or []any out of JSON.
func join(v any, sep string) string {
	switch list := v.(type) {
	case []string:
		return strings.Join(list, sep)
	case []any:
		parts := make([]string, len(list))
		for i, p := range list {
			parts[i] = fmt.Sprint(p)
		}
		return strings.Join(parts, sep)
	}
	return fmt.Sprint(v)
}

func title(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// unescape lets a shell user write \t and \n in a format, as docker does.
func unescape(format string) string {
	return strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(format)
}
