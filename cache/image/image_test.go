package image

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func target(s string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString(s), Size: int64(len(s))}
}

// names shows what a store holds: the target of each name, and "-" for dangling ones.
func names(t *testing.T, s *Store) []string {
	t.Helper()
	all, err := s.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	known := map[digest.Digest]string{}
	for _, c := range "123456789" {
		known[digest.FromString(string(c))] = string(c)
	}
	var out []string
	for _, img := range all {
		name := img.Name
		if name == "" {
			name = "-"
		}
		out = append(out, name+"="+known[img.Target.Digest])
	}
	return out
}

func TestNames(t *testing.T) {
	put := func(name, of string) func(*Store, context.Context) error {
		return func(s *Store, ctx context.Context) error { return s.Put(ctx, Image{Name: name, Target: target(of)}) }
	}
	del := func(name string) func(*Store, context.Context) error {
		return func(s *Store, ctx context.Context) error { return s.Delete(ctx, name) }
	}
	for name, test := range map[string]struct {
		steps []func(*Store, context.Context) error
		want  []string
	}{
		"two names":                     {list(put("b:1", "1"), put("a:1", "2")), []string{"a:1=2", "b:1=1"}},
		"retag leaves dangling":         {list(put("a:1", "1"), put("a:1", "2")), []string{"a:1=2", "-=1"}},
		"retag to the same":             {list(put("a:1", "1"), put("a:1", "1")), []string{"a:1=1"}},
		"retag of one of two names":     {list(put("a:1", "1"), put("b:1", "1"), put("a:1", "2")), []string{"a:1=2", "b:1=1"}},
		"a name back":                   {list(put("a:1", "1"), put("a:1", "2"), put("b:1", "1")), []string{"a:1=2", "b:1=1"}},
		"untag":                         {list(put("a:1", "1"), del("a:1")), nil},
		"build without a name":          {list(put("", "1")), []string{"-=1"}},
		"build without a name of named": {list(put("a:1", "1"), put("", "1")), []string{"a:1=1"}},
		"delete dangling": {list(put("", "1"), func(s *Store, ctx context.Context) error {
			return s.DeleteDangling(ctx, target("1").Digest)
		}), nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			for i, step := range test.steps {
				if err := step(s, t.Context()); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
			}
			if diff := cmp.Diff(test.want, names(t, s)); diff != "" {
				t.Errorf("images (-want +got):\n%s", diff)
			}
		})
	}
}

func list[T any](v ...T) []T { return v }

// TestKeep: a record that says the same is not written again, any other is.
func TestKeep(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	keep := func(of string) Image {
		t.Helper()
		if err := s.Keep(t.Context(), Image{Name: "a:1", Target: target(of)}); err != nil {
			t.Fatal(err)
		}
		img, err := s.Get("a:1")
		if err != nil || img.Target.Digest != target(of).Digest {
			t.Fatalf("%+v, %v", img, err)
		}
		return img
	}
	first := keep("1")
	if again := keep("1"); !again.Created.Equal(first.Created) {
		t.Errorf("it was written again at %s", again.Created)
	}
	if other := keep("2"); !other.Created.After(first.Created) {
		t.Errorf("another target was not written: %+v", other)
	}
	if diff := cmp.Diff([]string{"a:1=2", "-=1"}, names(t, s)); diff != "" {
		t.Error(diff)
	}
	if err := os.Truncate(s.namePath("a:1"), 0); err != nil {
		t.Fatal(err)
	}
	keep("2")
}

func TestGet(t *testing.T) {
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	want := Image{Name: "docker.io/library/a:1", Target: target("1"), Created: time.Unix(1, 0).UTC()}
	if err := s.Put(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := s.Get(want.Name)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := s.Get("docker.io/library/b:1"); !errdefs.IsNotFound(err) {
		t.Errorf("absent: got %v, want not found", err)
	}
	if err := s.Delete(t.Context(), "docker.io/library/b:1"); !errdefs.IsNotFound(err) {
		t.Errorf("deleting an absent name: got %v, want not found", err)
	}
	if err := s.Put(t.Context(), Image{Name: "a", Target: ocispec.Descriptor{Digest: "sha256:12"}}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("bad digest: got %v, want invalid argument", err)
	}
}

func FuzzName(f *testing.F) {
	for _, name := range []string{"docker.io/library/a:1", "../../etc/passwd", "", "a\x00b", strings.Repeat("a", 5000), "a\xffb", "ä/ö:ü", "."} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if name == "" {
			return
		}
		dir := t.TempDir()
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Put(t.Context(), Image{Name: name, Target: target("1")}); err != nil {
			if !errdefs.IsInvalidArgument(err) {
				t.Fatalf("%q: got %v, want invalid argument", name, err)
			}
			return
		}
		all, err := s.All(t.Context())
		if err != nil || len(all) != 1 || all[0].Name != name {
			t.Fatalf("%q came back as %v, %v", name, all, err)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	})
}

