package build_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/cache"
)

// TestMirror: files stay for the next build with the same key, and for that one alone.
func TestMirror(t *testing.T) {
	store, err := cache.Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &build.Builder{Store: store}
	has := func(dir string) bool {
		_, err := os.Stat(dir + "/f")
		return err == nil
	}
	open := func(key string, was bool, fails error) (string, func() error) {
		t.Helper()
		dir, release, err := b.Mirror(key, "a mirror", func(dir string) error {
			if has(dir) != was {
				t.Errorf("%q: the file is there: %v, want %v", key, has(dir), was)
			}
			return errors.Join(fails, os.WriteFile(dir+"/f", []byte("x"), 0o600))
		})
		if (err != nil) != (fails != nil) {
			t.Fatalf("%q: %v", key, err)
		}
		return dir, release
	}
	first, release := open("key", false, nil)
	other, releaseOther := open("key", false, nil) // at the same time
	if first == other {
		t.Error("two builds have one directory")
	}
	if err := releaseOther(); err != nil || has(other) {
		t.Errorf("the directory of one build stays: %v", err)
	}
	entries, err := b.Cache(t.Context())
	if err != nil || len(entries) != 1 || !entries[0].InUse || entries[0].Type != build.CacheLocal || entries[0].Size == 0 {
		t.Errorf("entries while it is in use: %+v, %v", entries, err)
	}
	if _, err := b.Prune(t.Context(), build.PruneOptions{All: true}); err != nil || !has(first) {
		t.Errorf("what is in use was pruned: %v", err)
	}
	release()
	_, release = open("key", true, nil)
	release()
	open("key", true, errors.New("the client went"))
	_, release = open("key", false, nil) // what is left of a failure means nothing
	release()
	if err := os.WriteFile(filepath.Join(filepath.Dir(first), "changing"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, release = open("key", false, nil) // nor of a death
	release()
	if gone, err := b.Prune(t.Context(), build.PruneOptions{}); err != nil || len(gone) != 1 || has(first) {
		t.Errorf("pruned: %+v, %v", gone, err)
	}
	_, release = open("key", false, nil)
	release()
}

// TestMirrorPruned: builds find their mirror, and keep what they have put there, whoever prunes at the same time.
func TestMirrorPruned(t *testing.T) {
	store, err := cache.Open(t.TempDir(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b, ctx := &build.Builder{Store: store}, t.Context()
	over := make(chan struct{})
	var prunes errgroup.Group
	for range 2 {
		prunes.Go(func() error {
			for {
				select {
				case <-over:
					return nil
				default:
				}
				if _, err := b.Prune(ctx, build.PruneOptions{All: true, Collected: true}); err != nil {
					return err
				}
			}
		})
	}
	for i := 0; i < 2000 && !t.Failed(); i++ {
		dir, release, err := b.Mirror("key", "a mirror", func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
		})
		if err != nil {
			t.Error(err)
			break
		}
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			t.Error(err)
		}
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	close(over)
	if err := prunes.Wait(); err != nil {
		t.Error(err)
	}
}
