// Package export turns the outcome of a build into what its user asked for: an image in
// the local store, or a copy of the filesystem.
package export

import (
	"encoding/json"
	"fmt"
	"reflect"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A layerInfo is what the config says of a layer.
type layerInfo struct {
	diffID      digest.Digest
	created     *time.Time // nil for layers of the base image
	description string
}

// finishConfig adds the layers and the history of times to the config that the Dockerfile
// gave. It does what BuildKit v0.33 does in exporter/containerimage/writer.go
// (normalizeLayersAndHistory, patchImageConfig), so that configs are equal: fields it does not
// know, which the base image may have, are kept as they are.
func finishConfig(config, base []byte, layers []layerInfo, epoch *time.Time) ([]byte, error) {
	var img struct {
		OS           string            `json:"os"`
		Architecture string            `json:"architecture"`
		Created      *time.Time        `json:"created"`
		History      []ocispec.History `json:"history"`
	}
	fields := map[string]json.RawMessage{}
	for _, into := range []any{&img, &fields} {
		if err := json.Unmarshal(config, into); err != nil {
			return nil, fmt.Errorf("image config: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	if img.OS == "" || img.Architecture == "" {
		return nil, fmt.Errorf("image config without os or architecture: %w", errdefs.ErrInvalidArgument)
	}
	history := finishHistory(img.History, layers)
	if epoch != nil {
		if err := clamp(history, base, *epoch); err != nil {
			return nil, err
		}
	}
	created := img.Created
	switch {
	case created == nil && fields["created"] == nil:
		created = lastCreated(history)
	case created != nil && epoch != nil && created.After(*epoch):
		created = epoch
	}
	rootfs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range layers {
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.diffID)
	}
	for name, v := range map[string]any{"rootfs": rootfs, "history": history, "created": created} {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		fields[name] = b
	}
	return json.Marshal(fields)
}

// finishHistory makes history and layers agree, and gives every entry a time.
func finishHistory(history []ocispec.History, layers []layerInfo) []ocispec.History {
	known := 0
	for i := range history {
		if history[i].EmptyLayer {
			continue
		}
		if known == len(layers) {
			history[i].EmptyLayer = true // a base image whose config speaks of layers it has not
			continue
		}
		known++
	}
	for _, l := range layers[known:] {
		history = append(history, ocispec.History{
			Created: l.created, CreatedBy: l.description, Comment: "buildkit.exporter.image.v0",
		})
	}
	layer := 0
	for i, h := range history {
		if h.EmptyLayer {
			continue
		}
		if h.Created == nil {
			history[i].Created = layers[layer].created
		}
		layer++
	}
	fillTimes(history)
	return history
}

// fillTimes gives entries without a time that of the layer before them or, at the start of
// what is new, that of the first new layer.
func fillTimes(history []ocispec.History) {
	var created *time.Time
	missing := false
	for _, h := range history {
		if h.Created == nil {
			missing = true
			continue
		}
		created = h.Created
		if missing {
			break
		}
	}
	missing = false
	for i, h := range history {
		if h.Created == nil {
			missing = true
			history[i].Created = created
		} else if missing {
			created = h.Created
		}
	}
}

// clamp moves later times back to epoch, but not those of the base image's entries.
func clamp(history []ocispec.History, base []byte, epoch time.Time) error {
	var img struct {
		History []ocispec.History `json:"history"`
	}
	if len(base) > 0 {
		if err := json.Unmarshal(base, &img); err != nil {
			return fmt.Errorf("config of the base image: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	ours := false
	for i, h := range history {
		if !ours && i < len(img.History) && reflect.DeepEqual(h, img.History[i]) {
			continue
		}
		ours = true
		if h.Created == nil || h.Created.After(epoch) {
			history[i].Created = &epoch
		}
	}
	return nil
}

func lastCreated(history []ocispec.History) *time.Time {
	var t *time.Time
	for _, h := range history {
		if h.Created != nil {
			t = h.Created
		}
	}
	return t
}
