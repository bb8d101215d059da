package runner

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/statefile"
	"github.com/teu-dev/teu/dockerfile"
	"github.com/teu-dev/teu/runner/keeper"
	"github.com/teu-dev/teu/test/privilege"
)

// The test binary is also the keeper, and the teu that keepers execute to finish.
func TestMain(m *testing.M) {
	switch {
	case os.Args[0] == "teu-keeper":
		os.Exit(keeper.Main(os.Args[1:]))
	case len(os.Args) == 8 && os.Args[6] == "finish":
		e := open(os.Args[2], os.Args[4])
		if err := e.Finish(context.Background(), os.Args[7]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	case len(os.Args) == 5 && os.Args[1] == "fill":
		if err := fillForTest(os.Args[2], os.Args[3], os.Args[4]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(root, runRoot string) *Engine {
	return Open(Parts{
		Root: root, RunRoot: runRoot, Exe: "/proc/self/exe", Change: dockerfile.Change,
		Store: sync.OnceValues(func() (*cache.Store, error) { return cache.Open(root, runRoot) }),
		Keeper: sync.OnceValues(func() (*keeper.Binary, error) {
			elf, err := os.ReadFile("/proc/self/exe")
			if err != nil {
				return nil, err
			}
			return keeper.Seal(elf)
		}),
	})
}

// newEngine returns the engine of a new root with an image "busybox" in it. All that is
// made is gone after the test, or the test fails.
func newEngine(t *testing.T) *Engine {
	t.Helper()
	privilege.NeedRoot(t)
	parent := ""
	if _, err := os.Stat("/dev/shm"); err == nil {
		parent = "/dev/shm"
	}
	dir, err := os.MkdirTemp(parent, "teu-runner-")
	if err != nil {
		t.Fatal(err)
	}
	e := open(filepath.Join(dir, "root"), filepath.Join(dir, "run"))
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e.Exe = exe
	t.Cleanup(func() {
		ctx := context.Background()
		all, err := e.List(ctx)
		for _, c := range all {
			err = errors.Join(err, e.Remove(ctx, c.ID, RemoveOptions{Force: true, Volumes: true}))
			awaitKeeper(c)
		}
		if err := errors.Join(err, e.network.Reset(ctx), statefile.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	addImage(t, e)
	return e
}

// awaitKeeper waits until a keeper has let go of its files.
func awaitKeeper(c *Container) {
	for end := time.Now().Add(time.Minute); c.State.Keeper.Alive() && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
	}
}

func addImage(t *testing.T, e *Engine) {
	t.Helper()
	ctx := t.Context()
	s, err := e.Store()
	if err != nil {
		t.Fatal(err)
	}
	unpin, err := s.Pin(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer unpin()
	layer := busyboxLayer(t)
	layerDesc := put(t, s.Content, ocispec.MediaTypeImageLayer, layer)
	config, err := json.Marshal(ocispec.Image{
		Platform: content.Host(),
		Config: ocispec.ImageConfig{
			Env: []string{"PATH=/bin"}, Cmd: []string{"sh"}, WorkingDir: "/",
			Volumes: map[string]struct{}{"/vol": {}}, Labels: map[string]string{"of": "image"},
		},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDesc.Digest}},
	})
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(t, s.Content, ocispec.MediaTypeImageConfig, config), Layers: []ocispec.Descriptor{layerDesc},
	})
	if err != nil {
		t.Fatal(err)
	}
	target := put(t, s.Content, ocispec.MediaTypeImageManifest, manifest)
	if err := s.Images.Put(ctx, image.Image{Name: "docker.io/library/busybox:latest", Target: target, Created: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, p content.Pusher, mediaType string, b []byte) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	if err := p.Push(t.Context(), d, bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	return d
}

// busyboxLayer is a root filesystem with a busybox, users, and something in /vol.
func busyboxLayer(t *testing.T) []byte {
	t.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("these tests need /bin/busybox, statically linked: ", err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, data string) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "root/", "home/", "proc/", "sys/", "dev/"} {
		add(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, "")
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, "")
	add(tar.Header{Typeflag: tar.TypeDir, Name: "home/dev/", Mode: 0o755, Uid: 1000, Gid: 1000}, "")
	add(tar.Header{Typeflag: tar.TypeDir, Name: "vol/", Mode: 0o750, Uid: 1000, Gid: 1000}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "vol/file", Mode: 0o640, Uid: 1000, Gid: 1000}, "of the image\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, "root:x:0:0:root:/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/sh\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, "root:x:0:\ndev:x:1000:\naudio:x:29:dev\n")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, string(busybox))
	for name := range strings.FieldsSeq("sh cat echo sleep id ls mount touch kill true false head tr wc grep ps hostname stty tty seq stat env date ip rm") {
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"}, "")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// sh are the options of a container that runs a shell command without a network.
func sh(script string) Options {
	return Options{Image: "busybox", Args: []string{"sh", "-c", script}, Network: "none"}
}

// run runs a container in the foreground and returns what it said and how it ended.
func run(t *testing.T, e *Engine, o Options) (stdout, stderr string, status keeper.ExitStatus) {
	t.Helper()
	o.AttachStdout, o.AttachStderr = true, true
	c, err := e.Create(t.Context(), "", o)
	if err != nil {
		t.Fatal(err)
	}
	s, err := e.Start(t.Context(), c.ID, StartOptions{Attach: &keeper.AttachOptions{Stdout: true, Stderr: true}})
	if err != nil {
		t.Fatal(err)
	}
	var a, b bytes.Buffer
	status, err = s.Copy(t.Context(), &a, &b)
	if err != nil {
		t.Fatal(err)
	}
	return a.String(), b.String(), status
}

// detached starts a container in the background.
func detached(t *testing.T, e *Engine, name string, o Options) *Container {
	t.Helper()
	c, err := e.Create(t.Context(), name, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Start(t.Context(), c.ID, StartOptions{}); err != nil {
		t.Fatal(err)
	}
	return get(t, e, c.ID)
}

func get(t *testing.T, e *Engine, ref string) *Container {
	t.Helper()
	c, err := e.Get(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func await(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	t.Fatal("waited in vain: ", what)
}
