package engine

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestTable holds docs/engine-api.md true: a row for every operation that is served and no
// other, with a test that there is.
func TestTable(t *testing.T) {
	b, err := os.ReadFile("../../docs/engine-api.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][2]string{}
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if m := regexp.MustCompile("^ *`([A-Z]+ /[^`]*)` *$").FindStringSubmatch(cells[0]); m != nil && len(cells) == 3 {
			if _, twice := rows[m[1]]; twice {
				t.Errorf("%s has two rows", m[1])
			}
			rows[m[1]] = [2]string{strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2])}
		}
	}
	tests := ""
	files, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f.Name(), "_test.go") {
			b, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			tests += string(b)
		}
	}
	for _, o := range New(Options{}).Operations() {
		row, ok := rows[o]
		delete(rows, o)
		switch {
		case !ok:
			t.Errorf("%s is served and has no row", o)
		case row[0] != "yes" && row[0] != "refused" && !strings.HasPrefix(row[0], "yes, ") && !strings.HasPrefix(row[0], "refused: "):
			t.Errorf("%s: the status is %q, want yes or refused", o, row[0])
		case row[1] != "" && !strings.Contains(tests, "func "+row[1]+"("):
			t.Errorf("%s: there is no test %s", o, row[1])
		}
	}
	for o := range rows {
		t.Errorf("%s has a row and is not served", o)
	}
}
