package engine

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/auxprogress"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/library"
	"github.com/teu-dev/teu/registry"
)

// progressJSON is a message of a pull or a push, with the bar that old clients show.
type progressJSON struct {
	Status string               `json:"status"`
	Detail *jsonstream.Progress `json:"progressDetail,omitempty"`
	Bar    string               `json:"progress,omitempty"`
	ID     string               `json:"id,omitempty"`
}

// createImage answers POST /images/create: a pull, or an import.
func (s *Server) createImage(w http.ResponseWriter, r *request) error {
	name := r.param("fromImage")
	if name == "" && r.param("fromSrc") != "" {
		return s.importImage(w, r)
	}
	if name == "" {
		return invalid("neither fromImage nor fromSrc is given")
	}
	ref, err := parseRef(name, r.param("tag"))
	if err != nil {
		return err
	}
	platform, err := parsePlatform(r.param("platform"))
	if err != nil {
		return err
	}
	client := s.Registry(credentials(r, ref))
	images := s.Images(client)
	p := &progressWriter{w: newFlusher(w)}
	if !reference.IsNameOnly(ref) {
		return p.end(s.pull(r, p, images, ref, platform))
	}
	repo, err := client.Repository(ref)
	if err != nil {
		return err
	}
	tags, err := repo.Tags(r.Context()) // without a tag docker means all of them
	if err != nil {
		return err
	}
	for _, tag := range tags {
		tagged, err := reference.WithTag(ref, tag)
		if err == nil {
			err = s.pull(r, p, images, tagged, platform)
		}
		if err != nil {
			return p.end(err)
		}
	}
	return nil
}

// pull pulls one image. The first message waits until the registry has been heard, so that
// an image that is not there is a 404.
func (s *Server) pull(r *request, p *progressWriter, images *library.Library, ref reference.Named, platform *ocispec.Platform) error {
	t := &transfer{p: p, words: pullWords()}
	t.first = progressJSON{Status: "Pulling from " + reference.Path(ref), ID: tagOf(ref)}
	if _, ok := ref.(reference.Digested); ok {
		t.first.ID = ref.String()
	}
	done, err := images.Pull(r.Context(), ref, library.PullOptions{Platform: platform, Progress: t.event})
	var remote *registry.Error
	if errors.As(err, &remote) && remote.NoAccess() {
		return worded(errdefs.ErrNotFound, "pull access denied for %s, repository does not exist or may require 'docker login'", reference.FamiliarName(ref))
	}
	if err != nil {
		return err
	}
	t.begin()
	p.send(progressJSON{Status: "Digest: " + done.Target.Digest.String()})
	status := "Image is up to date for "
	if done.New {
		status = "Downloaded newer image for "
	}
	return p.send(progressJSON{Status: "Status: " + status + reference.FamiliarString(ref)})
}

// push answers POST /images/NAME/push.
func (s *Server) push(w http.ResponseWriter, r *request) error {
	ref, err := parseRef(r.name, r.param("tag"))
	if err != nil {
		return err
	}
	platform, err := parsePlatform(r.param("platform"))
	if err != nil {
		return err
	}
	images := s.Images(s.Registry(credentials(r, ref)))
	var refs []reference.NamedTagged
	if tagged, ok := ref.(reference.NamedTagged); ok {
		refs = append(refs, tagged)
	} else if refs, err = s.tagsOf(r, images, ref); err != nil { // without a tag docker means all of them
		return err
	}
	p := &progressWriter{w: newFlusher(w)}
	p.send(progressJSON{Status: fmt.Sprintf("The push refers to repository [%s]", reference.TrimNamed(ref))})
	for _, one := range refs {
		t := &transfer{p: p, words: pushWords()}
		done, err := images.Push(r.Context(), one, library.PushOptions{Platform: platform, Progress: t.event})
		if err != nil {
			return p.end(err)
		}
		d := done.Target
		p.send(progressJSON{Status: fmt.Sprintf("%s: digest: %s size: %d", one.Tag(), d.Digest, d.Size)})
		if done.Index != nil {
			p.send(struct {
				Detail struct{} `json:"progressDetail"`
				Aux    any      `json:"aux"`
			}{Aux: auxprogress.ManifestPushedInsteadOfIndex{ManifestPushedInsteadOfIndex: true, OriginalIndex: *done.Index, SelectedManifest: d}})
		}
		p.send(struct {
			Detail struct{} `json:"progressDetail"`
			Aux    any      `json:"aux"`
		}{Aux: pushResult{Tag: one.Tag(), Digest: d.Digest.String(), Size: int(d.Size)}})
	}
	return nil
}

