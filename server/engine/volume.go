package engine

import (
	"net/http"
	"time"

	"github.com/moby/moby/api/types/volume"

	"github.com/teu-dev/teu/runner"
)

func volumeOf(v runner.Volume) volume.Volume {
	return volume.Volume{
		Name: v.Name, Driver: v.Driver, Mountpoint: v.Mountpoint, CreatedAt: v.CreatedAt.UTC().Format(time.RFC3339),
		Labels: v.Labels, Options: v.Options, Scope: v.Scope,
	}
}

func (s *Server) listVolumes(w http.ResponseWriter, r *request) error {
	filters, err := r.filters()
	if err != nil {
		return err
	}
	all, err := s.Containers.Volumes(filters)
	if err != nil {
		return err
	}
	list := volume.ListResponse{Volumes: []volume.Volume{}}
	for _, v := range all {
		list.Volumes = append(list.Volumes, volumeOf(v))
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) inspectVolume(w http.ResponseWriter, r *request) error {
	v, err := s.Containers.Volume(r.name)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, volumeOf(v))
}

func (s *Server) createVolume(w http.ResponseWriter, r *request) error {
	var body volume.CreateRequest
	if err := r.decode(&body); err != nil {
		return err
	}
	if body.ClusterVolumeSpec != nil {
		return notSwarm(w, r)
	}
	v, err := s.Containers.CreateVolume(r.Context(), runner.VolumeOptions{
		Name: body.Name, Driver: body.Driver, DriverOpts: body.DriverOpts, Labels: body.Labels,
	})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, volumeOf(v))
}

func (s *Server) removeVolume(w http.ResponseWriter, r *request) error {
	if err := s.Containers.RemoveVolume(r.Context(), r.name, r.flag("force")); err != nil {
		return err
	}
	return noContent(w)
}

// pruneVolumes: before 1.42 all unused volumes went, since then the anonymous ones unless
// the filter all says otherwise.
func (s *Server) pruneVolumes(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("all", "label", "label!")
	if err != nil {
		return err
	}
	all, _, err := boolFilter(filters, "all")
	if err != nil {
		return err
	}
	delete(filters, "all")
	names, size, err := s.Containers.PruneVolumes(r.Context(), runner.PruneVolumesOptions{All: all || r.version < 42, Filters: filters})
	if err != nil {
		return err
	}
	if names == nil {
		names = []string{}
	}
	return writeJSON(w, http.StatusOK, volume.PruneReport{VolumesDeleted: names, SpaceReclaimed: uint64(max(size, 0))})
}
