package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/layer"
)

// readLayers returns the files of the layers, lowest first.
func readLayers(t *testing.T, s *Store, ids []string) string {
	t.Helper()
	var out []string
	for _, id := range ids {
		entries, err := os.ReadDir(s.Layers.Path(id))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(s.Layers.Path(id), e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, e.Name()+"="+string(data))
		}
	}
	return strings.Join(out, " ")
}

func TestPull(t *testing.T) {
	s, src := openStore(t), newMemory()
	defer hold(t, s)()
	big := strings.Repeat("0123456789abcdef", 200_000)
	layers := [][]byte{tarOf("a", "1"), tarOf("b", "2"), tarOf(), tarOf("c", "3"), tarOf(), tarOf("big", big)}
	manifest, blobs := src.image(content.Host(), layers...)
	host := content.Host()
	manifest.Platform = &host
	other, _ := src.image(ocispec.Platform{OS: "linux", Architecture: "s390x"}, tarOf("x", "other"))
	other.Platform = &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	root := src.index(other, manifest)

	var mu sync.Mutex
	events := map[content.EventKind]int{}
	img, err := s.Pull(t.Context(), src, root, PullOptions{Progress: func(e content.Event) {
		mu.Lock()
		defer mu.Unlock()
		events[e.Kind]++
	}})
	if err != nil {
		t.Fatal(err)
	}
	if img.Descriptor.Digest != manifest.Digest {
		t.Errorf("got manifest %s, want the host's %s", img.Descriptor.Digest, manifest.Digest)
	}
	if events[content.EventUnpacked] != 5 || events[content.EventDone] != 5 || events[content.EventTransfer] == 0 {
		t.Errorf("got events %v, want 5 layers done and unpacked, as two are the same", events)
	}
	if n := src.times(other); n != 0 {
		t.Errorf("the manifest of another platform was fetched %d times", n)
	}
	ids, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := readLayers(t, s, ids), "a=1 b=2 c=3 big="+big; got != want {
		t.Errorf("layers hold %.100s, want %.100s", got, want)
	}
	for _, d := range append(blobs, root, manifest, img.Manifest.Config) {
		if ok, err := s.Content.Exists(t.Context(), d); !ok || err != nil {
			t.Errorf("%s %s is not kept: %v", d.MediaType, d.Digest, err)
		}
	}

	// A second time nothing is fetched.
	if _, err := s.Pull(t.Context(), src, root, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for d, n := range src.fetched {
		if n != 1 {
			t.Errorf("%s was fetched %d times", d, n)
		}
	}
}

func TestPullOtherCompressions(t *testing.T) {
	plain := tarOf("a", strings.Repeat("x", 10000))
	for name, test := range map[string]struct {
		mediaType string
		data      []byte
	}{
		"zstd":              {ocispec.MediaTypeImageLayerZstd, zstded(plain)},
		"plain":             {ocispec.MediaTypeImageLayer, plain},
		"docker":            {content.MediaTypeDockerLayerGzip, gzipped(plain)},
		"gzip called zstd":  {ocispec.MediaTypeImageLayerZstd, gzipped(plain)},
		"plain called gzip": {ocispec.MediaTypeImageLayerGzip, plain},
		"plain called zstd": {ocispec.MediaTypeImageLayerZstd, plain}, // as podman 4 saves it
		"zstd called gzip":  {ocispec.MediaTypeImageLayerGzip, zstded(plain)},
	} {
		t.Run(name, func(t *testing.T) {
			s, src := openStore(t), newMemory()
			defer hold(t, s)()
			d := src.put(test.mediaType, test.data)
			config := src.putJSON(content.MediaTypeDockerConfig, ocispec.Image{
				Platform: content.Host(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(plain)}},
			})
			m := src.putJSON(content.MediaTypeDockerManifest, ocispec.Manifest{
				MediaType: content.MediaTypeDockerManifest, Config: config, Layers: []ocispec.Descriptor{d},
			})
			if _, err := s.Pull(t.Context(), src, m, PullOptions{}); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// visible lists the blobs and layers of a store.
func visible(t *testing.T, s *Store) (blobs, layers []string) {
	t.Helper()
	err := errors.Join(
		s.Content.Walk(t.Context(), func(i content.Info) error { blobs = append(blobs, string(i.Digest)); return nil }),
		s.Layers.Walk(t.Context(), func(l layer.Info) error { layers = append(layers, l.ID); return nil }),
	)
	if err != nil {
		t.Fatal(err)
	}
	return blobs, layers
}

func TestPullWithABadSource(t *testing.T) {
	flip := func(data []byte) func(io.Reader) io.Reader {
		return func(io.Reader) io.Reader {
			bad := append([]byte(nil), data...)
			bad[len(bad)/2] ^= 1
			return strings.NewReader(string(bad))
		}
	}
	plain := tarOf("a", strings.Repeat("x", 100_000))
	blob := gzipped(plain)
	for name, test := range map[string]struct {
		damage func(io.Reader) io.Reader
		want   func(error) bool
	}{
		"flipped bit":  {flip(blob), errdefs.IsDataLoss},
		"cut":          {func(r io.Reader) io.Reader { return io.LimitReader(r, int64(len(blob)-1)) }, errdefs.IsDataLoss},
		"more":         {func(r io.Reader) io.Reader { return io.MultiReader(r, strings.NewReader("more")) }, errdefs.IsDataLoss},
		"broken off":   {func(r io.Reader) io.Reader { return io.MultiReader(io.LimitReader(r, 50), failing{}) }, func(err error) bool { return errors.Is(err, errBroken) }},
		"other layer":  {func(io.Reader) io.Reader { return strings.NewReader(string(gzipped(tarOf("b", "2")))) }, errdefs.IsDataLoss},
		"not compress": {func(io.Reader) io.Reader { return strings.NewReader(strings.Repeat("?", len(blob))) }, func(err error) bool { return err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			s, src := openStore(t), newMemory()
			defer hold(t, s)()
			manifest, blobs := src.image(content.Host(), plain)
			src.damage = func(d ocispec.Descriptor, r io.Reader) io.Reader {
				if d.Digest == blobs[0].Digest {
					return test.damage(r)
				}
				return r
			}
			_, err := s.Pull(t.Context(), src, manifest, PullOptions{})
			if !test.want(err) {
				t.Errorf("got %v", err)
			}
			seen, layers := visible(t, s)
			for _, b := range seen {
				if b == string(blobs[0].Digest) {
					t.Error("the damaged blob is visible")
				}
			}
			// The layer may be there, but only as it should be.
			for _, id := range layers {
				if id != digest.FromBytes(plain).Encoded() {
					t.Errorf("layer %s is visible", id)
				}
			}
			src.damage = nil
			if _, err := s.Pull(t.Context(), src, manifest, PullOptions{}); err != nil {
				t.Errorf("pulling again from a good source: %v", err)
			}
		})
	}
}

var errBroken = errors.New("connection broken")

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

func TestPullRefusesALayerThatIsNotItsDiffID(t *testing.T) {
	s, src := openStore(t), newMemory()
	defer hold(t, s)()
	config := src.putJSON(ocispec.MediaTypeImageConfig, ocispec.Image{RootFS: ocispec.RootFS{
		Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(tarOf("a", "good"))},
	}})
	evil := src.put(ocispec.MediaTypeImageLayerGzip, gzipped(tarOf("a", "evil")))
	m := src.putJSON(ocispec.MediaTypeImageManifest, ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{evil}})
	if _, err := s.Pull(t.Context(), src, m, PullOptions{}); !errdefs.IsDataLoss(err) {
		t.Errorf("got %v, want data loss", err)
	}
	if _, layers := visible(t, s); len(layers) != 0 {
		t.Errorf("layers are visible: %v", layers)
	}
}

// several is a source with a server that damages layers, which may be doubted.
type several struct {
	*memory
	others  bool
	doubted atomic.Bool
}

func (s *several) Doubt() bool { s.doubted.Store(true); return s.others }

// TestPullDoubts: a layer that one server has damaged comes from another.
func TestPullDoubts(t *testing.T) {
	for _, others := range []bool{true, false} {
		s, src := openStore(t), &several{memory: newMemory(), others: others}
		defer hold(t, s)()
		manifest, _ := src.image(content.Host(), tarOf("a", "1"), tarOf("b", "2"))
		src.damage = func(d ocispec.Descriptor, r io.Reader) io.Reader {
			if d.MediaType != ocispec.MediaTypeImageLayerGzip || src.doubted.Load() {
				return r
			}
			return io.MultiReader(io.LimitReader(r, d.Size-1), strings.NewReader("?"))
		}
		img, err := s.Pull(t.Context(), src, manifest, PullOptions{Concurrency: 1})
		if !others {
			if !errdefs.IsDataLoss(err) {
				t.Errorf("without another server: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		ids, err := s.Unpack(t.Context(), img)
		if err != nil {
			t.Fatal(err)
		}
		if got := readLayers(t, s, ids); got != "a=1 b=2" {
			t.Errorf("layers hold %s", got)
		}
	}
}

func TestUnpackFromLocalBlobsOnly(t *testing.T) {
	s, src := openStore(t), newMemory()
	defer hold(t, s)()
	manifest, blobs := src.image(content.Host(), tarOf("a", "1"), tarOf("b", "2"))
	if err := content.Copy(t.Context(), s.Content, src, manifest, content.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	img, err := content.Resolve(t.Context(), s.Content, manifest, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	if got := readLayers(t, s, ids); got != "a=1 b=2" {
		t.Errorf("layers hold %s", got)
	}
	if err := errors.Join(s.Layers.Remove(t.Context(), ids[1]), s.Content.Delete(t.Context(), blobs[1].Digest)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Unpack(t.Context(), img); !errdefs.IsNotFound(err) {
		t.Errorf("without layer and blob: got %v, want not found", err)
	}
}

func TestPullHealsDamagedLocalBlobs(t *testing.T) {
	s, src := openStore(t), newMemory()
	defer hold(t, s)()
	manifest, blobs := src.image(content.Host(), tarOf("a", strings.Repeat("1", 1000)))
	img, err := s.Pull(t.Context(), src, manifest, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{manifest, img.Manifest.Config, blobs[0]} {
		path := s.Content.Path(d.Digest)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)-20] ^= 0x10
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Layers.Remove(t.Context(), ids[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), src, manifest, PullOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, d := range []ocispec.Descriptor{manifest, img.Manifest.Config, blobs[0]} {
		r, err := s.Content.Fetch(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, r); err != nil {
			t.Errorf("still damaged: %v", err)
		}
		r.Close()
	}
}

func TestReadAheadKeepsOrderAndErrors(t *testing.T) {
	want := strings.Repeat("abcdefghij", 300_000)
	a := newReadAhead(io.MultiReader(strings.NewReader(want), failing{}))
	got, err := io.ReadAll(a)
	if string(got) != want || !errors.Is(err, errBroken) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	a.Close()
	endless := newReadAhead(zeros{})
	if _, err := endless.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	endless.Close() // must not hang
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func BenchmarkPull(b *testing.B) {
	src := newMemory()
	var layers [][]byte
	var size int64
	for i := range 4 {
		var files []string
		for j := range 500 {
			files = append(files, fmt.Sprintf("f%d", j), strings.Repeat(fmt.Sprintf("line %d of %d\n", i, j*7919), 400))
		}
		layers = append(layers, tarOf(files...))
		size += int64(len(layers[i]))
	}
	manifest, _ := src.image(content.Host(), layers...)
	b.SetBytes(size)
	b.ReportAllocs()
	for b.Loop() {
		dir := b.TempDir()
		s, err := Open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
		if err != nil {
			b.Fatal(err)
		}
		if _, err := s.Pull(b.Context(), src, manifest, PullOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestPullAgainDoesNotWaitForTheDisk: layers that are here become safe from a power loss beside a download,
// not when there is nothing to wait for.
func TestPullAgainDoesNotWaitForTheDisk(t *testing.T) {
	s := openStore(t)
	defer hold(t, s)()
	src, images := source()
	here, other := images[0], images[2]
	img, err := content.Resolve(t.Context(), s.Keep(src), here, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.unpack(t.Context(), img, src, PullOptions{}) // not by Pull, which may sync meanwhile
	if err != nil {
		t.Fatal(err)
	}
	unsynced := func(id string) bool {
		_, err := os.Stat(filepath.Join(s.path("layers"), "unsynced", id))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return err == nil
	}
	for _, step := range []struct {
		root ocispec.Descriptor
		want bool
	}{{here, true}, {other, false}} {
		if _, err := s.Pull(t.Context(), src, step.root, PullOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			if got := unsynced(id); got != step.want {
				t.Errorf("after %s: layer %s unsynced: %v, want %v", step.root.Digest, id, got, step.want)
			}
		}
	}
}

// TestPullOfWhatHasNoBlobSyncs: a layer whose blob is not here, as of an image that was built and pushed, must be
// on the disk itself before a pull of it is done.
func TestPullOfWhatHasNoBlobSyncs(t *testing.T) {
	s := openStore(t)
	defer hold(t, s)()
	src, images := source()
	img, err := content.Resolve(t.Context(), s.Keep(src), images[0], content.Host())
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.unpack(t.Context(), img, src, PullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Content.Delete(t.Context(), img.Manifest.Layers[0].Digest); err != nil {
		t.Fatal(err)
	}
	for _, want := range []bool{false, true} {
		for _, id := range ids {
			if got, err := s.Layers.Synced(id); err != nil || got != want {
				t.Errorf("layer %s synced: %v, %v; want %v", id, got, err, want)
			}
		}
		if _, err := s.Pull(t.Context(), src, images[0], PullOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}
