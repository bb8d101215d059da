package engine

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/image"
	dockerregistry "github.com/moby/moby/api/types/registry"
	"github.com/opencontainers/go-digest"

	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/cache/listing"
)

// imageSummary has VirtualSize, which was dropped in 1.44.
type imageSummary struct {
	image.Summary
	VirtualSize *int64 `json:",omitempty"`
}

func (s *Server) listImages(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("dangling", "label", "label!", "before", "since", "reference", "until")
	if err != nil {
		return err
	}
	if _, _, err := boolFilter(filters, "dangling"); err != nil {
		return err
	}
	if r.flag("identity") && !r.flag("manifests") {
		return invalid("conflicting options: identity requires manifests=1")
	}
	images := s.Images(nil)
	all, err := images.All(r.Context())
	if err != nil {
		return err
	}
	if len(filters) > 0 {
		if all, err = images.Select(r.Context(), all, filters); err != nil {
			return err
		}
	}
	users, err := s.imageUsers(r)
	if err != nil {
		return err
	}
	shared := map[digest.Digest]int64{}
	if r.version >= 42 && r.flag("shared-size") {
		usage, err := images.Usage(r.Context())
		if err != nil {
			return err
		}
		for _, i := range usage {
			shared[i.ID] = i.Shared
		}
	}
	list := []imageSummary{}
	for _, i := range all {
		one := imageSummary{Summary: summaryOf(i, r.version)}
		one.Containers = -1
		if bytes, known := shared[i.ID]; known {
			one.SharedSize = bytes
		}
		if r.version >= 51 {
			one.Containers = int64(len(users[i.ID]))
		}
		if r.version < 44 {
			one.VirtualSize = &one.Size
		}
		if r.version >= 47 && r.flag("manifests") {
			if one.Manifests, err = s.manifests(r, i.Records[0].Target, users); err != nil {
				return err
			}
		}
		list = append(list, one)
	}
	return writeJSON(w, http.StatusOK, list)
}

func summaryOf(i listing.Image, v version) image.Summary {
	if i.Labels == nil {
		i.Labels = map[string]string{}
	}
	out := image.Summary{
		ID: i.ID.String(), RepoTags: familiar(i.Tags), RepoDigests: familiar(i.Digests), Created: unixSeconds(i.Created), Size: i.Size,
		SharedSize: -1, Labels: i.Labels, Containers: -1,
	}
	if v >= 48 {
		out.Descriptor = &i.Records[0].Target
	}
	return out
}

func familiar(names []string) []string {
	list := []string{}
	for _, n := range names {
		list = append(list, listing.Familiar(n))
	}
	return list
}

// imageUsers are the IDs of the containers of each image.
func (s *Server) imageUsers(r *request) (map[digest.Digest][]string, error) {
	all, err := s.Containers.List(r.Context())
	users := map[digest.Digest][]string{}
	for _, c := range all {
		users[c.ImageID] = append(users[c.ImageID], c.ID)
	}
	return users, err
}

func (s *Server) history(w http.ResponseWriter, r *request) error {
	platform, err := r.platform(48)
	if err != nil {
		return err
	}
	steps, err := s.Images(nil).History(r.Context(), r.name, library.InspectOptions{Platform: platform})
	if err != nil {
		return err
	}
	list := []image.HistoryResponseItem{}
	for _, st := range steps {
		one := image.HistoryResponseItem{ID: st.ID, Created: unixSeconds(st.Created), CreatedBy: st.CreatedBy, Size: st.Size, Comment: st.Comment}
		for _, t := range st.Tags {
			one.Tags = append(one.Tags, listing.Familiar(t))
		}
		list = append(list, one)
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) tag(w http.ResponseWriter, r *request) error {
	repo, tag := r.param("repo"), r.param("tag")
	if repo == "" {
		return invalid("repository name must have at least one component")
	}
	name := repo
	if tag != "" {
		name += ":" + tag
	}
	if err := s.Images(nil).Tag(r.Context(), r.name, name); err != nil {
		return err
	}
	w.WriteHeader(http.StatusCreated)
	return nil
}

func (s *Server) removeImage(w http.ResponseWriter, r *request) error {
	if strings.TrimSpace(r.name) == "" {
		return invalid("image name cannot be blank")
	}
	images := s.Images(nil)
	o := library.RemoveOptions{Force: r.flag("force")}
	for _, text := range r.query["platforms"] {
		p, err := parsePlatform(text)
		switch {
		case r.version < 50:
		case err != nil:
			return err
		case p != nil:
			o.Platforms = append(o.Platforms, *p)
		}
	}
	if len(o.Platforms) > 0 && !o.Force {
		return invalid("Content will be removed from all images referencing this variant. Use —-force to force delete.")
	}
	removed, err := images.Remove(r.Context(), r.name, o)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, deletions(removed))
}

func deletions(removed []library.Removal) []image.DeleteResponse {
	list := []image.DeleteResponse{}
	for _, d := range removed {
		list = append(list, image.DeleteResponse{Untagged: d.Untagged, Deleted: d.Deleted})
	}
	return list
}

