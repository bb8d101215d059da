package op

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
)

// A ResolveMode says where the meaning of a tag is looked up.
type ResolveMode string

const (
	ResolveDefault ResolveMode = "default" // the local store, else the registry, as docker does
	ResolvePull    ResolveMode = "pull"    // the registry
	ResolveLocal   ResolveMode = "local"   // the local store, else the registry
)

// An Image is a base image of which only manifest and config are known to be here.
type Image struct {
	content.Image
	Ref    string             // canonical, with its tag if it has one
	Target ocispec.Descriptor // what Ref stands for: index or manifest
}

// ResolveImage finds out what ref stands for on p. The answer for one ref is the same for
// the whole life of e. Nothing but manifests and the config is fetched.
func (e *Env) ResolveImage(ctx context.Context, ref string, mode ResolveMode, p ocispec.Platform) (Image, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return Image{}, fmt.Errorf("image %q: %w: %w", ref, errdefs.ErrInvalidArgument, err)
	}
	named = reference.TagNameOnly(named)
	id := fmt.Sprint(named, " ", mode == ResolvePull, " ", p.OS, "/", p.Architecture, "/", p.Variant, "/", p.OSVersion)
	return e.images.get(id, func() (Image, error) {
		img, err := e.resolve(ctx, named, mode, p)
		if err != nil {
			return Image{}, fmt.Errorf("resolving image %s: %w", reference.FamiliarString(named), err)
		}
		return img, nil
	})
}

func (e *Env) resolve(ctx context.Context, ref reference.Named, mode ResolveMode, p ocispec.Platform) (Image, error) {
	img := Image{Ref: ref.String()}
	target, local := e.lookup(ctx, ref, mode)
	if local {
		found, err := content.Resolve(ctx, e.Store.Content, target, p)
		if err == nil {
			img.Image, img.Target = found, target
			e.touch(img)
			return img, nil
		}
		// The local image is for another platform, or parts of it were collected.
		if e.Registry == nil {
			return Image{}, err
		}
	}
	if e.Registry == nil {
		return Image{}, errdefs.ErrNotFound
	}
	repo, err := e.Registry(ref)
	if err != nil {
		return Image{}, err
	}
	if img.Target, err = repo.Resolve(ctx, tagOrDigest(ref)); err != nil {
		return Image{}, err
	}
	img.Image, err = content.Resolve(ctx, e.Store.Keep(repo), img.Target, p)
	return img, err
}

// tagOrDigest returns the part behind the name; the digest wins, as everywhere.
func tagOrDigest(ref reference.Named) string {
	if d, ok := ref.(reference.Digested); ok {
		return d.Digest().String()
	}
	if t, ok := ref.(reference.Tagged); ok {
		return t.Tag()
	}
	return "latest"
}

// lookup returns what ref stands for in the local store. A digest means the same everywhere,
// so it is looked for even if the registry was asked for.
func (e *Env) lookup(ctx context.Context, ref reference.Named, mode ResolveMode) (ocispec.Descriptor, bool) {
	if d, ok := ref.(reference.Digested); ok {
		desc, err := describe(ctx, e.Store.Content, d.Digest())
		return desc, err == nil
	}
	if mode == ResolvePull {
		return ocispec.Descriptor{}, false
	}
	img, err := e.Store.Images.Get(ref.String())
	if id := imageID(ref); err != nil && id != "" {
		img, err = e.Store.Lookup(ctx, id)
	}
	return img.Target, err == nil
}

// imageID returns the ID that ref may be meant as, which parses as a name of Docker Hub: "sha256:..." or
// the twelve digits and more that listings show. Fewer digits may be a word. docker's classic builder
// takes IDs, and its clients send them (docker-api for Ruby in Image#insert_local).
func imageID(ref reference.Named) string {
	name, tag := reference.FamiliarName(ref), tagOrDigest(ref)
	switch {
	case name == "sha256" && len(tag) == 64:
		return "sha256:" + tag
	case tag == "latest" && len(name) >= 12 && strings.Trim(name, "0123456789abcdef") == "":
		return name
	}
	return ""
}

// describe finds out what the blob of a local manifest is.
func describe(ctx context.Context, s *content.Store, d digest.Digest) (ocispec.Descriptor, error) {
	info, err := s.Stat(ctx, d)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return DescribeManifest(ctx, s, ocispec.Descriptor{Digest: d, Size: info.Size})
}

