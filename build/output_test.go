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

	"github.com/google/go-cmp/cmp"
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
