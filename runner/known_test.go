package runner

import (
	"fmt"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/teu-dev/teu/cache/statefile"
)

// TestKnown replaces a document as fast as it can by others of the same size, which a
// listing must never mistake for each other, and then leaves it alone until it is known.
func TestKnown(t *testing.T) {
	path, k := filepath.Join(t.TempDir(), "doc"), &known{}
	read := func() map[string]string {
		t.Helper()
		v := map[string]string(nil)
		if err := readKnown(k, path, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for i := range 300 {
		want := map[string]string{"n": fmt.Sprintf("%03d", i)}
		if err := statefile.Write(path, want, statefile.WriteOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if got := read(); !maps.Equal(got, want) {
				t.Fatalf("%v was read, %v written", got, want)
			}
		}
	}
	same := false
	for end := time.Now().Add(time.Minute); !same && time.Now().Before(end); {
		read()["seen"] = "" // which nobody else may do
		_, same = read()["seen"]
	}
	if !same {
		t.Error("a document that does not change is decoded again and again")
	}
	for i := range 200 { // documents that are gone do not stay for ever
		k.docs[fmt.Sprint(i)] = knownDocument{}
	}
	k.keep(maps.Keys(map[string]bool{path: true}), 1)
	if len(k.docs) != 1 {
		t.Errorf("%d documents are kept, want 1", len(k.docs))
	}
}
