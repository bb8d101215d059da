package result

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
)

func key(s string) digest.Digest { return digest.FromString(s) }

func record(name string, size int64) Record {
	return Record{Key: key(name), Value: json.RawMessage(`"` + name + `"`), Description: name, Size: size, Layers: []string{"l-" + name}}
}

func open(t *testing.T) *Store {
	t.Helper()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t *testing.T, s *Store, r Record, used time.Time) {
	t.Helper()
	if err := s.Put(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(s.path("records", r.Key), used, used); err != nil {
		t.Fatal(err)
	}
}

func value(t *testing.T, s *Store, k digest.Digest) string {
	t.Helper()
	r, err := s.Get(t.Context(), k)
	if errdefs.IsNotFound(err) {
		return "not found"
	}
	if err != nil {
		t.Fatal(err)
	}
	return r.Description
}

func TestNames(t *testing.T) {
	s := open(t)
	old := time.Now().Add(-time.Hour)
	put(t, s, record("a", 1), old)
	put(t, s, record("b", 1), old)
	for _, step := range []struct {
		does string
		do   func() error
		want map[string]string
	}{
		{"records only", nil, map[string]string{"a": "a", "b": "b", "x": "not found"}},
		{"an alias", func() error { return s.Alias(t.Context(), key("x"), key("a")) }, map[string]string{"x": "a"}},
		{"an alias moves", func() error { return s.Alias(t.Context(), key("x"), key("b")) }, map[string]string{"x": "b"}},
		{"an alias hides the record of its key", func() error { return s.Alias(t.Context(), key("a"), key("b")) }, map[string]string{"a": "b"}},
		{"a record replaces the alias of its key", func() error { return s.Put(t.Context(), record("a", 1)) }, map[string]string{"a": "a"}},
		{"deleted", func() error { return s.Delete(t.Context(), key("b")) }, map[string]string{"b": "not found", "x": "not found"}},
		{"deleted twice", func() error { return s.Delete(t.Context(), key("b")) }, nil},
	} {
		if step.do != nil {
			if err := step.do(); err != nil {
				t.Fatalf("%s: %v", step.does, err)
			}
		}
		for k, want := range step.want {
			if got := value(t, s, key(k)); got != want {
				t.Errorf("%s: %s is %s, want %s", step.does, k, got, want)
			}
		}
	}
}

func TestGetIsAUseAndKeepsEverything(t *testing.T) {
	s := open(t)
	want := record("a", 7)
	want.Blobs = []digest.Digest{key("blob")}
	want.Created = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	put(t, s, want, time.Now().Add(-time.Hour))
	before := time.Now()
	got, err := s.Get(t.Context(), want.Key)
	if err != nil {
		t.Fatal(err)
	}
	if got.LastUsed.Before(before) {
		t.Errorf("last used %v, before Get", got.LastUsed)
	}
	got.LastUsed = time.Time{}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDamageIsAbsence(t *testing.T) {
	for name, content := range map[string]string{
		"empty":         "",
		"cut":           `{"key":"sha2`,
		"another's":     fmt.Sprintf(`{"key":%q,"value":1}`, key("other")),
		"without value": fmt.Sprintf(`{"key":%q}`, key("a")),
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t)
			put(t, s, record("a", 1), time.Now())
			if err := os.WriteFile(s.path("records", key("a")), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if got := value(t, s, key("a")); got != "not found" {
				t.Errorf("got %s", got)
			}
			if err := s.Walk(t.Context(), func(r Record) error { return fmt.Errorf("walked %s", r.Key) }); err != nil {
				t.Error(err)
			}
			if err := s.Put(t.Context(), record("a", 1)); err != nil {
				t.Fatal(err)
			}
			if got := value(t, s, key("a")); got != "a" {
				t.Errorf("written again: got %s", got)
			}
		})
	}
	s := open(t)
	put(t, s, record("a", 1), time.Now())
	if err := s.Alias(t.Context(), key("x"), key("a")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.path("aliases", key("x")), []byte(`{"canonical":"../../etc"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := value(t, s, key("x")); got != "not found" {
		t.Errorf("damaged alias: got %s", got)
	}
}

func TestKeysAreChecked(t *testing.T) {
	s := open(t)
	for _, k := range []digest.Digest{"", "sha256:", "random:" + digest.Digest(strings.Repeat("a", 64)), "sha256:../../../../etc/passwd"} {
		_, err := s.Get(t.Context(), k)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("key %q: got %v, want invalid argument", k, err)
		}
	}
}

func TestPrune(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	for _, c := range []struct {
		name string
		o    PruneOptions
		want []string
	}{
		{"everything, oldest first", PruneOptions{}, []string{"old", "mid", "new"}},
		{"until it fits", PruneOptions{Keep: 10}, []string{"old", "mid"}},
		{"it fits already", PruneOptions{Keep: 100}, nil},
		{"unused", PruneOptions{Unused: 90 * time.Minute}, []string{"old", "mid"}},
		{"chosen", PruneOptions{Matches: func(r Record) bool { return r.Description == "mid" }}, []string{"mid"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t)
			put(t, s, record("new", 10), ago(time.Minute))
			put(t, s, record("old", 10), ago(3*time.Hour))
			put(t, s, record("mid", 10), ago(2*time.Hour))
			for _, n := range []string{"new", "old", "mid"} {
				if err := s.Alias(t.Context(), key("alias of "+n), key(n)); err != nil {
					t.Fatal(err)
				}
			}
			for _, dry := range []bool{true, false} {
				c.o.DryRun = dry
				gone, err := s.Prune(t.Context(), c.o)
				if err != nil {
					t.Fatal(err)
				}
				var got []string
				for _, r := range gone {
					got = append(got, r.Description)
				}
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("dry run %v: %s", dry, diff)
				}
			}
			left := 0
			if err := s.Walk(t.Context(), func(Record) error { left++; return nil }); err != nil {
				t.Fatal(err)
			}
			if left != 3-len(c.want) {
				t.Errorf("%d records left, want %d", left, 3-len(c.want))
			}
			for _, n := range c.want {
				if _, err := os.Lstat(s.path("aliases", key("alias of "+n))); !os.IsNotExist(err) {
					t.Errorf("alias of %s: %v", n, err)
				}
			}
		})
	}
}

func TestLockWaitsAndGivesUp(t *testing.T) {
	s := open(t)
	unlock, err := s.Lock(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lock(ctx, key("a")); err == nil {
		t.Error("locked twice")
	}
	if err := unlock(nil); err != nil {
		t.Fatal(err)
	}
	again, err := s.Lock(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := again(nil); err != nil {
		t.Fatal(err)
	}
}

// TestWaitingForAFailure: of those who wait, for a key whose work fails and for another that has the same lock, the
// former go on together, and the latter has the lock.
func TestWaitingForAFailure(t *testing.T) {
	s := open(t)
	other := digest.Digest(key("a").String()[:len("sha256:000")] + strings.Repeat("0", 61))
	first, err := s.Lock(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	type waiter struct {
		key    digest.Digest
		unlock func(error) error
	}
	ready := make(chan waiter)
	for _, k := range []digest.Digest{key("a"), key("a"), key("a"), other} {
		go func() {
			unlock, err := s.Lock(t.Context(), k)
			if err != nil {
				t.Error(err)
			}
			ready <- waiter{k, unlock}
		}()
	}
	for waiting(t, filepath.Join(s.dir, "locks", key("a").Encoded()[:3])) < 4 {
		time.Sleep(time.Millisecond)
	}
	if err := first(failed); err != nil {
		t.Fatal(err)
	}
	var together []waiter
	for len(together) < 3 {
		select {
		case w := <-ready:
			if w.key != other {
				together = append(together, w)
			} else if err := w.unlock(nil); err != nil {
				t.Error(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%d go on, want 3", len(together))
		}
	}
	for _, w := range together {
		if err := w.unlock(failed); err != nil {
			t.Error(err)
		}
	}
	later, err := s.Lock(t.Context(), key("a"))
	if err != nil {
		t.Fatal(err)
	}
	defer later(nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Lock(ctx, key("a")); err == nil {
		t.Error("who came after the failure has no lock")
	}
}

// waiting returns how many wait for the lock path.
func waiting(t *testing.T, path string) (n int) {
	t.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		t.Fatal(err)
	}
	inode := fmt.Sprintf(":%d ", fi.Sys().(*syscall.Stat_t).Ino)
	for line := range strings.Lines(string(locks)) {
		if strings.Contains(line, "->") && strings.Contains(line, inode) {
			n++
		}
	}
	return n
}

// TestManyProcesses lets several processes write the same keys while others read them: a
// reader must see a whole record or none.
func TestManyProcesses(t *testing.T) {
	dir := os.Getenv("TEU_RESULT_DIR")
	if dir != "" {
		hammer(t, dir)
		return
	}
	dir = filepath.Join(t.TempDir(), "results")
	var cmds []*exec.Cmd
	for range 4 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestManyProcesses$")
		cmd.Env = append(os.Environ(), "TEU_RESULT_DIR="+dir)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

func hammer(t *testing.T, dir string) {
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		name := fmt.Sprint(i % 7)
		if err := s.Put(t.Context(), record(name, 1)); err != nil {
			t.Fatal(err)
		}
		if err := s.Alias(t.Context(), key("x"), key(name)); err != nil {
			t.Fatal(err)
		}
		if r, err := s.Get(t.Context(), key("x")); err == nil && string(r.Value) != `"`+r.Description+`"` {
			t.Fatalf("torn record %v", r)
		} else if err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
		if i%50 == 0 {
			if _, err := s.Prune(t.Context(), PruneOptions{Keep: 3}); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"key":"sha256:x","value":1}`))
	f.Add([]byte(`{`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Open(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		k := key("a")
		if err := os.MkdirAll(filepath.Dir(s.path("records", k)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(s.path("records", k), data, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := s.Get(t.Context(), k)
		if err == nil && r.Key != k {
			t.Fatalf("record of %s under %s", r.Key, k)
		}
		if err != nil && !errdefs.IsNotFound(err) {
			t.Fatal(err)
		}
	})
}
