package build

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A sentinel is a tree of the host that a hostile build is after.
type sentinel struct {
	dir  string
	want []string
}

const hostSecret = "the host's secret"

func newSentinel(t *testing.T) *sentinel {
	t.Helper()
	s := &sentinel{dir: t.TempDir()}
	for name, text := range map[string]string{"secret": hostSecret, "etc/passwd": hostSecret, "empty": "", "sub/y/f": hostSecret} {
		path := filepath.Join(s.dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.dir, "void/y"), 0o755); err != nil {
		t.Fatal(err)
	}
	s.want = s.state(t)
	return s
}

// state describes every file, down to its inode.
func (s *sentinel) state(t *testing.T) (list []string) {
	t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st, text := fi.Sys().(*syscall.Stat_t), []byte(nil)
		if d.Type().IsRegular() {
			if text, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		list = append(list, fmt.Sprintf("%s %v %d %d:%d %d %q", path, fi.Mode(), st.Ino, st.Uid, st.Gid, fi.ModTime().UnixNano(), text))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// unharmed holds that nothing was changed, and that the build got no secret.
func (s *sentinel) unharmed(t *testing.T, b *bench, res Result, l *log) {
	t.Helper()
	if diff := cmp.Diff(s.want, s.state(t)); diff != "" {
		t.Errorf("the host changed (-was +is):\n%s", diff)
	}
	if strings.Contains(l.output.String(), hostSecret) {
		t.Error("a command has read the host's secret")
	}
	if res.Target.Digest == "" {
		return
	}
	for _, f := range b.files(res) {
		if strings.Contains(f, hostSecret) {
			t.Errorf("the image has the host's secret: %s", f)
		}
	}
}

// TestHostileDockerfiles builds what attacks on builders since 2019 looked like. Each may fail or
// succeed; the host is the same afterwards, and its secret stays there.
func TestHostileDockerfiles(t *testing.T) {
	cases := map[string]struct {
		lines []string // HOST is the directory of the host that is attacked
		fails string   // "" if it may succeed
	}{
		"CVE-2024-23651 a cache mount's directory is a link": {lines: []string{"FROM busybox",
			"RUN --mount=type=cache,id=a,target=/c ln -s HOST /c/sub",
			"RUN --mount=type=cache,id=a,source=sub,target=/m cat /m/secret; touch /m/evil; true"}},
		"CVE-2024-23652 a mount point is replaced by a link": {lines: []string{"FROM busybox",
			"RUN --mount=type=tmpfs,target=/x/y mv /x /z; ln -s HOST/void /x"}},
		"CVE-2024-23652 the file of a mount point, too": {lines: []string{"FROM busybox",
			"RUN --mount=type=secret,id=s,target=/x/empty mv /x /z; ln -s HOST /x"}},
		"CVE-2024-23653 privileges without leave":         {lines: []string{"FROM busybox", "RUN --security=insecure cat HOST/secret"}, fails: "security.insecure"},
		"CVE-2024-23653 the host's network without leave": {lines: []string{"FROM busybox", "RUN --network=host true"}, fails: "network.host"},
		"CVE-2024-23653 a device":                         {lines: []string{"FROM busybox", "RUN --device=vendor.com/device,required true"}, fails: "device"},
		"CVE-2024-1753 the source of a bind mount is a link": {lines: []string{"FROM busybox AS s", "RUN ln -s HOST /link && ln -s / /root-link",
			"FROM busybox", "RUN --mount=type=bind,from=s,source=/link,target=/m,rw cat /m/secret; touch /m/evil; true"}},
		"CVE-2024-1753 it is the root": {lines: []string{"FROM busybox AS s", "RUN ln -s / /root-link",
			"FROM busybox", "RUN --mount=type=bind,from=s,source=/root-linkHOST,target=/m,rw cat /m/secret; touch /m/evil; true"}},
		"CVE-2024-9407 dots in the source of a mount": {lines: []string{"FROM busybox",
			"RUN --mount=type=bind,source=../../../../../../../..HOST,target=/m,rw cat /m/secret; touch /m/evil; true"}},
		"CVE-2024-9675 dots in the id of a cache": {lines: []string{"FROM busybox",
			"RUN --mount=type=cache,id=../../../../../../../../../..HOST,target=/c cat /c/secret; touch /c/evil; true"}},
		"CVE-2024-9675 an absolute id": {lines: []string{"FROM busybox", "RUN --mount=type=cache,id=HOST,target=/c cat /c/secret; touch /c/evil; true"}},
		"a mount on a link":            {lines: []string{"FROM busybox AS s", "RUN ln -s HOST /m", "FROM s", "RUN --mount=type=tmpfs,target=/m/sub touch /m/sub/evil; true"}},
		"a mount over the root":        {lines: []string{"FROM busybox", "RUN --mount=type=bind,target=/ true"}, fails: "invalid mount target"},
		"a working directory behind a link": {lines: []string{"FROM busybox AS s", "RUN ln -s HOST /w && ln -s /proc/self/fd/7 /fd",
			"FROM s", "WORKDIR /w/evil", "RUN pwd; touch here", "WORKDIR /fd/evil"}},
		"a copy to a link": {lines: []string{"FROM busybox AS s", "RUN ln -s HOST /d && ln -s HOST/evil /e",
			"FROM s", "COPY f /d/evil", "COPY f /e", "ADD x.tar /d/", "COPY --chown=1:1 --chmod=777 f /d/sub/y/f"}},
		"a copy of a link of a stage":                     {lines: []string{"FROM busybox AS s", "RUN ln -s HOST /d", "FROM scratch", "COPY --from=s /d/secret /x"}, fails: "secret"},
		"CVE-2019-13139 a git ref that is an option":      {lines: []string{"FROM scratch", "ADD https://127.0.0.1:1/x.git#--upload-pack=touch$IFS'HOST/evil' /"}, fails: "git"},
		"CVE-2026-33747 a frontend from elsewhere":        {lines: []string{"# syntax=127.0.0.1:1/evil/frontend", "FROM scratch"}, fails: "not built in"},
		"CVE-2023-26054 the password of a repository":     {lines: []string{"FROM scratch", "ADD https://user:hunter2@127.0.0.1:1/x.git /"}, fails: "127.0.0.1"},
		"a name of a user that is a FIFO":                 {lines: []string{"FROM busybox AS s", "RUN rm /etc/passwd && mkfifo /etc/passwd", "FROM s", "COPY --chown=app f /x"}, fails: "passwd"},
		"names of users are a link to the host":           {lines: []string{"FROM busybox AS s", "RUN ln -sf HOST/etc/passwd /etc/passwd", "FROM s", "COPY --chown=app f /x"}},
		"a layer that is a whiteout of the root's parent": {lines: []string{"FROM busybox", "RUN touch /..wh...x /.wh.etc || true"}, fails: ".wh."},
		"a variable of a terabyte": {lines: []string{"FROM scratch", "ARG A=xxxxxxxxxx", "ARG B=" + strings.Repeat("$A", 1000), "ARG C=" + strings.Repeat("$B", 1000),
			"ARG D=" + strings.Repeat("$C", 1000), "ARG E=" + strings.Repeat("$D", 1000), "LABEL l=$E"}, fails: "value of C would be too large"},
		"a variable of a terabyte in ONBUILD": {lines: []string{"FROM busybox AS s", "ONBUILD ENV A=xxxxxxxxxx", "ONBUILD ENV B=" + strings.Repeat("$A", 1000), "ONBUILD ENV C=" + strings.Repeat("$B", 1000),
			"ONBUILD ENV D=" + strings.Repeat("$C", 1000), "FROM s"}, fails: "value of C would be too large"},
		"device nodes of the host's disks in COPY and RUN":   {lines: []string{"FROM busybox", "RUN mknod /disk b 8 0; cat /disk; true", "RUN head -c1 /disk 2>&1 | grep -i 'permitted\\|No such device\\|denied'"}},
		"a command that leaves processes behind on a volume": {lines: []string{"FROM busybox", "RUN --mount=type=cache,target=/c (while :; do touch /c/alive; sleep 0.01; done) & sleep 0.05"}},
	}
	b := newBench(t)
	b.write(map[string]string{"f": "text"})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "evil", Typeflag: tar.TypeDir, Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	b.write(map[string]string{"x.tar": buf.String()})
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			host := newSentinel(t)
			lines := slices.Clone(c.lines)
			for i := range lines {
				lines[i] = strings.ReplaceAll(lines[i], "HOST", host.dir)
			}
			res, l, err := b.build(Options{Secrets: map[string]Secret{"s": {File: filepath.Join(b.dir, "f")}}}, lines...)
			host.unharmed(t, b, res, l)
			switch {
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("got %v, want an error with %q", err, c.fails)
			case err != nil && strings.Count(err.Error(), "hunter2") > 1: // once are the words of the Dockerfile
				t.Errorf("the password is told: %v", err)
			case c.fails == "" && err != nil:
				t.Logf("it fails: %v", err)
			}
		})
	}
}

