package engine

import (
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/cache/library"
)

// importImage answers POST /images/create?fromSrc=: the files in the body, or behind a
// URL, become an image.
func (s *Server) importImage(w http.ResponseWriter, r *request) error {
	src := r.param("fromSrc")
	platform, err := parsePlatform(r.param("platform"))
	if err != nil {
		return err
	}
	o := library.ImportOptions{Message: r.param("message"), Changes: r.query["changes"], Platform: platform}
	if repo := r.param("repo"); repo != "" {
		ref, err := parseRef(repo, r.param("tag"))
		if err != nil {
			return err
		}
		o.Name = ref.String()
	}
	if o.Message == "" {
		o.Message = "Imported from " + src
	}
	p := &progressWriter{w: newFlusher(w)}
	files := io.ReadCloser(r.Body)
	if src != "-" {
		if files, err = download(r, p, src); err != nil {
			return p.end(err)
		}
	}
	defer files.Close()
	id, err := s.Images(nil).Import(r.Context(), files, o)
	if err != nil {
		return p.end(err)
	}
	return p.send(progressJSON{Status: id.String()})
}

func download(r *request, p *progressWriter, src string) (io.ReadCloser, error) {
	if !strings.HasPrefix(src, "http://") && !strings.HasPrefix(src, "https://") {
		src = "http://" + src
	}
	req, err := http.NewRequestWithContext(r.Context(), http.MethodGet, src, nil)
	if err != nil {
		return nil, invalid("fromSrc: %s", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		if resp.StatusCode == http.StatusNotFound {
			return nil, worded(errdefs.ErrNotFound, "downloading %s: the server answered %s", src, resp.Status)
		}
		return nil, fmt.Errorf("downloading %s: the server answered %s", src, resp.Status)
	}
	p.send(progressJSON{Status: "Downloading from " + src})
	return resp.Body, nil
}
