package build

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/runner/network"
	"github.com/teu-dev/teu/test/privilege"
)

// A bench is a builder on an empty store with a busybox image in it, and a context.
type bench struct {
	*Builder
	t   testing.TB
	dir string // the context
}

func newBench(t testing.TB) *bench {
	t.Helper()
	privilege.NeedRoot(t)
	// On a memory filesystem: these tests make many small files.
	state, err := os.MkdirTemp("/dev/shm", "teu-build-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(state); err != nil {
			t.Error(err)
		}
	})
	b := &bench{t: t, dir: filepath.Join(state, "context")}
	b.Builder = &Builder{Store: openStore(t, state), Registry: registry.New(registry.Options{})}
	sealed := sealedKeeper(t)
	b.Executor = &op.Containers{
		Keeper:  func() (*keeper.Binary, error) { return sealed, nil },
		Network: network.New(b.Store.RunRoot()),
	}
	if err := os.Mkdir(b.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	addBusybox(t, b.Store)
	return b
}

func openStore(t testing.TB, state string) *cache.Store {
	t.Helper()
	s, err := cache.Open(filepath.Join(state, "root"), filepath.Join(state, "run"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// addBusybox makes the image busybox:latest of the machine's static busybox.
func addBusybox(t testing.TB, s *cache.Store) {
	t.Helper()
	exe, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatalf("the tests need Debian's busybox-static: %v", err)
	}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	put := func(h tar.Header, data []byte) {
		h.Size, h.ModTime = int64(len(data)), time.Unix(1000000000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin", "dev", "etc", "proc", "root", "sys", "usr"} {
		put(tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	put(tar.Header{Name: "tmp/", Typeflag: tar.TypeDir, Mode: 0o1777}, nil)
	put(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, exe)
	for _, name := range strings.Fields("sh cat cp cut date echo env find grep head hostname id ln ls mkdir mv ps rm sleep sort stat test touch true false wc chmod chown seq sed tr md5sum ip pwd printf kill ulimit readlink df mount xargs tail") {
		put(tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	put(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:2000:app:/:/bin/sh\n"))
	put(tar.Header{Name: "etc/group", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:\nstaff:x:2000:\n"))
	// What RUN mounts something on exists, as it would otherwise leave a copy of /etc behind.
	put(tar.Header{Name: "etc/hosts", Typeflag: tar.TypeReg, Mode: 0o644}, nil)
	put(tar.Header{Name: "etc/resolv.conf", Typeflag: tar.TypeReg, Mode: 0o644}, nil)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if err := s.Content.Push(ctx, d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	layerDesc := push(ocispec.MediaTypeImageLayer, layer.Bytes())
	created := time.Unix(1000000000, 0).UTC()
	config := ocispec.Image{
		Created: &created, Platform: content.Host(),
		Config:  ocispec.ImageConfig{Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}},
		RootFS:  ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
		History: []ocispec.History{{Created: &created, CreatedBy: "busybox"}},
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: push(ocispec.MediaTypeImageConfig, toJSON(t, config)), Layers: []ocispec.Descriptor{layerDesc},
	}
	target := push(ocispec.MediaTypeImageManifest, toJSON(t, manifest))
	if err := s.Images.Put(ctx, image.Image{Name: "docker.io/library/busybox:latest", Target: target, Created: created}); err != nil {
		t.Fatal(err)
	}
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// write makes files of the context, "name": "text"; directories as needed.
func (b *bench) write(files map[string]string) {
	b.t.Helper()
	for name, text := range files {
		path := filepath.Join(b.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
}

// A log is what a build told.
type log struct {
	mu     sync.Mutex
	ran    []string // names of steps of the Dockerfile that ran
	cached []string
	output strings.Builder
}

func (l *log) event(e solver.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, step, ok := strings.Cut(e.Name, "] ")
	switch {
	case e.Kind == solver.Log:
		l.output.Write(e.Data)
	case !ok || strings.HasPrefix(e.Name, "[internal]") || strings.HasPrefix(step, "FROM"):
	case e.Kind == solver.Running:
		l.ran = append(l.ran, step)
	case e.Kind == solver.Cached:
		l.cached = append(l.cached, step)
	}
}

// build builds the context with a Dockerfile of these lines.
func (b *bench) build(o Options, lines ...string) (Result, *log, error) {
	b.t.Helper()
	return b.buildCtx(b.t.Context(), o, lines...)
}

func (b *bench) buildCtx(ctx context.Context, o Options, lines ...string) (Result, *log, error) {
	b.t.Helper()
	if lines != nil {
		b.write(map[string]string{"Dockerfile": strings.Join(lines, "\n") + "\n"})
	}
	l := &log{}
	o.Events = l.event
	if o.Context == "" && o.ContextTar == nil {
		o.Context = b.dir
	}
	res, err := b.Build(ctx, o)
	return res, l, err
}

// must is build for one that has to succeed.
func (b *bench) must(o Options, lines ...string) (Result, *log) {
	b.t.Helper()
	res, l, err := b.build(o, lines...)
	if err != nil {
		b.t.Fatalf("build: %v\noutput:\n%s", err, l.output.String())
	}
	return res, l
}

// image reads the manifest and config of a result.
func (b *bench) image(res Result) content.Image {
	b.t.Helper()
	target, err := b.Store.Portable(b.t.Context(), res.Target, ocispec.MediaTypeImageLayerGzip)
	if err != nil {
		b.t.Fatal(err)
	}
	img, err := content.Resolve(b.t.Context(), b.Store.Content, target, content.Host())
	if err != nil {
		b.t.Fatal(err)
	}
	return img
}

// files lists the files of the image's layers above the first, as "path mode uid:gid text", sorted.
func (b *bench) files(res Result) []string {
	b.t.Helper()
	img := b.image(res)
	var list []string
	for i, d := range img.Manifest.Layers {
		if i == 0 && len(img.Config.History) > 0 && img.Config.History[0].CreatedBy == "busybox" {
			continue
		}
		list = append(list, b.layer(d)...)
	}
	slices.Sort(list)
	return list
}

func (b *bench) layer(d ocispec.Descriptor) []string {
	b.t.Helper()
	r, err := b.Store.Content.Fetch(b.t.Context(), d)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	plain, err := content.Decompress(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer plain.Close()
	var list []string
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			b.t.Fatal(err)
		}
		text, err := io.ReadAll(tr)
		if err != nil {
			b.t.Fatal(err)
		}
		what := string(text)
		if h.Linkname != "" {
			what = "-> " + h.Linkname
		}
		list = append(list, strings.TrimRight(fmt.Sprintf("%s %o %d:%d %s", h.Name, h.Mode, h.Uid, h.Gid, strings.TrimSpace(what)), " "))
	}
}

// manifest reads the manifest of a result, whether or not its layers are here.
func (b *bench) manifest(res Result) ocispec.Manifest {
	b.t.Helper()
	img, err := content.Resolve(b.t.Context(), b.Store.Content, res.Target, content.Host())
	if err != nil {
		b.t.Fatal(err)
	}
	return img.Manifest
}
