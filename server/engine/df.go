package engine

import (
	"context"
	"slices"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/volume"

	core "github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/registry"
)

// usage is what system/df tells, before it takes the form of a version.
type usage struct {
	images      []image.Summary
	imageBytes  int64 // of all that images keep, shared layers once
	unusedBytes int64 // the part of it that no container needs
	containers  []summary
	volumes     []volume.Volume
	cache       []build.CacheRecord
}

func (s *Server) usage(r *request) (u usage, err error) {
	for _, kind := range r.query["type"] {
		if r.version >= 42 && !slices.Contains([]string{"container", "image", "volume", "build-cache"}, kind) {
			return u, invalid("unknown object type: %s", kind)
		}
	}
	if wanted(r, "image") {
		if err = s.imageUsage(r, &u); err != nil {
			return u, err
		}
	}
	if wanted(r, "container") {
		all, err := s.Containers.List(r.Context())
		if err != nil {
			return u, err
		}
		u.containers = s.summaries(r, all)
		for i := range u.containers {
			one := &u.containers[i]
			one.SizeRw, one.SizeRootFs = s.Containers.RootSizes(one.ID)
		}
	}
	if wanted(r, "volume") {
		if err = s.volumeUsage(&u); err != nil {
			return u, err
		}
	}
	if wanted(r, "build-cache") {
		u.cache, err = s.cacheRecords(r.Context())
	}
	return u, err
}

func (s *Server) imageUsage(r *request, u *usage) error {
	images := s.Images(nil)
	all, err := images.Usage(r.Context())
	if err != nil {
		return err
	}
	users, err := s.imageUsers(r)
	if err != nil {
		return err
	}
	for _, i := range all {
		one := summaryOf(i.Image, r.version)
		one.Containers, one.SharedSize = int64(len(users[i.ID])), i.Shared
		u.images = append(u.images, one)
	}
	du, err := s.Store.DiskUsage(r.Context())
	u.imageBytes, u.unusedBytes = du.Images, du.Unused
	return err
}

func (s *Server) volumeUsage(u *usage) error {
	all, err := s.Containers.Volumes(nil)
	if err != nil {
		return err
	}
	users, err := s.Containers.VolumeUsers()
	if err != nil {
		return err
	}
	for _, v := range all {
		one := volumeOf(v)
		one.UsageData = &volume.UsageData{RefCount: int64(len(users[v.Name])), Size: s.Containers.VolumeSize(v.Name)}
		u.volumes = append(u.volumes, one)
	}
	return nil
}

func (s *Server) cacheRecords(ctx context.Context) (list []build.CacheRecord, err error) {
	b, err := s.Builder(s.Registry(registry.Granted(nil)))
	if err != nil {
		return nil, err
	}
	entries, err := b.Cache(ctx)
	for _, e := range entries {
		list = append(list, record(e))
	}
	return list, err
}

func record(e core.CacheEntry) build.CacheRecord {
	return build.CacheRecord{
		ID: e.ID, Type: e.Type, Description: e.Description, InUse: e.InUse, Shared: e.Shared, Size: e.Size,
		CreatedAt: e.Created, LastUsedAt: epoch(e.LastUsed), UsageCount: 1,
	}
}

// legacyUsage is system/df before 1.52; nil is what was not asked for.
type legacyUsage struct {
	LayersSize  int64               `json:",omitempty"`
	Images      []imageSummary      `json:",omitzero"`
	Containers  []summary           `json:",omitzero"`
	Volumes     []volume.Volume     `json:",omitzero"`
	BuildCache  []build.CacheRecord `json:",omitzero"`
	BuilderSize *int64              `json:",omitempty"`
}

func (u usage) legacy(r *request) legacyUsage {
	out := legacyUsage{LayersSize: u.imageBytes, Containers: u.containers, Volumes: u.volumes, BuildCache: u.cache}
	for _, i := range u.images {
		one := imageSummary{Summary: i}
		if r.version < 44 {
			one.VirtualSize = &one.Size
		}
		out.Images = append(out.Images, one)
	}
	if r.version < 42 {
		sum := int64(0)
		for _, c := range u.cache {
			sum += c.Size
		}
		out.BuilderSize = &sum
	}
	if wanted(r, "image") && out.Images == nil {
		out.Images = []imageSummary{}
	}
	if wanted(r, "volume") && out.Volumes == nil {
		out.Volumes = []volume.Volume{}
	}
	if wanted(r, "build-cache") && out.BuildCache == nil {
		out.BuildCache = []build.CacheRecord{}
	}
	return out
}

// currentUsage is system/df since 1.52: sums and what they are of, without verbose=1 in the older form too.
// dockerd tells the parts in any case, although swagger.yaml has them with verbose=1 only.
type currentUsage struct {
	ImageUsage      *image.DiskUsage  `json:",omitempty"`
	ContainerUsage  *containerUsage   `json:",omitempty"`
	VolumeUsage     *volume.DiskUsage `json:",omitempty"`
	BuildCacheUsage *build.DiskUsage  `json:",omitempty"`
	*legacyUsage
}

type containerUsage struct {
	container.DiskUsage
	Items []summary `json:",omitempty"`
}

func (u usage) current(r *request) (out currentUsage) {
	if wanted(r, "image") {
		d := &image.DiskUsage{TotalCount: int64(len(u.images)), TotalSize: u.imageBytes, Reclaimable: u.unusedBytes}
		for _, i := range u.images {
			if i.Containers > 0 {
				d.ActiveCount++
			}
		}
		d.Items = u.images
		out.ImageUsage = d
	}
	if wanted(r, "container") {
		d := &containerUsage{DiskUsage: container.DiskUsage{TotalCount: int64(len(u.containers))}}
		for _, c := range u.containers {
			d.TotalSize += c.SizeRw
			if slices.Contains([]container.ContainerState{container.StateRunning, container.StatePaused, container.StateRestarting}, c.State) {
				d.ActiveCount++
			} else {
				d.Reclaimable += c.SizeRw
			}
		}
		d.Items = u.containers
		out.ContainerUsage = d
	}
	if wanted(r, "volume") {
		d := &volume.DiskUsage{TotalCount: int64(len(u.volumes))}
		for _, v := range u.volumes {
			d.TotalSize += v.UsageData.Size
			if v.UsageData.RefCount > 0 {
				d.ActiveCount++
			} else {
				d.Reclaimable += v.UsageData.Size
			}
		}
		d.Items = u.volumes
		out.VolumeUsage = d
	}
	if wanted(r, "build-cache") {
		d := &build.DiskUsage{TotalCount: int64(len(u.cache))}
		for _, c := range u.cache {
			d.TotalSize += c.Size
			if c.InUse {
				d.ActiveCount++
			} else if !c.Shared {
				d.Reclaimable += c.Size
			}
		}
		d.Items = u.cache
		out.BuildCacheUsage = d
	}
	if !r.flag("verbose") { // as dockerd: clients that name no version, as docker's for Python, look for the older form
		l := u.legacy(r)
		out.legacyUsage = &l
	}
	return out
}