// DescribeManifest reads the manifest or index desc, of which only digest and size are known, and returns it
// with its media type.
func DescribeManifest(ctx context.Context, from content.Fetcher, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	data, err := content.ReadAll(ctx, from, desc)
	if err != nil {
		return desc, err
	}
	var doc struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return desc, fmt.Errorf("manifest %s: %w: %w", desc.Digest, errdefs.ErrInvalidArgument, err)
	}
	switch {
	case doc.MediaType != "":
		desc.MediaType = doc.MediaType
	case doc.Manifests != nil:
		desc.MediaType = ocispec.MediaTypeImageIndex
	default:
		desc.MediaType = ocispec.MediaTypeImageManifest
	}
	return desc, nil
}

// touch protects what was found without having been fetched.
func (e *Env) touch(img Image) {
	for _, d := range []digest.Digest{img.Target.Digest, img.Descriptor.Digest, img.Manifest.Config.Digest} {
		if ok, err := e.Store.Content.Touch(d); err != nil || !ok {
			e.warn("protecting %s: it is gone again", d)
		}
	}
}

// pull brings the layers of an image into the store, once for all steps that want them.
func (e *Env) pull(ctx context.Context, c *solver.Console, o Origin) error {
	_, err := e.pulls.get(o.Manifest.Digest, func() (struct{}, error) { return struct{}{}, e.fetchImage(ctx, c, o) })
	return err
}

// Source returns where the blobs of o are.
func (e *Env) Source(o Origin) (content.Fetcher, error) {
	switch {
	case o.Layout != "":
		return openLayout(o.Layout)
	case o.Ref != "" && e.Registry != nil:
		named, err := reference.ParseNormalizedNamed(o.Ref)
		if err != nil {
			return nil, fmt.Errorf("image %q: %w: %w", o.Ref, errdefs.ErrInvalidArgument, err)
		}
		return e.Registry(named)
	}
	return e.Store.Content, nil
}

func (e *Env) fetchImage(ctx context.Context, c *solver.Console, o Origin) error {
	from, err := e.Source(o)
	if err != nil {
		return err
	}
	opts := cache.PullOptions{Platform: &o.Platform, Progress: progress(c)}
	if _, err := e.Store.Pull(ctx, from, o.Manifest, opts); err != nil {
		return fmt.Errorf("pulling the base image %s: %w", strings.TrimPrefix(o.Ref+o.Layout, "docker.io/library/"), err)
	}
	return nil
}

// progress shows the transfer of blobs on the console of the step that waits for them.
func progress(c *solver.Console) content.Progress {
	return func(ev content.Event) {
		s := solver.Status{ID: ev.Desc.Digest.String(), Current: ev.Current, Total: ev.Total}
		switch ev.Kind {
		case content.EventTransfer, content.EventUnpack:
			s.ID = string(ev.Kind) + " " + s.ID
		case content.EventDone:
			s.ID, s.Done = string(content.EventTransfer)+" "+s.ID, true
		case content.EventUnpacked:
			s.ID, s.Done = string(content.EventUnpack)+" "+s.ID, true
		default:
			return
		}
		c.Status(s)
	}
}

// openLayout opens an OCI layout of somebody else, which must be there.
func openLayout(dir string) (*content.Store, error) {
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageLayoutFile)); err != nil {
		return nil, fmt.Errorf("OCI layout: %w", err)
	}
	return content.At(dir), nil
}

// imageOp is a docker-image:// or oci-layout:// source.
type imageOp struct {
	env      *Env
	ref      string
	attrs    map[string]string
	platform ocispec.Platform
	inLayout bool

	layout string // its directory
	image  Image
	limit  int // number of layers used
}

func newImageOp(e *Env, v *graph.Vertex, ref string, attrs map[string]string) *imageOp {
	return &imageOp{env: e, ref: ref, attrs: attrs, platform: v.Platform}
}

