package engine

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/moby/moby/api/types/container"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/runner"
)

// archivePath is the path parameter of the archive operations.
func archivePath(r *request) (string, error) {
	if r.param("path") == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	if strings.ContainsRune(r.param("path"), 0) {
		return "", invalid("bad parameter: path has a zero byte: %q", r.param("path"))
	}
	return r.param("path"), nil
}

func setPathStat(w http.ResponseWriter, st runner.PathStat) error {
	b, err := json.Marshal(st)
	if err != nil {
		return err
	}
	w.Header().Set("X-Docker-Container-Path-Stat", base64.StdEncoding.EncodeToString(b))
	return nil
}

func (s *Server) statArchive(w http.ResponseWriter, r *request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	st, err := s.Containers.StatPath(r.Context(), r.name, path)
	if err != nil {
		return err
	}
	return setPathStat(w, st)
}

func (s *Server) getArchive(w http.ResponseWriter, r *request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	rc, st, err := s.Containers.CopyFrom(r.Context(), r.name, path)
	if err != nil {
		return err
	}
	defer rc.Close()
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	_, err = io.Copy(w, rc)
	return broken(err)
}

// broken ends a connection whose answer has begun and cannot be completed, so that the
// client does not take the part for the whole.
func broken(err error) error {
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

func (s *Server) putArchive(w http.ResponseWriter, r *request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	o := runner.CopyToOptions{NoOverwriteDirNonDir: r.flag("noOverwriteDirNonDir"), CopyUIDGID: r.flag("copyUIDGID")}
	if err := s.Containers.CopyTo(r.Context(), r.name, path, r.Body, o); err != nil {
		return err
	}
	// What fills up an archive behind its end is read too: what a connection still holds when it is closed is a
	// reset for the client, which may cost him the answer.
	io.CopyN(io.Discard, r.Body, maxFilling)
	w.WriteHeader(http.StatusOK)
	return nil
}

// maxFilling is how much may follow the end of an archive; tar makes 10 KB.
const maxFilling = 1 << 20

// counted knows whether anything was written.
type counted struct {
	io.Writer
	n int64
}

func (c *counted) Write(b []byte) (int, error) {
	n, err := c.Writer.Write(b)
	c.n += int64(n)
	return n, err
}

func (s *Server) export(w http.ResponseWriter, r *request) error {
	w.Header().Set("Content-Type", "application/octet-stream")
	out := &counted{Writer: w}
	err := s.Containers.Export(r.Context(), r.name, out)
	if out.n > 0 {
		return broken(err)
	}
	return err
}

func (s *Server) changes(w http.ResponseWriter, r *request) error {
	list, err := s.Containers.Changes(r.Context(), r.name)
	if err != nil {
		return err
	}
	out := []container.FilesystemChange{}
	for _, c := range list {
		out = append(out, container.FilesystemChange{Kind: container.ChangeType(c.Kind), Path: c.Path})
	}
	return writeJSON(w, http.StatusOK, out)
}

// commit answers POST /commit.
func (s *Server) commit(w http.ResponseWriter, r *request) error {
	var body container.Config
	if err := r.decode(&body); err != nil {
		return err
	}
	o := runner.CommitOptions{
		Author: r.param("author"), Comment: r.param("comment"), Pause: r.flagOr("pause", true), Changes: r.query["changes"],
	}
	if repo := r.param("repo"); repo != "" {
		o.Name = repo
		if tag := r.param("tag"); tag != "" {
			o.Name += ":" + tag
		}
	}
	var err error
	if o.Config, err = commitConfig(&body); err != nil {
		return err
	}
	id, err := s.Containers.Commit(r.Context(), r.param("container"), o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, container.CommitResponse{ID: id.String()})
}

// commitConfig is the configuration a client sent as that of an image, as JSON.
func commitConfig(c *container.Config) ([]byte, error) {
	out := struct {
		ocispec.ImageConfig
		Healthcheck    any      `json:",omitempty"`
		OnBuild, Shell []string `json:",omitempty"`
	}{
		ImageConfig: ocispec.ImageConfig{
			Cmd: c.Cmd, Entrypoint: c.Entrypoint, Env: c.Env, Labels: c.Labels, User: c.User, WorkingDir: c.WorkingDir,
			Volumes: c.Volumes, StopSignal: c.StopSignal,
		},
		OnBuild: c.OnBuild, Shell: c.Shell,
	}
	if c.Healthcheck != nil {
		out.Healthcheck = c.Healthcheck
	}
	for p := range c.ExposedPorts {
		if out.ExposedPorts == nil {
			out.ExposedPorts = map[string]struct{}{}
		}
		out.ExposedPorts[p.String()] = struct{}{}
	}
	return json.Marshal(out)
}
