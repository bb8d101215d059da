package registry

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

// TestDocs: the tests that docs/registry-api.md names are there, and it names all of them.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile("../../docs/registry-api.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{"TestDocs": true, "TestMain": true}
	for _, name := range regexp.MustCompile(`\b(Test|Fuzz)[A-Z]\w+`).FindAllString(string(doc), -1) {
		named[name] = true
	}
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`(?m)^func ((Test|Fuzz)\w+)\(`).FindAllStringSubmatch(string(src), -1) {
			if !named[m[1]] {
				t.Errorf("docs/registry-api.md does not mention %s", m[1])
			}
			delete(named, m[1])
		}
	}
	for name := range named {
		t.Errorf("docs/registry-api.md mentions %s, which is no test", name)
	}
}