// pruneImages: without the filter dangling=false only images without a name go.
func (s *Server) pruneImages(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("dangling", "label", "label!", "until")
	if err != nil {
		return err
	}
	dangling, given, err := boolFilter(filters, "dangling")
	if err != nil {
		return err
	}
	delete(filters, "dangling")
	removed, freed, err := s.Images(nil).Prune(r.Context(), library.PruneOptions{All: given && !dangling, Filters: filters})
	if err != nil {
		return err
	}
	s.Containers.TellPruned("image", freed)
	report := image.PruneReport{SpaceReclaimed: uint64(max(freed, 0))}
	if len(removed) > 0 {
		report.ImagesDeleted = deletions(removed)
	}
	return writeJSON(w, http.StatusOK, report)
}

// searchImages asks Docker Hub, or the registry that the term begins with.
func (s *Server) searchImages(w http.ResponseWriter, r *request) error {
	filters, err := r.filters("is-automated", "is-official", "stars")
	if err != nil {
		return err
	}
	limit, err := r.number("limit")
	if err != nil {
		return err
	}
	official, given, err := boolFilter(filters, "is-official")
	if err != nil {
		return err
	}
	stars := 0
	for _, v := range filters["stars"] {
		n, err := strconv.Atoi(v)
		if err != nil {
			return invalid("invalid filter 'stars=%s'", v)
		}
		stars = max(stars, n)
	}
	hub, _ := reference.ParseNormalizedNamed("search")
	found, err := s.Registry(credentials(r, hub)).Search(r.Context(), r.param("term"), limit)
	if err != nil {
		return err
	}
	list := []dockerregistry.SearchResult{}
	for _, f := range found {
		if f.StarCount >= stars && (!given || f.IsOfficial == official) {
			list = append(list, dockerregistry.SearchResult{
				Name: f.Name, Description: f.Description, StarCount: f.StarCount, IsOfficial: f.IsOfficial,
				IsAutomated: f.IsAutomated, //lint:ignore SA1019 old clients read it
			})
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

// attestations: none are kept apart from the images they belong to.
func (s *Server) attestations(w http.ResponseWriter, r *request) error {
	platform, err := r.platform(55)
	if err != nil {
		return err
	}
	if _, err := s.Images(nil).Inspect(r.Context(), r.name, library.InspectOptions{Platform: platform}); err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, []struct{}{})
}

// saveImages answers GET /images/NAME/get and GET /images/get?names=.
func (s *Server) saveImages(w http.ResponseWriter, r *request) error {
	refs := r.query["names"]
	if r.name != "" {
		refs = []string{r.name}
	}
	if len(refs) == 0 {
		return invalid("no image names given")
	}
	platforms, err := r.platforms()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	out := &counted{Writer: w}
	err = s.Images(nil).Save(r.Context(), out, refs, library.SaveOptions{Platforms: platforms})
	if out.n > 0 {
		return broken(err)
	}
	return err
}

func (s *Server) loadImages(w http.ResponseWriter, r *request) error {
	platforms, err := r.platforms()
	if err != nil {
		return err
	}
	p := &progressWriter{w: newFlusher(w)}
	loaded, err := s.Images(nil).Load(r.Context(), r.Body, library.LoadOptions{Platforms: platforms})
	if err != nil {
		p.begun = true // dockerd has begun by then: clients look for the error in the messages
		w.Header().Set("Content-Type", "application/json")
		return p.end(err)
	}
	for _, l := range loaded {
		if len(l.Names) == 0 {
			p.send(streamText("Loaded image ID: " + l.ID.String() + "\n"))
		}
		for _, n := range l.Names {
			p.send(streamText("Loaded image: " + listing.Familiar(n) + "\n"))
		}
	}
	return nil
}

// streamMessage is text for the user, as it is.
type streamMessage struct {
	Stream string `json:"stream"`
}

func streamText(text string) streamMessage { return streamMessage{text} }

// diskUsage answers GET /system/df.
func (s *Server) diskUsage(w http.ResponseWriter, r *request) error {
	df, err := s.usage(r)
	if err != nil {
		return err
	}
	if r.version < 52 {
		return writeJSON(w, http.StatusOK, df.legacy(r))
	}
	return writeJSON(w, http.StatusOK, df.current(r))
}

// wanted says whether a part of system/df is asked for; type= may be repeated (1.42).
func wanted(r *request, kind string) bool {
	return r.version < 42 || len(r.query["type"]) == 0 || slices.Contains(r.query["type"], kind)
}

// parseRef reads a name of an image with an optional tag parameter beside it.
func parseRef(name, tag string) (reference.Named, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, invalid("%s", err)
	}
	switch {
	case tag == "":
	case strings.Contains(tag, ":"):
		d, err := digest.Parse(tag)
		if err != nil {
			return nil, invalid("%s", err)
		}
		return reference.WithDigest(reference.TrimNamed(ref), d)
	default:
		if ref, err = reference.WithTag(reference.TrimNamed(ref), tag); err != nil {
			return nil, invalid("%s", err)
		}
	}
	return ref, nil
}

// epoch keeps times that are not known out of JSON.
func epoch(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
