package engine

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/storage"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/runner/inspect"
)

// inspectImage answers GET /images/NAME/json.
func (s *Server) inspectImage(w http.ResponseWriter, r *request) error {
	manifests := r.version >= 48 && r.flag("manifests")
	platform, err := r.platform(49)
	if err != nil {
		return err
	}
	if manifests && platform != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	d, err := s.Images(nil).Inspect(r.Context(), r.name, library.InspectOptions{Platform: platform})
	if err != nil {
		return err
	}
	out, err := imageInspectionOf(d, r.version)
	if err != nil {
		return err
	}
	if isComposeV1(r.UserAgent()) {
		out.ContainerConfig = out.Config
	}
	if manifests {
		users, err := s.imageUsers(r)
		if err != nil {
			return err
		}
		if out.Manifests, err = s.manifests(r, *d.Descriptor, users); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// imageInspection is docker's image (swagger, ImageInspect). Its own fields stand for those of the description
// that not every version has, or has when they are empty.
type imageInspection struct {
	library.Description
	Parent, Comment, Author, DockerVersion *string                 `json:",omitempty"`
	VirtualSize                            *int64                  `json:",omitempty"`
	Container                              *string                 `json:",omitempty"`
	ContainerConfig                        json.RawMessage         `json:",omitempty"`
	GraphDriver                            *storage.DriverData     `json:",omitempty"`
	Manifests                              []image.ManifestSummary `json:",omitempty"`
}

// imageInspectionOf gives a description the form of a version (CHANGELOG, 1.44 to 1.53).
func imageInspectionOf(d library.Description, v version) (imageInspection, error) {
	d.RepoTags, d.RepoDigests = inspect.List(d.RepoTags), inspect.List(d.RepoDigests)
	out := imageInspection{Description: d, Author: given(d.Author), Comment: given(d.Comment), Parent: given(d.Parent)}
	var none string
	if v < 52 {
		out.Author, out.Comment, out.Parent, out.DockerVersion = &d.Author, &d.Comment, &d.Parent, &none
		out.GraphDriver = &storage.DriverData{Name: "overlayfs"}
	}
	if v < 48 {
		out.Descriptor = nil
	}
	if v < 45 {
		out.Container = &none
	}
	if v < 44 {
		out.VirtualSize = &d.Size
		if d.Created == "" {
			out.Created = time.Time{}.Format(time.RFC3339)
		}
	}
	var err error
	out.Config, err = imageConfig(d.Config, v)
	if v < 45 {
		out.ContainerConfig = out.Config
	}
	return out, err
}

// isComposeV1 tells docker-compose 1.x, written in Python. It asks in the newest version it is told of, and looks for the
// volumes of an image in ContainerConfig when it makes a container anew, which docker has not had since 1.45.
func isComposeV1(userAgent string) bool { return strings.HasPrefix(userAgent, "docker-compose/1.") }

func given(text string) *string {
	if text == "" {
		return nil
	}
	return &text
}

// imageConfig leaves out of an image's configuration what is empty, or puts in what older versions had then.
func imageConfig(config json.RawMessage, v version) (json.RawMessage, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	if fields == nil { // "null"
		fields = map[string]json.RawMessage{}
	}
	put := func(empty string, names ...string) {
		for _, name := range names {
			if _, ok := fields[name]; !ok {
				fields[name] = json.RawMessage(empty)
			}
		}
	}
	for name, value := range fields {
		if slices.Contains([]string{"null", `""`, "[]", "{}"}, string(value)) {
			delete(fields, name)
		}
	}
	if v < 52 {
		put("null", "Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes")
		put(`""`, "User", "WorkingDir")
	}
	if v < 50 {
		put(`""`, "Hostname", "Domainname", "Image")
		put("false", "AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce")
	}
	return json.Marshal(fields)
}
