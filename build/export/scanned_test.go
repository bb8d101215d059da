package export

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/rootfs"
)

func TestReadStatements(t *testing.T) {
	const spdx = "https://spdx.dev/Document"
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	read := func(kind string) ([]Statement, error) {
		root, err := rootfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		return ReadStatements(root, "", kind, "sbom")
	}
	write("a.json", `{"predicateType":"`+spdx+`","predicate":{"n":1}}`)
	write("sbom.json", `{"predicateType":"`+spdx+`","predicate":{"n":2},"subject":[{"name":"x","digest":{"sha256":"00"}}]}`)
	got, err := read(spdx)
	want := []Statement{
		{Kind: spdx, Predicate: json.RawMessage(`{"n":2}`), Name: "sbom.json", Subjects: []Subject{{Name: "x", Digest: map[string]string{"sha256": "00"}}}, About: true},
		{Kind: spdx, Predicate: json.RawMessage(`{"n":1}`), Name: "a.json"},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	self := []Subject{NewSubject("it", digest.FromString(""))}
	for i, about := range []string{`"subject":[{"name":"x"`, `"subject":[{"name":"it"`} {
		if doc, err := json.Marshal(got[i].document(self)); err != nil || !strings.Contains(string(doc), about) {
			t.Errorf("%s: it says %s", got[i].Name, doc)
		}
	}
	for name, text := range map[string]string{
		"is not JSON":        "{",
		"has two documents":  `{"predicateType":"` + spdx + `","predicate":{}}{}`,
		"has no predicate":   `{"predicateType":"` + spdx + `"}`,
		"is another's":       `{"predicateType":"https://example.com/x","predicate":{}}`,
		"speaks of building": `{"predicateType":"https://slsa.dev/provenance/v1","predicate":{}}`,
	} {
		write("sbom.json", text)
		kind := spdx
		if name == "speaks of building" {
			kind = ""
		}
		if _, err := read(kind); !errdefs.IsInvalidArgument(err) {
			t.Errorf("one that %s: %v", name, err)
		}
	}
	if err := os.Remove(dir + "/sbom.json"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", dir+"/sbom.json"); err != nil {
		t.Fatal(err)
	}
	if _, err := read(spdx); err == nil {
		t.Error("a link out of the result was followed")
	}
}

func FuzzParseStatement(f *testing.F) {
	f.Add([]byte(`{"predicateType":"a","predicate":{},"subject":[{"name":"x","digest":{"sha256":"00"}}]}`), "a")
	f.Fuzz(func(t *testing.T, data []byte, kind string) {
		st, err := parseStatement(data, kind)
		if err != nil {
			return
		}
		if _, err := json.Marshal(st.document(nil)); err != nil {
			t.Error(err)
		}
	})
}
