package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/teu-dev/teu/cmd/teu/ui"
)

// TestDockerTable keeps docs/docker-cli.md true: every command and flag of docker's command
// line (testdata/docker-cli.txt: names only, of docker 28.2 and 29.9) is either here, or
// testdata/docker-differences.txt says what is different or why it is missing. Run it with
// TEU_UPDATE_DOCS=1 to write the table.
func TestDockerTable(t *testing.T) {
	differences := readDifferences(t)
	used := map[string]bool{}
	a := newApp(ui.New(os.Stdin, os.Stdout, os.Stderr))
	root := newRootCommand(a, commands())
	var b strings.Builder
	b.WriteString(tableHead)
	for _, line := range readLinesOf(t, "testdata/docker-cli.txt") {
		path, flags, _ := strings.Cut(line, "\t")
		cmd := findCommand(root, path)
		note, noted := differences[path]
		used[path] = noted
		switch {
		case cmd == nil && !noted:
			t.Errorf("docker %s is not here, and nothing says why", path)
			continue
		case cmd == nil:
			fmt.Fprintf(&b, "| `%s` | | not there | %s |\n", path, note)
			continue
		}
		var same []string
		var rows []string
		for name := range strings.FieldsSeq(flags) {
			key := path + " " + strings.Split(name, ",")[0]
			note, noted := differences[key]
			if !noted { // a reason that holds for the flag of every command
				key = "* " + strings.Split(name, ",")[0]
				note, noted = differences[key]
			}
			there := hasFlag(cmd, name)
			used[key] = used[key] || noted
			show := "`" + strings.ReplaceAll(name, ",", "`, `") + "`"
			switch {
			case !there && !noted:
				t.Errorf("docker %s %s is not here, and nothing says why", path, name)
			case !there:
				rows = append(rows, fmt.Sprintf("| `%s` | %s | not there | %s |\n", path, show, note))
			case noted:
				rows = append(rows, fmt.Sprintf("| `%s` | %s | different | %s |\n", path, show, note))
			default:
				same = append(same, show)
			}
		}
		state := "same"
		if noted {
			state = "different"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n%s", path, strings.Join(same, " "), state, note, strings.Join(rows, ""))
	}
	for key := range differences {
		if !used[key] {
			t.Errorf("testdata/docker-differences.txt explains %q, which docker does not have", key)
		}
	}
	const doc = "../../docs/docker-cli.md"
	if os.Getenv("TEU_UPDATE_DOCS") != "" {
		if err := os.WriteFile(doc, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(doc); err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the commands say; run this test with TEU_UPDATE_DOCS=1 (%v)", doc, err)
	}
}

const tableHead = `# Docker's command line and teu's

Made by a test of cmd/teu from the commands themselves; do not edit. For every command of docker 28.2 and 29.9 and its flags:
*same* is the same word with the same meaning, *different* says how, *not there* says why.

| command | flags | in teu | |
|---|---|---|---|
`

func readLinesOf(t *testing.T, file string) []string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(b), "\n"), func(l string) bool { return l == "" || l[0] == '#' })
}

// readDifferences reads lines "COMMAND [--FLAG]: WHY"; the command * is any.
func readDifferences(t *testing.T) map[string]string {
	t.Helper()
	differences := map[string]string{}
	for _, line := range readLinesOf(t, "testdata/docker-differences.txt") {
		key, why, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("no reason in %q", line)
		}
		differences[key] = why
	}
	return differences
}

func findCommand(root *cobra.Command, path string) *cobra.Command {
	if path == "(global)" {
		return root
	}
	cmd := root
	for name := range strings.FieldsSeq(path) {
		i := slices.IndexFunc(cmd.Commands(), func(c *cobra.Command) bool { return c.Name() == name || c.HasAlias(name) })
		if i < 0 {
			return nil
		}
		cmd = cmd.Commands()[i]
	}
	return cmd
}

// hasFlag says whether a command has a flag with its short form: "--all,-a".
func hasFlag(cmd *cobra.Command, name string) bool {
	long, short, _ := strings.Cut(name, ",")
	var f *pflag.Flag
	if f = cmd.Flags().Lookup(strings.TrimPrefix(long, "--")); f == nil {
		return false
	}
	return short == "" || f.Shorthand == strings.TrimPrefix(short, "-")
}
