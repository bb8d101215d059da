package cache

import (
	"os"
	"strings"
	"testing"
)

// TestCheckFindsDamage is one store with everything in order and then with one thing at a
// time out of order.
func TestCheckFindsDamage(t *testing.T) {
	s, err := Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) != 0 {
		t.Fatalf("an empty store: got %v, %v", problems, err)
	}
	w, err := s.Content.Writer(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("some bytes")); err != nil {
		t.Fatal(err)
	}
	d, err := w.Commit(t.Context(), "text/plain")
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := s.Check(t.Context()); err != nil || len(problems) != 0 {
		t.Fatalf("a whole blob: got %v, %v", problems, err)
	}
	path := s.Content.Path(d.Digest)
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("SOME BYTES"), 0o600); err != nil {
		t.Fatal(err)
	}
	problems, err := s.Check(t.Context())
	if err != nil || len(problems) != 1 || !strings.Contains(problems[0].Object, d.Digest.String()) {
		t.Errorf("a damaged blob: got %v, %v; want one problem that names it", problems, err)
	}
}