// A child of the test below: it moves one name between targets, and back.
func TestMain(m *testing.M) {
	dir, who := os.Getenv("TEU_TEST_IMAGES"), os.Getenv("TEU_TEST_WHO")
	if dir == "" {
		os.Exit(m.Run())
	}
	s, err := Open(dir)
	if err != nil {
		panic(err)
	}
	for range 30 {
		for _, of := range []string{who, "shared"} {
			if err := s.Put(context.Background(), Image{Name: "a:1", Target: target(of)}); err != nil {
				panic(err)
			}
			if _, err := s.Get("a:1"); err != nil {
				panic(err)
			}
		}
		if err := s.Put(context.Background(), Image{Name: "own:" + who, Target: target(who)}); err != nil {
			panic(err)
		}
	}
}

func TestManyProcessesLoseNoTarget(t *testing.T) {
	dir := t.TempDir()
	const processes = 6
	var running []*exec.Cmd
	for i := range processes {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "TEU_TEST_IMAGES="+dir, fmt.Sprintf("TEU_TEST_WHO=%d", i+1))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		running = append(running, cmd)
	}
	for _, cmd := range running {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"a:1=", "own:1=1", "own:2=2", "own:3=3", "own:4=4", "own:5=5", "own:6=6"}
	if diff := cmp.Diff(want, names(t, s)); diff != "" {
		t.Errorf("every target has a name, so none dangles (-want +got):\n%s", diff)
	}
}

func TestDeleteRecord(t *testing.T) {
	ctx := t.Context()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	target := func(c string) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromString(c), Size: 1}
	}
	old := Image{Name: "docker.io/library/x:1", Target: target("old")}
	for _, img := range []Image{old, {Name: old.Name, Target: target("new")}} {
		if err := s.Put(ctx, img); err != nil {
			t.Fatal(err)
		}
	}
	// Between reading and deleting, another process gave the name to another image.
	if err := s.DeleteRecord(ctx, old); !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	got, err := s.Get(old.Name)
	if err != nil || got.Target.Digest != target("new").Digest {
		t.Errorf("%v, %v", got, err)
	}
	if err := s.DeleteRecord(ctx, got); err != nil {
		t.Error(err)
	}
	if err := s.DeleteRecord(ctx, Image{Target: target("old")}); err != nil {
		t.Errorf("dangling: %v", err)
	}
	if all, err := s.All(ctx); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestReplace(t *testing.T) {
	ctx := t.Context()
	s, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	target := func(c string) ocispec.Descriptor {
		return ocispec.Descriptor{Digest: digest.FromString(c), Size: 1}
	}
	put := func(img Image) {
		t.Helper()
		if err := s.Put(ctx, img); err != nil {
			t.Fatal(err)
		}
	}
	old := Image{Name: "docker.io/library/x:1", Target: target("old"), Created: time.Unix(1, 0).UTC()}
	put(old)
	if err := s.Replace(ctx, old, target("made")); err != nil {
		t.Error(err)
	}
	want := []Image{{Name: old.Name, Target: target("made"), Created: old.Created}}
	if all, err := s.All(ctx); err != nil || !cmp.Equal(all, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, all))
	}
	// Another process gave the name to another image, or took it away.
	if err := s.Replace(ctx, old, target("late")); !errdefs.IsNotFound(err) {
		t.Errorf("of a name that was given away: %v", err)
	}
	if all, err := s.All(ctx); err != nil || !cmp.Equal(all, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, all))
	}
	if err := s.Delete(ctx, old.Name); err != nil {
		t.Fatal(err)
	}
	nameless := Image{Target: target("old"), Created: old.Created}
	for _, img := range []Image{want[0], nameless} {
		if err := s.Replace(ctx, img, target("late")); !errdefs.IsNotFound(err) {
			t.Errorf("of one that is gone: %v", err)
		}
	}
	put(nameless)
	if err := s.Replace(ctx, nameless, target("made")); err != nil {
		t.Error(err)
	}
	want[0].Name = ""
	if all, err := s.All(ctx); err != nil || !cmp.Equal(all, want) {
		t.Errorf("%v\n%s", err, cmp.Diff(want, all))
	}
}
