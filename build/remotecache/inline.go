package remotecache

import (
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// configField is where an image's config tells of the steps it was made by.
const configField = "dev.teu.buildcache.v1"

// An Inline is a step whose result is the first layers of an image.
type Inline struct {
	Keys        []digest.Digest `json:"keys"`
	Canonical   digest.Digest   `json:"canonical"`
	Description string          `json:"description,omitempty"`
	Layers      int             `json:"layers"` // of the image, lowest first
}

// Embed returns the config of an image with steps in it.
func Embed(config []byte, steps []Inline) ([]byte, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, invalidf("image config: %v", err)
	}
	if fields == nil {
		return nil, invalidf("image config: it is null")
	}
	text, err := json.Marshal(steps)
	if err != nil {
		return nil, err
	}
	fields[configField] = text
	return json.Marshal(fields)
}

// extract returns the manifests of the entries that Embed put into an image, by name.
func extract(manifest ocispec.Manifest, config []byte) (map[string][]byte, error) {
	const most = 1000
	var doc struct {
		RootFS  ocispec.RootFS    `json:"rootfs"`
		History []ocispec.History `json:"history"`
		Steps   []Inline          `json:"dev.teu.buildcache.v1"`
	}
	if err := json.Unmarshal(config, &doc); err != nil {
		return nil, invalidf("its config: %v", err)
	}
	diffIDs := doc.RootFS.DiffIDs
	if len(diffIDs) != len(manifest.Layers) || len(doc.Steps) > most {
		return nil, invalidf("its config has %d diffIDs for %d layers, and %d steps", len(diffIDs), len(manifest.Layers), len(doc.Steps))
	}
	created := layerTimes(doc.History, len(diffIDs))
	entries := map[string][]byte{}
	for _, s := range doc.Steps {
		if s.Layers < 0 || s.Layers > len(diffIDs) || len(s.Keys) > most {
			return nil, invalidf("a step with %d layers and %d keys", s.Layers, len(s.Keys))
		}
		layers := make([]Layer, s.Layers)
		for i := range layers {
			blob := manifest.Layers[i]
			blob.Annotations = nil
			layers[i] = Layer{DiffID: diffIDs[i], Blob: &blob, Created: created[i]}
		}
		_, data, err := encode(Entry{Canonical: s.Canonical, Description: s.Description, Outputs: [][]Layer{layers}})
		if err != nil {
			return nil, err
		}
		for _, key := range append(s.Keys, s.Canonical) {
			if err := checkDigest(key); err != nil {
				return nil, err
			}
			entries[key.Encoded()] = data
		}
	}
	return entries, nil
}

// layerTimes returns when each of n layers was made, as the history of their image says; zero where
// it does not.
func layerTimes(history []ocispec.History, n int) []time.Time {
	times := make([]time.Time, n)
	i := 0
	for _, h := range history {
		if h.EmptyLayer {
			continue
		}
		if i < n && h.Created != nil {
			times[i] = *h.Created
		}
		i++
	}
	if i != n {
		return make([]time.Time, n) // it is the history of something else
	}
	return times
}