// Key implements solver.Op. The layers are the key, so that they are recognised under every
// name and manifest, but for an image that disagrees with another of this build about their blobs.
func (o *imageOp) Key(ctx context.Context) (solver.Key, error) {
	var err error
	if o.inLayout {
		if o.layout, err = o.env.layout(ctx, o.attrs[pb.AttrOCILayoutStoreID], o.ref, o.platform); err == nil {
			o.image, err = o.env.resolveLayout(ctx, o.layout, o.ref, o.platform)
		}
	} else {
		o.image, err = o.env.ResolveImage(ctx, o.ref, ResolveMode(o.attrs[pb.AttrImageResolveMode]), o.platform)
	}
	if err != nil {
		return solver.Key{}, err
	}
	if sum := o.attrs[pb.AttrImageChecksum]; sum != "" && sum != o.image.Target.Digest.String() {
		return solver.Key{}, fmt.Errorf("image %s has the digest %s, not %s as asked: %w", o.ref, o.image.Target.Digest, sum, errdefs.ErrFailedPrecondition)
	}
	diffIDs := o.image.Config.RootFS.DiffIDs
	if len(diffIDs) != len(o.image.Manifest.Layers) {
		return solver.Key{}, fmt.Errorf("image %s has %d layers and %d diffIDs: %w", o.ref, len(o.image.Manifest.Layers), len(diffIDs), errdefs.ErrInvalidArgument)
	}
	if o.limit, err = layerLimit(o.attrs, len(diffIDs)); err != nil {
		return solver.Key{}, fmt.Errorf("image %s: %w", o.ref, err)
	}
	chain := digest.FromBytes(o.image.RawConfig)
	if o.limit > 0 {
		chain = identity.ChainID(diffIDs[:o.limit])
	}
	if !o.env.noteBase(o.layers()) {
		chain = o.image.Descriptor.Digest
	}
	return solver.Key{Digest: sourceKey(chain.String()), Live: true}, nil
}

func layerLimit(attrs map[string]string, have int) (int, error) {
	text := attrs[pb.AttrImageLayerLimit]
	if text == "" {
		text = attrs[pb.AttrOCILayoutLayerLimit]
	}
	if text == "" {
		return have, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > have {
		return 0, fmt.Errorf("layer limit %q of %d layers: %w", text, have, errdefs.ErrInvalidArgument)
	}
	return n, nil
}

// sourceKey makes the key of a source as BuildKit's llbsolver/ops/source.go does.
func sourceKey(key string) digest.Digest { return digest.FromString("buildkit.source.v0:" + key) }

// ContentKeys implements solver.Op.
func (o *imageOp) ContentKeys(context.Context, *solver.Console, []Result) ([]digest.Digest, error) {
	return nil, nil
}

// Run implements solver.Op. Nothing is fetched.
func (o *imageOp) Run(ctx context.Context, c *solver.Console, _ []Result) ([]Result, error) {
	return []Result{{Layers: o.layers()}}, nil
}

func (o *imageOp) layers() []Layer {
	origin := &Origin{Ref: o.image.Ref, Layout: o.layout, Manifest: o.image.Descriptor, Platform: o.platform}
	layers := make([]Layer, o.limit)
	for i := range layers {
		layers[i] = Layer{DiffID: o.image.Config.RootFS.DiffIDs[i], Blob: &o.image.Manifest.Layers[i], Origin: origin}
	}
	return layers
}

// ResolveLayoutImage finds the image ref, NAME@DIGEST, of the OCI layout that OCILayouts has under name.
func (e *Env) ResolveLayoutImage(ctx context.Context, name, ref string, p ocispec.Platform) (Image, error) {
	dir, err := e.layout(ctx, name, ref, p)
	if err != nil {
		return Image{}, err
	}
	return e.resolveLayout(ctx, dir, ref, p)
}

// resolveLayout finds the image NAME@DIGEST of an OCI layout.
func (e *Env) resolveLayout(ctx context.Context, dir, ref string, p ocispec.Platform) (Image, error) {
	_, text, ok := strings.Cut(ref, "@")
	d, err := digest.Parse(text)
	if !ok || err != nil {
		return Image{}, fmt.Errorf("image %q of an OCI layout needs a digest: %w", ref, errdefs.ErrInvalidArgument)
	}
	layout, err := openLayout(dir)
	if err != nil {
		return Image{}, err
	}
	target, err := describe(ctx, layout, d)
	if err != nil {
		return Image{}, err
	}
	img, err := content.Resolve(ctx, e.Store.Keep(layout), target, p)
	return Image{Image: img, Target: target}, err
}
