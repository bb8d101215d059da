package cache

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
)

// The processes of these tests are this binary again, with a role in the environment.
func TestMain(m *testing.M) {
	role, dir := os.Getenv("TEU_TEST_ROLE"), os.Getenv("TEU_TEST_STORE")
	if role == "" {
		os.Exit(m.Run())
	}
	s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err == nil {
		err = map[string]func(*Store) error{"user": beUser, "collector": beCollector, "puller": bePuller}[role](s)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %d: %v\n", role, os.Getpid(), err)
		os.Exit(1)
	}
}

// source is the same in every process: four images, which have layers in common.
func source() (*memory, []ocispec.Descriptor) {
	m := newMemory()
	layers := make([][]byte, 6)
	for i := range layers {
		var files []string
		for j := range 20 {
			files = append(files, fmt.Sprintf("layer%d-file%d", i, j), strings.Repeat(strconv.Itoa(i*j), 2000))
		}
		layers[i] = tarOf(files...)
	}
	var images []ocispec.Descriptor
	for _, of := range [][]int{{0, 1}, {0, 1, 2}, {0, 3, 4}, {5, 4, 1}} {
		var ls [][]byte
		for _, i := range of {
			ls = append(ls, layers[i])
		}
		d, _ := m.image(content.Host(), ls...)
		images = append(images, d)
	}
	return m, images
}

// beUser pulls, names, uses and forgets images, and expects of the store what it promises.
func beUser(s *Store) error {
	ctx := context.Background()
	src, images := source()
	turns, err := strconv.Atoi(os.Getenv("TEU_TEST_TURNS"))
	if err != nil {
		return err
	}
	for turn := range turns {
		k := rand.IntN(len(images))
		name := fmt.Sprintf("docker.io/library/p%d:i%d", os.Getpid(), k)
		if err := useOnce(ctx, s, src, images[k], name); err != nil {
			return fmt.Errorf("turn %d, image %d: %w", turn, k, err)
		}
	}
	return nil
}

func useOnce(ctx context.Context, s *Store, src *memory, d ocispec.Descriptor, name string) error {
	unpin, err := s.Pin(ctx)
	if err != nil {
		return err
	}
	img, err := s.Pull(ctx, src, d, PullOptions{})
	if err != nil {
		return fmt.Errorf("pull: %w", err)
	}
	if err := s.Images.Put(ctx, image.Image{Name: name, Target: d}); err != nil {
		return fmt.Errorf("put: %w", err)
	}
	if err := unpin(); err != nil {
		return fmt.Errorf("unpin: %w", err)
	}
	// From here on the name protects it.
	time.Sleep(time.Duration(rand.IntN(3)) * time.Millisecond)
	found, err := s.Lookup(ctx, name)
	if err != nil {
		return fmt.Errorf("lookup: %w", err)
	}
	if err := check(ctx, s, found.Target, img); err != nil {
		return err
	}
	if err := s.Images.Delete(ctx, name); err != nil {
		return fmt.Errorf("delete: %w", err)
	}
	return nil
}

// check looks at every file of the image.
func check(ctx context.Context, s *Store, target ocispec.Descriptor, img content.Image) error {
	again, err := content.Resolve(ctx, s.Content, target, content.Host())
	if err != nil {
		return fmt.Errorf("resolve: %w", err)
	}
	for i, diffID := range again.Config.RootFS.DiffIDs {
		l, err := s.Layers.ByDiffID(diffID)
		if err != nil {
			return fmt.Errorf("named, but: %w", err)
		}
		files, err := os.ReadDir(s.Layers.Path(l.ID))
		if err != nil || len(files) != 20 {
			return fmt.Errorf("layer %d has %d files: %w", i, len(files), err)
		}
		for _, f := range files {
			var a, b int
			if _, err := fmt.Sscanf(f.Name(), "layer%d-file%d", &a, &b); err != nil {
				return err
			}
			data, err := os.ReadFile(filepath.Join(s.Layers.Path(l.ID), f.Name()))
			if err != nil || string(data) != strings.Repeat(strconv.Itoa(a*b), 2000) {
				return fmt.Errorf("layer %d, %s: wrong content, %w", i, f.Name(), err)
			}
		}
		if _, err := s.Content.Stat(ctx, img.Manifest.Layers[i].Digest); err != nil {
			return fmt.Errorf("named, but: %w", err)
		}
	}
	return nil
}

