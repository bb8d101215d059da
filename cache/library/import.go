package library

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/listing"
)

// ImportOptions say what becomes of the files.
type ImportOptions struct {
	Name     string            // repository[:tag]; empty: none
	Message  string            // of its history
	Changes  []string          // instructions of a Dockerfile that describe: CMD, ENV, EXPOSE, ...
	Platform *ocispec.Platform // nil: the host's
}

// Import makes an image of one layer out of the tar r, plain or compressed by gzip, zstd, bzip2 or xz,
// and returns its ID.
func (l *Library) Import(ctx context.Context, r io.Reader, o ImportOptions) (digest.Digest, error) {
	name := ""
	if o.Name != "" {
		ref, err := reference.ParseNormalizedNamed(o.Name)
		if err != nil {
			return "", listing.Worded(errdefs.ErrInvalidArgument, "%q is not a valid repository/tag: %v", o.Name, err)
		}
		if _, digested := ref.(reference.Digested); digested {
			return "", listing.Worded(errdefs.ErrInvalidArgument, "cannot import digest reference")
		}
		name = reference.TagNameOnly(ref).String()
	}
	config, err := l.Change([]byte("{}"), o.Changes) // before all the bytes are read
	if err != nil {
		return "", err
	}
	plain, err := content.Decompress(ctx, r)
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	defer plain.Close()
	var id digest.Digest
	err = l.pinned(ctx, func() error {
		layer, diffID, err := l.Store.AddLayer(ctx, plain, nil)
		if err != nil {
			return err
		}
		target, configID, err := l.putImage(ctx, importedConfig(config, diffID, o), layer)
		if err != nil {
			return err
		}
		id = configID
		return l.Store.Images.Put(ctx, image.Image{Name: name, Target: target})
	})
	if err != nil {
		return "", fmt.Errorf("importing: %w", err)
	}
	l.tell("import", id, o.Name, nil)
	return id, nil
}

// importedConfig is docker's: image-spec v1.1, config.md, and the comment beside it.
func importedConfig(config []byte, diffID digest.Digest, o ImportOptions) any {
	platform := content.Host()
	if o.Platform != nil {
		platform = *o.Platform
	}
	created := time.Now().UTC()
	return struct {
		ocispec.Platform
		Created *time.Time        `json:"created"`
		Comment string            `json:"comment,omitempty"`
		Config  json.RawMessage   `json:"config"`
		RootFS  ocispec.RootFS    `json:"rootfs"`
		History []ocispec.History `json:"history"`
	}{
		platform, &created, o.Message, config,
		ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		[]ocispec.History{{Created: &created, Comment: o.Message}},
	}
}

// putImage stores the config and a manifest with the layers, and returns the manifest and the image's ID.
func (l *Library) putImage(ctx context.Context, config any, layers ...ocispec.Descriptor) (ocispec.Descriptor, digest.Digest, error) {
	c, err := content.PushJSON(ctx, l.Store.Content, ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	m, err := content.PushJSON(ctx, l.Store.Content, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: c, Layers: layers,
	})
	return m, c.Digest, err
}
