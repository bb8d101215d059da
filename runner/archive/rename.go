package archive

import (
	"archive/tar"
	"io"
	"strings"
)

// Rename copies a plain tar archive from r to w and calls its entries to and to/... that
// were called from and from/.... Of other entries the name stays.
func Rename(w io.Writer, r io.Reader, from, to string) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	rename := func(name string) string {
		rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "/"), strings.Trim(from, "/"))
		if !ok || rest != "" && rest[0] != '/' && strings.Trim(from, "/") != "" {
			return name
		}
		return to + "/" + strings.TrimPrefix(rest, "/")
	}
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		dir := strings.HasSuffix(h.Name, "/")
		h.Name = strings.TrimSuffix(rename(h.Name), "/")
		if dir {
			h.Name += "/"
		}
		if h.Typeflag == tar.TypeLink {
			h.Linkname = strings.TrimSuffix(rename(h.Linkname), "/")
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}
