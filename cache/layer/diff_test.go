package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/test/privilege"
	"golang.org/x/sys/unix"
)

// plain writes a tar again in the format that archive/tar takes by itself.
func plain(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		hdr.Format = tar.FormatUnknown
		if err := w.WriteHeader(hdr); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// headers lists what is in a tar.
func headers(t testing.TB, data []byte) (hdrs []tar.Header) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		hdr, err := r.Next()
		if err == io.EOF {
			return hdrs
		}
		if err != nil {
			t.Fatal(err)
		}
		hdrs = append(hdrs, *hdr)
	}
}

func adopted(t testing.TB, s *layer.Store, fill func(upper string)) layer.Layer {
	t.Helper()
	upper := filepath.Join(filepath.Dir(s.Path("x")), "..", "upper")
	if err := os.Mkdir(upper, 0o755); err != nil {
		t.Fatal(err)
	}
	fill(upper)
	l, err := s.Adopt(t.Context(), upper)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestDiff(t *testing.T) {
	privilege.NeedRoot(t)
	s := open(t, t.TempDir())
	young, old := time.Unix(1700000000, 999999999), time.Unix(1500000000, 1)
	l := adopted(t, s, func(upper string) {
		at := func(name string) string { return filepath.Join(upper, name) }
		must(t,
			os.Mkdir(at("dir"), 0o755), unix.Chmod(at("dir"), 0o1777),
			os.Mkdir(at("opaque"), 0o755), unix.Setxattr(at("opaque"), "trusted.overlay.opaque", []byte("y"), 0),
			unix.Mknod(at("gone"), unix.S_IFCHR, 0), unix.Mknod(at("opaque/gone"), unix.S_IFCHR, 0),
			os.WriteFile(at("file"), []byte("x"), 0o644), unix.Chown(at("file"), 1000, 3000000), unix.Chmod(at("file"), 0o4755),
			unix.Setxattr(at("file"), "user.k", []byte("v"), 0), unix.Setxattr(at("file"), "trusted.overlay.origin", []byte("o"), 0),
			unix.Link(at("file"), at("dir/again")),
			os.Symlink("/a/b", at("link")), unix.Link(at("link"), at("link2")),
			unix.Mkfifo(at("pipe"), 0o600), unix.Mknod(at("zero"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))), unix.Chmod(at("zero"), 0o666),
			unix.Mknod(at("socket"), unix.S_IFSOCK|0o666, 0),
			os.WriteFile(at(strings.Repeat("n", 150)), nil, 0o644),
			os.WriteFile(at("not\xffutf8"), nil, 0o644),
			os.Chtimes(at("file"), young, young), os.Chtimes(at("pipe"), old, old),
		)
	})
	var b, again bytes.Buffer
	epoch := time.Unix(1600000000, 0)
	must(t, s.Diff(t.Context(), l.ID, &b, layer.DiffOptions{Epoch: &epoch}))
	must(t, s.Diff(t.Context(), l.ID, &again, layer.DiffOptions{Epoch: &epoch}))
	if !bytes.Equal(b.Bytes(), again.Bytes()) {
		t.Error("two Diffs of one layer differ")
	}
	type row struct {
		Name, Link string
		Kind       byte
		Mode       int64
		UID, GID   int
		Time       int64
		Format     tar.Format
	}
	var got []row
	for _, h := range headers(t, b.Bytes()) {
		got = append(got, row{h.Name, h.Linkname, h.Typeflag, h.Mode, h.Uid, h.Gid, h.ModTime.Unix(), h.Format})
		if h.Name == "dir/again" && !cmp.Equal(h.PAXRecords["SCHILY.xattr.user.k"], "v") {
			t.Errorf("the attributes of %s: %v", h.Name, h.PAXRecords)
		}
	}
	e, ustar, pax := epoch.Unix(), tar.FormatUSTAR, tar.FormatPAX
	want := []row{
		{"dir/", "", tar.TypeDir, 0o1777, 0, 0, e, ustar},
		{"dir/again", "", tar.TypeReg, 0o4755, 1000, 3000000, e, pax},
		{"file", "dir/again", tar.TypeLink, 0o4755, 1000, 3000000, e, pax},
		{".wh.gone", "", tar.TypeReg, 0, 0, 0, 0, ustar},
		{"link", "/a/b", tar.TypeSymlink, 0o777, 0, 0, e, ustar},
		{"link2", "link", tar.TypeLink, 0o777, 0, 0, e, ustar},
		{strings.Repeat("n", 150), "", tar.TypeReg, 0o644, 0, 0, e, pax},
		{"not\xffutf8", "", tar.TypeReg, 0o644, 0, 0, e, pax},
		{"opaque/", "", tar.TypeDir, 0o755, 0, 0, e, ustar},
		{"opaque/.wh..wh..opq", "", tar.TypeReg, 0, 0, 0, 0, ustar},
		{"opaque/.wh.gone", "", tar.TypeReg, 0, 0, 0, 0, ustar},
		{"pipe", "", tar.TypeFifo, 0o600, 0, 0, old.Unix(), ustar},
		{"zero", "", tar.TypeChar, 0o666, 0, 0, e, ustar},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestDiffRefusals(t *testing.T) {
	privilege.NeedRoot(t)
	for name, tc := range map[string]struct {
		fill func(upper string) error
		want error
	}{
		"whiteout name":              {func(u string) error { return os.WriteFile(filepath.Join(u, ".wh.etc"), nil, 0o644) }, errdefs.ErrInvalidArgument},
		"whiteout name as directory": {func(u string) error { return os.Mkdir(filepath.Join(u, ".wh..wh..opq"), 0o755) }, errdefs.ErrInvalidArgument},
		"redirect": {func(u string) error {
			return errors.Join(os.Mkdir(filepath.Join(u, "d"), 0o755), unix.Setxattr(filepath.Join(u, "d"), "trusted.overlay.redirect", []byte("/x"), 0))
		}, errdefs.ErrFailedPrecondition},
		"metacopy": {func(u string) error {
			return errors.Join(os.WriteFile(filepath.Join(u, "f"), nil, 0o644), unix.Setxattr(filepath.Join(u, "f"), "trusted.overlay.metacopy", nil, 0))
		}, errdefs.ErrFailedPrecondition},
	} {
		s := open(t, filepath.Join(t.TempDir(), "layers"))
		l := adopted(t, s, func(upper string) { must(t, tc.fill(upper)) })
		if _, err := s.Seal(t.Context(), l.ID, nil); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
		if got, err := s.Get(l.ID); err != nil || got.DiffID != "" {
			t.Errorf("%s: the layer is %+v, %v after that", name, got, err)
		}
	}
}