// beCollector collects until a file says that it is enough.
func beCollector(s *Store) error {
	removed := 0
	for {
		report, err := s.GC(context.Background(), GCOptions{})
		if err != nil {
			return err
		}
		removed += len(report.Removed)
		if _, err := os.Stat(os.Getenv("TEU_TEST_STOP")); err == nil {
			fmt.Println(removed)
			return nil
		}
	}
}

func start(t *testing.T, role, dir string, turns int, out io.Writer) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TEU_TEST_ROLE="+role, "TEU_TEST_STORE="+dir,
		"TEU_TEST_TURNS="+strconv.Itoa(turns), "TEU_TEST_STOP="+filepath.Join(dir, "stop"))
	cmd.Stderr, cmd.Stdout = os.Stderr, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

func TestManyProcessesUseAndCollectOneStore(t *testing.T) {
	dir := t.TempDir()
	var collected strings.Builder
	collectors := []*exec.Cmd{start(t, "collector", dir, 0, &collected), start(t, "collector", dir, 0, nil)}
	var users []*exec.Cmd
	for range 6 {
		users = append(users, start(t, "user", dir, 25, nil))
	}
	for _, u := range users {
		if err := u.Wait(); err != nil {
			t.Errorf("user %d: %v", u.Process.Pid, err)
		}
	}
	stop(t, dir, collectors...)
	if n, err := strconv.Atoi(strings.TrimSpace(collected.String())); err != nil || n == 0 {
		t.Errorf("the collector removed nothing, so this test showed nothing: %q", collected.String())
	}
	expectSound(t, dir)
}

func stop(t *testing.T, dir string, collectors ...*exec.Cmd) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range collectors {
		if err := c.Wait(); err != nil {
			t.Errorf("collector: %v", err)
		}
	}
}

func TestKilledProcessesLeaveASoundStore(t *testing.T) {
	dir := t.TempDir()
	collector := start(t, "collector", dir, 0, nil)
	for range 40 {
		u := start(t, "user", dir, 1000, nil)
		time.Sleep(time.Duration(5+rand.IntN(60)) * time.Millisecond)
		if err := u.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := u.Wait(); err == nil || u.ProcessState.Exited() {
			t.Fatalf("the user ended before it was killed: %v", err)
		}
	}
	stop(t, dir, collector)
	expectSound(t, dir)
}

// expectSound verifies every blob and layer, pulls everything again, and collects all of it.
func expectSound(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	if err != nil {
		t.Fatal(err)
	}
	err = s.Content.Walk(t.Context(), func(i content.Info) error {
		r, err := s.Content.Fetch(t.Context(), ocispec.Descriptor{Digest: i.Digest, Size: i.Size})
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	})
	if err != nil {
		t.Errorf("blobs: %v", err)
	}
	src, images := source()
	for i, d := range images {
		if err := useOnce(t.Context(), s, src, d, "docker.io/library/last:"+strconv.Itoa(i)); err != nil {
			t.Errorf("image %d: %v", i, err)
		}
	}
	all, err := s.Images.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all { // of the killed
		if err := s.Images.Delete(t.Context(), img.Name); err != nil {
			t.Fatal(err)
		}
	}
	(&world{Store: s}).age(t, 8*24*time.Hour) // beyond that of partial blobs; or what was used in the last tick of the clock would stay
	if _, err := s.GC(t.Context(), GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if blobs, layers := visible(t, s); len(blobs)+len(layers) > 0 {
		t.Errorf("after the last collection there are blobs %v and layers %v", blobs, layers)
	}
	// A document half written stays for an hour, and its directory with it.
	if documents, err := filepath.Glob(s.path("compressed", "*", "*.json")); err != nil || len(documents) > 0 {
		t.Errorf("left in compressed: %v, %v", documents, err)
	}
	for _, sub := range []string{"pins", "content/ingest", "layers/tmp"} {
		if left, err := os.ReadDir(s.path(sub)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v, %v", sub, left, err)
		}
	}
}
