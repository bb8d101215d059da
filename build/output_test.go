package build

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

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

// TestOutputLocalKeepsTheTree: modes, links between files and FIFOs are as in the image, but nothing runs
// with the rights of another.
func TestOutputLocalKeepsTheTree(t *testing.T) {
	b := newBench(t)
	out := t.TempDir()
	b.must(Options{Outputs: []Output{{Type: "local", Dest: out}}}, "FROM busybox AS made",
		"RUN mkdir -p /o/shut /o/tmp && echo text >/o/shut/f && ln /o/shut/f /o/also && ln -s f /o/link && ln /o/link /o/shut/l2 && busybox mkfifo -m 622 /o/fifo "+
			"&& touch -d @1000 /o/shut/f /o/shut && chmod 500 /o/shut && chmod 1777 /o/tmp && cp /bin/true /o/suid && chmod 6755 /o/suid",
		"FROM scratch", "COPY --from=made /o /")
	var got []string
	err := filepath.WalkDir(out, func(p string, d os.DirEntry, err error) error {
		if err != nil || p == out {
			return err
		}
		info, err := d.Info()
		got = append(got, strings.TrimPrefix(p, out)+" "+info.Mode().String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/also -rw-r--r--", "/fifo prw--w--w-", "/link Lrwxrwxrwx", "/shut dr-x------", "/shut/f -rw-r--r--", "/shut/l2 Lrwxrwxrwx",
		"/suid -rwxr-xr-x", "/tmp dtrwxrwxrwx",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	one, err := os.Stat(filepath.Join(out, "also"))
	if err != nil {
		t.Fatal(err)
	}
	if two, err := os.Stat(filepath.Join(out, "shut/f")); err != nil || !os.SameFile(one, two) || one.ModTime().Unix() != 1000 {
		t.Errorf("the names of a file are several files, %v, of %v", err, one.ModTime())
	}
	if dir, err := os.Stat(filepath.Join(out, "shut")); err != nil || dir.ModTime().Unix() != 1000 {
		t.Errorf("the directory is of %v, %v", dir.ModTime(), err)
	}
}

// TestOutputOfADirectory: src chooses what tar and local write; its links lead nowhere else.
func TestOutputOfADirectory(t *testing.T) {
	b := newBench(t)
	lines := []string{"FROM busybox AS made", "RUN mkdir -p /o/d/sub && echo > /o/d/f && ln -s /d /o/link", "FROM scratch", "COPY --from=made /o /"}
	for src, want := range map[string][]string{"/d": {"f", "sub"}, "link/sub/..": {"f", "sub"}, "../d/sub": nil} {
		out := t.TempDir()
		var buf bytes.Buffer
		b.must(Options{Outputs: []Output{{Type: "local", Dest: out, Source: src}, {Type: "tar", Writer: &buf, Source: src}}}, lines...)
		var local, packed []string
		entries, err := os.ReadDir(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			local = append(local, e.Name())
		}
		for r := tar.NewReader(&buf); ; {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			packed = append(packed, strings.TrimSuffix(h.Name, "/"))
		}
		if !slices.Equal(local, want) || !slices.Equal(packed, want) {
			t.Errorf("%s gives %v and %v, want %v", src, local, packed, want)
		}
	}
	for src, want := range map[string]string{"/d/f": "src=/d/f: not a directory", "/none": "src=/none: no such file or directory"} {
		_, _, err := b.build(Options{Outputs: []Output{{Type: "local", Dest: t.TempDir(), Source: src}}}, lines...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
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
	// A context is no layer: names of whiteouts are those of files.
	for name, text := range map[string]string{
		"Dockerfile": "FROM scratch\nCOPY f .wh.w/x /\nCOPY .wh.f /w\nCOPY .wh..wh..opq /o\n", "f": "text", ".wh.f": "w", ".wh..wh..opq": "o", ".wh.w/x": "x",
	} {
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
	if diff := cmp.Diff([]string{"f 644 0:0 text", "o 644 0:0 o", "w 644 0:0 w", "x 644 0:0 x"}, b.files(res)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	res, _ = b.must(Options{Context: b.dir, DockerfileText: []byte("FROM scratch\nLABEL x=y\n")})
	if b.image(res).Config.Config.Labels["x"] != "y" {
		t.Error("the Dockerfile that was given as text did not count")
	}
}

// TestContextFromTheWeb: what a URL gives is a Dockerfile, or an archive, which may be large.
func TestContextFromTheWeb(t *testing.T) {
	loopback(t)
	b := newBench(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for name, text := range map[string]string{"Dockerfile": "FROM scratch\nCOPY f /\n", "f": "text", "large": strings.Repeat("x", 17<<20)} {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(http.FileServerFS(fstest.MapFS{
		"context.tar": {Data: buf.Bytes()},
		"one":         {Data: []byte("FROM scratch\nCOPY <<f /f\ntext\nf\n")},
	}))
	t.Cleanup(web.Close)
	for name, want := range map[string]string{"context.tar": "f 644 0:0 text", "one": "f 644 0:0 text"} {
		res, _ := b.must(Options{Context: web.URL + "/" + name})
		if diff := cmp.Diff([]string{want}, b.files(res)); diff != "" {
			t.Errorf("files of %s (-want +got):\n%s", name, diff)
		}
	}
}

// TestLargeFilesOfAContext: files that say how to build are not skipped because they are too large.
func TestLargeFilesOfAContext(t *testing.T) {
	for _, name := range []string{"Dockerfile", "Dockerfile.dockerignore", ".dockerignore"} {
		b := newBench(t)
		b.write(map[string]string{"Dockerfile": "FROM scratch\nCOPY . /\n"})
		b.write(map[string]string{name: "FROM scratch\nCOPY . /\n" + strings.Repeat("# "+strings.Repeat("x", 4096)+"\n", 4<<10)})
		if _, _, err := b.build(Options{}); err == nil || !strings.Contains(err.Error(), name+" exceeds") {
			t.Errorf("%s of 17 MB: got %v", name, err)
		}
	}
}

// reproducible are Dockerfiles whose images must not depend on where and when they are built.
var reproducible = map[string][]string{
	"files":        {"FROM busybox", "WORKDIR /w", "COPY d /d", "ADD d/f /e/", "RUN ln /e/f /e/g && echo x > /bin/new && rm /bin/seq"},
	"stages":       {"FROM busybox AS one", "COPY d /d", "RUN md5sum /d/f > /sums", "FROM busybox", "COPY --from=one /sums /", "ENV A=b", "CMD [\"cat\", \"/sums\"]"},
	"linked":       {"FROM busybox", "COPY --link --chmod=755 d/f /opt/deep/f", "COPY --link --chown=1000:2000 d /data/"},
	"heredocs":     {"FROM busybox", "COPY <<EOF /etc/motd", "hello", "EOF", "RUN <<EOF", "mkdir /a", "touch /a/b", "EOF"},
	"archives":     {"FROM busybox", "ADD d/a.tar /unpacked/"},
	"changes":      {"FROM busybox", "COPY d /d", "RUN rm -r /d && mkdir /d && chmod 700 /d && ln -s /nowhere /d/link && mv /bin/cat /bin/dog"},
	"scratch":      {"FROM scratch", "COPY d/f /f", "LABEL x=y", "COPY d/f /g"},
	"mounts":       {"FROM busybox", "RUN --mount=type=cache,target=/c --mount=type=bind,target=/src cp -r /src/d /copy && touch /c/x"},
	"owners":       {"FROM busybox", "COPY --chown=app:staff d /home/d", "USER app", "WORKDIR /home/app"},
	"the epoch":    {"FROM busybox", "ARG SOURCE_DATE_EPOCH", "RUN echo $SOURCE_DATE_EPOCH > /epoch"},
	"same layer":   {"FROM busybox", "COPY d/f /f", "RUN touch /x", "COPY d/f /f"},
	"empty layers": {"FROM busybox", "RUN true", "RUN true", "VOLUME /v", "EXPOSE 80"},
}

// TestSameInputSameDigest builds a corpus in two stores, at two places and times, on the second with a
// cache of layers that have other times.
func TestSameInputSameDigest(t *testing.T) {
	digests := [2]map[string]string{{}, {}}
	for i := range digests {
		b := newBench(t)
		b.dir = filepath.Join(b.dir, strings.Repeat("deep/", i))
		b.write(map[string]string{"d/f": "text", "d/z/y": "more"})
		b.writeTar("d/a.tar")
		for name, lines := range reproducible {
			if i == 1 {
				b.must(Options{}, lines...)
			}
			o := Options{Args: map[string]string{"SOURCE_DATE_EPOCH": "1000"}, Form: Form{Compression: "gzip"}}
			if i == 1 && name == "stages" {
				o.NoCache = true
			}
			res, _ := b.must(o, lines...)
			digests[i][name] = res.Target.Digest.String()
		}
		time.Sleep(1100 * time.Millisecond) // files of the two differ in whole seconds
	}
	if diff := cmp.Diff(digests[0], digests[1]); diff != "" {
		t.Errorf("digests (-first +second):\n%s", diff)
	}
}

// writeTar makes an archive of the context.
func (b *bench) writeTar(name string) {
	b.t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{{Name: "in/", Typeflag: tar.TypeDir, Mode: 0o755}, {Name: "in/f", Typeflag: tar.TypeReg, Mode: 0o644, Uid: 5}} {
		h.ModTime = time.Unix(500, 0)
		if err := w.WriteHeader(&h); err != nil {
			b.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.write(map[string]string{name: buf.String()})
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

// What is no regular file at dest stays what it is: somebody reads the FIFO, and /dev/null is the machine's.
func TestOutputIntoFIFO(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	for _, kind := range []string{"tar", "oci"} {
		dest := filepath.Join(t.TempDir(), "out")
		if err := unix.Mkfifo(dest, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(dest, os.O_RDWR, 0) // so that neither end waits for the other
		if err != nil {
			t.Fatal(err)
		}
		read := make(chan int64)
		go func() { n, _ := io.Copy(io.Discard, f); read <- n }()
		b.must(Options{Outputs: []Output{{Type: kind, Dest: dest}}}, "FROM busybox", "COPY f /f")
		if fi, err := os.Lstat(dest); err != nil || fi.Mode().Type() != os.ModeNamedPipe {
			t.Errorf("type=%s: it is %v now, %v", kind, fi.Mode(), err)
		}
		f.Close()
		if n := <-read; n == 0 {
			t.Errorf("type=%s: nothing came through", kind)
		}
	}
}