// pushResult is the last message of a push.
type pushResult struct {
	Tag, Digest string
	Size        int
}

func (s *Server) tagsOf(r *request, images *library.Library, ref reference.Named) (refs []reference.NamedTagged, err error) {
	all, err := images.All(r.Context())
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		for _, t := range i.Tags {
			n, err := reference.ParseNormalizedNamed(t)
			if tagged, ok := n.(reference.NamedTagged); err == nil && ok && n.Name() == ref.Name() {
				refs = append(refs, tagged)
			}
		}
	}
	if len(refs) == 0 {
		return nil, &statusError{http.StatusNotFound, "An image does not exist locally with the tag: " + reference.FamiliarName(ref)}
	}
	return refs, nil
}

// transferWords are docker's words for what happens to a layer.
type transferWords struct {
	waiting, moving, exists, arrived, done string
}

func pullWords() transferWords {
	return transferWords{"Pulling fs layer", "Downloading", "Already exists", "Download complete", "Pull complete"}
}

func pushWords() transferWords {
	return transferWords{"Preparing", "Pushing", "Layer already exists", "Pushed", "Pushed"}
}

// transfer turns the events of blobs into messages. A layer that moves says so ten times
// a second at the most.
type transfer struct {
	p     *progressWriter
	words transferWords
	first progressJSON

	mu    sync.Mutex
	begun bool
	seen  map[string]time.Time // when a layer was last heard of
}

func (t *transfer) begin() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lockedBegin()
}

func (t *transfer) lockedBegin() {
	if !t.begun && t.first.Status != "" {
		t.p.send(t.first)
	}
	t.begun = true
}

func (t *transfer) event(e content.Event) {
	if !content.IsLayer(e.Desc.MediaType) || e.Desc.Digest == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lockedBegin()
	if t.seen == nil {
		t.seen = map[string]time.Time{}
	}
	id := e.Desc.Digest.Encoded()[:12]
	m := progressJSON{ID: id, Detail: &jsonstream.Progress{}}
	last, known := t.seen[id]
	if !known && e.Kind != content.EventExists {
		t.p.send(progressJSON{Status: t.words.waiting, ID: id, Detail: &jsonstream.Progress{}})
	}
	switch e.Kind {
	case content.EventExists:
		m.Status = t.words.exists
	case content.EventDone:
		m.Status = t.words.arrived
	case content.EventUnpacked:
		m.Status = t.words.done
	case content.EventTransfer, content.EventUnpack:
		if time.Since(last) < 100*time.Millisecond {
			return
		}
		m.Status = t.words.moving
		if e.Kind == content.EventUnpack {
			m.Status = "Extracting"
		}
		m.Detail.Current, m.Detail.Total = e.Current, e.Total
		m.Bar = bar(e.Current, e.Total)
	case content.EventRetry:
		m.Status = "Retrying"
	default:
		return
	}
	t.seen[id] = time.Now()
	t.p.send(m)
}

// bar is docker's: "[==>   ]  1.2MB/3.4MB".
func bar(current, total int64) string {
	size := units.HumanSize(float64(current))
	if total <= 0 || current > total {
		return size
	}
	n := int(50 * current / total)
	line := make([]byte, 50)
	for i := range line {
		switch {
		case i < n:
			line[i] = '='
		case i == n:
			line[i] = '>'
		default:
			line[i] = ' '
		}
	}
	return fmt.Sprintf("[%s] %8s/%s", line, size, units.HumanSize(float64(total)))
}
