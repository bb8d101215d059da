package build

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
)

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

func TestOutputLocal(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"bin/tool": "tool"})
	if err := os.Symlink("/etc/passwd", filepath.Join(b.dir, "bin/link")); err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	// What is there must not lead us out of the directory.
	if err := os.Symlink(t.TempDir(), filepath.Join(out, "sub")); err != nil {
		t.Fatal(err)
	}
	res, _ := b.must(Options{Outputs: []Output{{Type: "local", Dest: out}}}, "FROM scratch", "COPY bin /sub/bin")
	if res.Target.Digest != "" {
		t.Error("an image was made although only files were wanted")
	}
	if fi, err := os.Lstat(filepath.Join(out, "sub")); err != nil || !fi.IsDir() {
		t.Fatalf("sub is %v, %v", fi, err)
	}
	if got, err := os.ReadFile(filepath.Join(out, "sub/bin/tool")); err != nil || string(got) != "tool" {
		t.Errorf("tool is %q, %v", got, err)
	}
	if got, err := os.Readlink(filepath.Join(out, "sub/bin/link")); err != nil || got != "/etc/passwd" {
		t.Errorf("link is %q, %v", got, err)
	}
}

func TestOutputTar(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	var buf bytes.Buffer
	b.must(Options{
		Outputs: []Output{{Type: "tar", Writer: &buf}},
		Args:    map[string]string{"SOURCE_DATE_EPOCH": "1000"},
	}, "FROM scratch", "COPY --chown=5:6 f /d/f")
	var got []string
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
		if h.ModTime.After(time.Unix(1000, 0)) {
			t.Errorf("%s is of %v", h.Name, h.ModTime)
		}
		if h.Name == "d/f" && (h.Uid != 5 || h.Gid != 6) {
			t.Errorf("d/f belongs to %d:%d", h.Uid, h.Gid)
		}
	}
	if diff := cmp.Diff([]string{"d/", "d/f"}, got); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}

func TestContextOfATar(t *testing.T) {
	b := newBench(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "text"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text)), Uid: 77}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	res, _ := b.must(Options{ContextTar: &buf})
	if diff := cmp.Diff([]string{"f 644 0:0 text"}, b.files(res)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	res, _ = b.must(Options{Context: b.dir, DockerfileText: []byte("FROM scratch\nLABEL x=y\n")})
	if b.image(res).Config.Config.Labels["x"] != "y" {
		t.Error("the Dockerfile that was given as text did not count")
	}
}

// TestSameInputSameDigest builds in two stores, at two places and times.
func TestSameInputSameDigest(t *testing.T) {
	var digests []string
	dockerfile := []string{"FROM busybox", "WORKDIR /w", "COPY d /d", "ADD d/f /e/", "RUN ln /e/f /e/g && echo x > /bin/new && rm /bin/seq"}
	for i := range 2 {
		b := newBench(t)
		b.write(map[string]string{"d/f": "text"})
		if i == 1 {
			b.must(Options{}, dockerfile...) // its layers are found, and have other times
		}
		res, _ := b.must(Options{Args: map[string]string{"SOURCE_DATE_EPOCH": "1000"}}, dockerfile...)
		digests = append(digests, res.Target.Digest.String())
		time.Sleep(1100 * time.Millisecond) // files of the two differ in whole seconds
	}
	if digests[0] != digests[1] {
		t.Errorf("got %s and %s", digests[0], digests[1])
	}
}

// TestLocalImageIsNotCompressed holds that a build for this machine makes no blobs of layers, that
// such an image can be built upon, and that it gets them, once, when it is to leave.
func TestLocalImageIsNotCompressed(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	res, _ := b.must(Options{Tags: []string{"plain"}}, "FROM busybox", "COPY f /f", "RUN echo x > /g")
	img, err := content.Resolve(t.Context(), b.Store.Content, res.Target, content.Host())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range img.Manifest.Layers[1:] {
		if l.MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("layer of type %s", l.MediaType)
		}
		if _, err := b.Store.Content.Stat(t.Context(), l.Digest); !errdefs.IsNotFound(err) {
			t.Errorf("the blob of layer %s: %v", l.Digest, err)
		}
	}
	upon, _ := b.must(Options{Tags: []string{"upon"}}, "FROM plain", "RUN cat /f /g > /h")
	if files := b.files(upon); !slices.Contains(files, "h 644 0:0 textx") {
		t.Errorf("files of the image upon it: %q", files)
	}
	b.write(map[string]string{"Dockerfile": "FROM busybox\nCOPY f /f\nRUN echo x > /g\n"})
	packed, _ := b.must(Options{Tags: []string{"plain"}, Outputs: []Output{{Type: "image"}, {Type: "oci", Writer: io.Discard}}})
	if packed.Config != res.Config {
		t.Errorf("the image ID became %s, it was %s", packed.Config, res.Config)
	}
	again, _ := b.must(Options{Tags: []string{"plain"}})
	if again.Target.Digest != packed.Target.Digest {
		t.Errorf("the manifest became %s, it was %s", again.Target.Digest, packed.Target.Digest)
	}
	all, err := b.Store.Images.All(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, img := range all {
		if img.Name == "" {
			t.Errorf("a dangling image %s is left", img.Target.Digest)
		}
	}
	if problems, err := b.Store.Check(t.Context()); err != nil || len(problems) != 0 {
		t.Errorf("problems %v, %v", problems, err)
	}
}
