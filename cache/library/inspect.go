package library

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
)

// Description is an image in the form of docker's `image inspect` and GET /images/NAME/json.
type Description struct {
	ID           string `json:"Id"`
	RepoTags     []string
	RepoDigests  []string
	Parent       string // always empty, as in docker since BuildKit
	Comment      string
	Created      string `json:",omitempty"` // RFC 3339
	Author       string
	Config       json.RawMessage // with all fields that templates ask for
	Architecture string
	Variant      string `json:",omitempty"`
	OS           string `json:"Os"`
	OSVersion    string `json:"OsVersion,omitempty"`
	Size         int64
	RootFS       RootFS
	Metadata     Metadata
	Descriptor   *ocispec.Descriptor `json:",omitempty"`
}

// RootFS lists the diffIDs of an image, lowest first.
type RootFS struct {
	Type   string   `json:",omitempty"`
	Layers []string `json:",omitempty"`
}

// Metadata is what only this machine knows.
type Metadata struct {
	LastTagTime time.Time
}

// InspectOptions choose what Inspect and History tell of.
type InspectOptions struct {
	Platform *ocispec.Platform // nil: the best for this machine
}

// Inspect describes the image that ref means.
func (l *Library) Inspect(ctx context.Context, ref string, o InspectOptions) (Description, error) {
	record, img, err := listing.FindFor(ctx, l.Store, ref, o.Platform)
	if err != nil {
		return Description{}, err
	}
	target := record.Target
	if o.Platform != nil {
		target = img.Descriptor
	}
	sizes := listing.NewSizer(l.Store)
	d := Description{
		ID: img.Manifest.Config.Digest.String(), RepoTags: []string{}, RepoDigests: []string{},
		Author: img.Config.Author, Architecture: img.Config.Architecture, Variant: img.Config.Variant,
		OS: img.Config.OS, OSVersion: img.Config.OSVersion,
		RootFS: RootFS{Type: img.Config.RootFS.Type}, Metadata: Metadata{LastTagTime: record.Created},
		Descriptor: &target,
	}
	d.Size, _ = sizes.Image(img)
	if img.Config.Created != nil {
		d.Created = img.Config.Created.Format(time.RFC3339Nano)
	}
	for _, diffID := range img.Config.RootFS.DiffIDs {
		d.RootFS.Layers = append(d.RootFS.Layers, diffID.String())
	}
	if d.Config, d.Comment, err = rawConfig(img.RawConfig); err != nil {
		return Description{}, fmt.Errorf("image %s: %w", ref, err)
	}
	return d, l.addNames(ctx, &d, record)
}

// rawConfig returns the config's own part about containers with the fields that OCI does
// not know (Healthcheck, Shell, OnBuild), and its comment.
func rawConfig(raw []byte) (config json.RawMessage, comment string, err error) {
	var doc struct {
		Config  json.RawMessage `json:"config"`
		Comment string          `json:"comment"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, "", fmt.Errorf("its config: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	fields := map[string]json.RawMessage{}
	if len(doc.Config) > 0 {
		if err := json.Unmarshal(doc.Config, &fields); err != nil {
			return nil, "", fmt.Errorf("its config: %w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	if fields == nil { // "null"
		fields = map[string]json.RawMessage{}
	}
	for name, none := range map[string]string{
		"User": `""`, "WorkingDir": `""`, "Env": "null", "Cmd": "null", "Entrypoint": "null", "OnBuild": "null",
		"Volumes": "null", "Labels": "null", "ExposedPorts": "null",
	} {
		if _, ok := fields[name]; !ok {
			fields[name] = json.RawMessage(none)
		}
	}
	config, err = json.Marshal(fields)
	return config, doc.Comment, err
}

// addNames finds all names of the image that record is about.
func (l *Library) addNames(ctx context.Context, d *Description, record image.Image) error {
	img, err := l.imageOf(ctx, record)
	if errdefs.IsNotFound(err) {
		return nil // it has just gone
	}
	if err != nil {
		return err
	}
	for _, tag := range img.Tags {
		d.RepoTags = append(d.RepoTags, listing.Familiar(tag))
	}
	for _, name := range img.Digests {
		d.RepoDigests = append(d.RepoDigests, listing.Familiar(name))
	}
	return nil
}

// Step is one instruction that made an image, as docker's history tells it.
type Step struct {
	ID        string // of the image for the last step, "<missing>" for the others
	Created   time.Time
	CreatedBy string
	Size      int64 // bytes of its layer on disk
	Comment   string
	Tags      []string
}

// History returns the steps that made an image, the last first.
func (l *Library) History(ctx context.Context, ref string, o InspectOptions) ([]Step, error) {
	record, img, err := listing.FindFor(ctx, l.Store, ref, o.Platform)
	if err != nil {
		return nil, err
	}
	sizes := listing.NewSizer(l.Store)
	var steps []Step
	layer := 0
	for _, h := range img.Config.History {
		s := Step{ID: "<missing>", CreatedBy: h.CreatedBy, Comment: h.Comment}
		if h.Created != nil {
			s.Created = *h.Created
		}
		if !h.EmptyLayer && layer < len(img.Manifest.Layers) {
			s.Size = sizes.Layer(img, layer)
			layer++
		}
		steps = append(steps, s)
	}
	for ; layer < len(img.Manifest.Layers); layer++ { // tools that write no history
		steps = append(steps, Step{ID: "<missing>", Size: sizes.Layer(img, layer)})
	}
	slices.Reverse(steps)
	if len(steps) == 0 {
		return steps, nil
	}
	d := Description{}
	if err := l.addNames(ctx, &d, record); err != nil {
		return nil, err
	}
	steps[0].ID, steps[0].Tags = img.Manifest.Config.Digest.String(), d.RepoTags
	return steps, nil
}