// TestHostileContexts is CVE-2022-4122, CVE-2022-4123 and CVE-2026-44517: links of a context lead out
// of it, and archives write out of the directory they are unpacked into.
func TestHostileContexts(t *testing.T) {
	b := newBench(t)
	host := newSentinel(t)
	for name, target := range map[string]string{".dockerignore": "secret", "Dockerfile.link": "secret", "file": "secret", "dir": ""} {
		if err := os.Symlink(filepath.Join(host.dir, target), filepath.Join(b.dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, lines := range [][]string{
		{"FROM scratch", "COPY file /x"}, {"FROM scratch", "COPY dir/secret /x"}, {"FROM scratch", "COPY dir/ /x/"},
		{"FROM scratch", "ADD file /x"}, {"FROM scratch", "COPY di*/secret /x"}, {"FROM busybox", "RUN --mount=source=file,target=/m cat /m"},
		{"FROM busybox", "RUN --mount=source=dir,target=/m,rw cat /m/secret; touch /m/evil"},
		{"FROM busybox", "RUN --mount=target=/m,rw cat /m/dir/secret; touch /m/dir/evil"}, {"FROM scratch", "COPY . /"},
	} {
		res, l, err := b.build(Options{}, lines...)
		host.unharmed(t, b, res, l)
		if lines[1] == "COPY file /x" && err == nil {
			t.Errorf("%q: no error", lines)
		}
	}
	if _, _, err := b.build(Options{Dockerfile: filepath.Join(b.dir, "Dockerfile.link")}); err == nil || strings.Contains(err.Error(), hostSecret) {
		t.Errorf("a Dockerfile that is a link: %v", err)
	}
	// A million regular expressions of 3 KB each.
	b.write(map[string]string{"many/.dockerignore": strings.Repeat("*a*\n", 1_000_000), "many/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n"})
	_, _, err := b.build(Options{Context: filepath.Join(b.dir, "many")})
	if err == nil || !strings.Contains(err.Error(), ".dockerignore: 1000000 lines with wildcards") {
		t.Errorf("a .dockerignore of a million lines: %v", err)
	}
	entries := map[string]tar.Header{
		"dots":           {Name: "../../../../../../../.." + host.dir + "/evil", Typeflag: tar.TypeReg},
		"absolute":       {Name: host.dir + "/evil", Typeflag: tar.TypeReg},
		"link":           {Name: "l", Typeflag: tar.TypeSymlink, Linkname: host.dir},
		"through a link": {Name: "l/evil", Typeflag: tar.TypeReg},
		"hard link":      {Name: "h", Typeflag: tar.TypeLink, Linkname: "../../../../../../.." + host.dir + "/secret"},
		"link's target":  {Name: "k", Typeflag: tar.TypeLink, Linkname: "l/secret"},
		"device":         {Name: "d", Typeflag: tar.TypeBlock, Devmajor: 8},
	}
	for name, h := range entries {
		var buf bytes.Buffer
		w := tar.NewWriter(&buf)
		list := []tar.Header{{Name: "Dockerfile", Typeflag: tar.TypeReg, Size: 23}, h}
		if strings.HasPrefix(h.Name, "l/") || h.Linkname == "l/secret" {
			list = slices.Insert(list, 1, entries["link"])
		}
		for _, h := range list {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if h.Size > 0 {
				if _, err := w.Write([]byte("FROM scratch\nCOPY . /\n\n")[:h.Size]); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		archive := buf.Bytes()
		res, l, err := b.build(Options{ContextTar: bytes.NewReader(archive)})
		host.unharmed(t, b, res, l)
		if err != nil {
			t.Logf("%s: %v", name, err)
		}
		b.write(map[string]string{"evil.tar": string(archive)})
		res, l, _ = b.build(Options{}, "FROM busybox", "ADD evil.tar /to/")
		host.unharmed(t, b, res, l)
	}
}

// TestDockerfileInTar: the path of a Dockerfile is one of the tar's tree, whatever links it has.
func TestDockerfileInTar(t *testing.T) {
	b := newBench(t)
	host := newSentinel(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: host.dir},
		{Name: "in", Typeflag: tar.TypeSymlink, Linkname: "/sub"},
		{Name: "sub/linked", Typeflag: tar.TypeSymlink, Linkname: "../file"},
		{Name: "file", Typeflag: tar.TypeReg, Size: 28},
	} {
		h.Mode = 0o755
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, "FROM scratch\nCOPY file /to/\n"); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"out/secret": "out/secret: no such file", "../file": "not in the build context", "/../../etc/passwd": "open etc/passwd: no such file",
		"/file": "", "sub/../file": "", "in/linked": "", "./sub/linked": "",
	} {
		_, _, err := b.build(Options{ContextTar: bytes.NewReader(buf.Bytes()), Dockerfile: path})
		if want == "" && err == nil {
			continue
		}
		if want == "" || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), hostSecret) {
			t.Errorf("%s: got %v, want %q", path, err, want)
		}
	}
}

// TestHostileLayout opens an OCI layout whose index is a FIFO that nobody writes to: a build must not wait for it.
func TestHostileLayout(t *testing.T) {
	b := newBench(t)
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "index.json"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, _, err := b.build(Options{Contexts: map[string]string{"l": "oci-layout://" + dir}}, "FROM l")
	if err == nil || !strings.Contains(err.Error(), "is no file") {
		t.Errorf("got %v", err)
	}
}

// TestRacingContexts swaps a directory of the context, and of a cache mount, for a link to the host
// all the time (CVE-2024-11218, CVE-2024-23651): builds may fail, they never see the host.
func TestRacingContexts(t *testing.T) {
	b := newBench(t)
	host := newSentinel(t)
	b.write(map[string]string{"d/secret": "harmless", "d/sub/f": "harmless"})
	if err := os.Symlink(host.dir, filepath.Join(b.dir, "e")); err != nil {
		t.Fatal(err)
	}
	b.must(Options{}, "FROM busybox", "RUN --mount=type=cache,id=race,target=/c mkdir /c/d && ln -s "+host.dir+" /c/e")
	caches, err := filepath.Glob(filepath.Join(b.Store.Root(), "build", "*", "*", "*", "e"))
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob(filepath.Join(b.Store.Root(), "build", "*", "*", "e"))
	dirs := []string{b.dir}
	for _, c := range append(caches, more...) {
		dirs = append(dirs, filepath.Dir(c))
	}
	if len(dirs) < 2 {
		t.Fatal("the cache mount is not where it is looked for")
	}
	ctx, stop := context.WithCancel(t.Context())
	var turns atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil || turns.Load() < 10000 {
			for _, dir := range dirs {
				_ = unix.Renameat2(unix.AT_FDCWD, filepath.Join(dir, "d"), unix.AT_FDCWD, filepath.Join(dir, "e"), unix.RENAME_EXCHANGE)
			}
			turns.Add(1)
		}
	}()
	built, rounds := 0, 8
	if os.Getenv("TEU_SOAK") != "" {
		rounds = 200
	}
	for i := range rounds {
		for _, step := range []string{
			"RUN --mount=source=d,target=/m,rw cat /m/secret; touch /m/evil; true",
			"RUN --mount=type=cache,id=race,source=d,target=/c cat /c/secret; touch /c/evil; true",
			"COPY d /d", "COPY d/secret /s", "COPY d/s* /w/",
		} {
			res, l, err := b.build(Options{}, "FROM busybox", fmt.Sprintf("ENV N=%d", i), step)
			host.unharmed(t, b, res, l)
			if err == nil {
				built++
			}
		}
	}
	stop()
	<-done
	t.Logf("%d builds of %d came to an end, %d turns", built, 5*rounds, turns.Load())
}

// TestForgedHistory is CVE-2024-24557: an image that claims the history of another is no hit for what
// was built on that.
func TestForgedHistory(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "good", "g": "evil"})
	b.must(Options{Tags: []string{"good"}}, "FROM busybox", "COPY f /f")
	b.must(Options{Tags: []string{"evil"}}, "FROM busybox", "COPY g /f")
	b.must(Options{}, "FROM good", "RUN cat /f > /out")
	res, l := b.must(Options{}, "FROM evil", "RUN cat /f > /out")
	if len(l.ran) != 1 {
		t.Errorf("ran %q", l.ran)
	}
	if files := b.files(res); !slices.Contains(files, "out 644 0:0 evil") {
		t.Errorf("files %q", files)
	}
}
