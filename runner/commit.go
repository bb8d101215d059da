package runner

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/klauspost/pgzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/cache/image"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/keeper"
)

// CommitOptions say how the image is made.
type CommitOptions struct {
	Name            string // repository[:tag] to give it, or empty
	Author, Comment string
	Pause           bool     // freeze the container meanwhile, where it has a freezer
	Changes         []string // instructions of a Dockerfile that describe: CMD, ENV, EXPOSE, ...
	// Config, unless nil, comes before what the container was created with: the config object
	// of an image, JSON; see fillConfig.
	Config []byte
}

// Commit makes an image of a container's root filesystem, without what is mounted in it,
// and returns the image's ID. Its configuration is the container's.
func (e *Engine) Commit(ctx context.Context, ref string, o CommitOptions) (_ digest.Digest, err error) {
	c, err := e.Get(ctx, ref)
	if err != nil {
		return "", err
	}
	name := o.Name
	if name != "" {
		if name, err = cache.CanonicalName(name); err != nil {
			return "", err
		}
	}
	store, err := e.Store()
	if err != nil {
		return "", err
	}
	unpin, err := store.Pin(ctx)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unpin()) }()
	base, err := content.Resolve(ctx, store.Content, ocispec.Descriptor{
		Digest: c.Manifest, Size: e.blobSize(ctx, store, c.Manifest)}, content.Host())
	if err != nil {
		return "", fmt.Errorf("the image of %s: %w", c.Name, err)
	}
	// The container's lease goes with it.
	held := base.Descriptor
	held.MediaType = cmp.Or(base.Manifest.MediaType, ocispec.MediaTypeImageManifest)
	if err := store.Hold(ctx, held); err != nil {
		return "", fmt.Errorf("the image of %s: %w", c.Name, err)
	}
	config, err := e.commitConfig(c, base, o)
	if err != nil {
		return "", err
	}
	blob, diffID, err := e.commitLayer(ctx, store, c, o)
	if err := e.whole(c, ref, err); err != nil {
		return "", err
	}
	target, id, err := commitImage(ctx, store, base, config, blob, diffID, c.history(o))
	if err != nil {
		return "", err
	}
	// Its size is that of what is unpacked, and who runs it need not wait.
	img, err := content.Resolve(ctx, store.Content, target, content.Host())
	if err != nil {
		return "", err
	}
	if _, err := store.Unpack(ctx, img); err != nil {
		return "", err
	}
	if err := store.Images.Put(ctx, image.Image{Name: name, Target: target}); err != nil {
		return "", err
	}
	e.tell(c, "commit", map[string]string{"comment": o.Comment, "imageID": id.String(), "imageRef": o.Name})
	return id, nil
}

func (e *Engine) blobSize(ctx context.Context, store *cache.Store, d digest.Digest) int64 {
	info, err := store.Content.Stat(ctx, d)
	if err != nil {
		return 0 // reading it will say what is wrong
	}
	return info.Size
}

// commitConfig is the config object of the image to be.
func (e *Engine) commitConfig(c *Container, base content.Image, o CommitOptions) ([]byte, error) {
	var raw struct {
		Config map[string]json.RawMessage `json:"config"`
	}
	if err := json.Unmarshal(base.RawConfig, &raw); err != nil {
		return nil, fmt.Errorf("image config: %w", err)
	}
	fields := raw.Config
	if fields == nil {
		fields = map[string]json.RawMessage{}
	}
	err := c.mergeInto(fields)
	if err == nil && o.Config != nil {
		fields, err = fillConfig(o.Config, fields)
	}
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if len(o.Changes) == 0 {
		return config, nil
	}
	return e.Change(config, o.Changes)
}

// mergeInto replaces in an image's config what the container was created with.
func (c *Container) mergeInto(fields map[string]json.RawMessage) error {
	in := c.inspectConfig()
	for name, v := range map[string]any{
		"User": in.User, "ExposedPorts": in.ExposedPorts, "Env": in.Env, "Cmd": in.Cmd, "Entrypoint": in.Entrypoint,
		"Volumes": in.Volumes, "WorkingDir": in.WorkingDir, "Labels": in.Labels, "StopSignal": in.StopSignal,
		"Healthcheck": in.Healthcheck, "Shell": in.Shell,
	} {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if slices.Contains([]string{"null", `""`, "{}", "[]"}, string(b)) {
			delete(fields, name)
			continue
		}
		fields[name] = b
	}
	return nil
}

func (c *Container) history(o CommitOptions) ocispec.History {
	now := time.Now().UTC()
	return ocispec.History{Created: &now, CreatedBy: c.Command(), Author: o.Author, Comment: o.Comment}
}

// hasEnded says whether a container does not run, by now.
func (e *Engine) hasEnded(ctx context.Context, id string) bool {
	c, err := e.current(ctx, id)
	return err == nil && ended(c.State)
}

// commitLayer puts what the container has changed into the store as a blob.
func (e *Engine) commitLayer(ctx context.Context, store *cache.Store, c *Container, o CommitOptions) (blob ocispec.Descriptor, diffID digest.Digest, err error) {
	sn, err := store.Snapshots.Get(c.ID)
	if err != nil {
		return blob, "", err
	}
	if o.Pause && c.State.Status == keeper.Running {
		switch failure := e.Pause(ctx, c.ID); {
		case failure == nil:
			defer func() { err = errors.Join(err, e.Unpause(context.WithoutCancel(ctx), c.ID)) }()
		case !errdefs.IsNotImplemented(failure) && !e.hasEnded(ctx, c.ID): // without a control group nothing can be paused
			return blob, "", fmt.Errorf("pausing %s: %w", c.Name, failure)
		}
	}
	compare, err := compareUpper(sn)
	if err != nil {
		return blob, "", err
	}
	defer compare.close()
	w, err := store.Content.Writer(ctx)
	if err != nil {
		return blob, "", err
	}
	defer w.Close()
	zw := pgzip.NewWriter(w)
	h := digest.SHA256.Digester()
	skip := func(p string) bool {
		fi, err := compare.upper.Lstat(p)
		return err == nil && compare.ourOwn(p, fi)
	}
	to := layer.TarOptions{UserXattr: mount.NeedsUserXattr(), Skip: skip}
	if c.UserIDs.copied() {
		to.Owner = c.UserIDs.inside
	}
	err = layer.WriteTar(ctx, sn.Upper, io.MultiWriter(zw, h.Hash()), to)
	if err = errors.Join(err, zw.Close()); err != nil {
		return blob, "", fmt.Errorf("writing the changes of %s: %w", c.Name, err)
	}
	blob, err = w.Commit(ctx, ocispec.MediaTypeImageLayerGzip)
	return blob, h.Digest(), err
}

// commitImage puts config and manifest into the store.
func commitImage(ctx context.Context, store *cache.Store, base content.Image, config []byte, blob ocispec.Descriptor, diffID digest.Digest, h ocispec.History) (target ocispec.Descriptor, id digest.Digest, err error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(base.RawConfig, &fields); err != nil {
		return target, "", fmt.Errorf("image config: %w", err)
	}
	rootfs := base.Config.RootFS
	rootfs.DiffIDs = append(slices.Clone(rootfs.DiffIDs), diffID)
	parts := map[string]any{
		"config": json.RawMessage(config), "rootfs": rootfs, "created": h.Created,
		"history": append(slices.Clone(base.Config.History), h),
	}
	if h.Author != "" {
		parts["author"] = h.Author
	}
	if delete(fields, "comment"); h.Comment != "" {
		parts["comment"] = h.Comment
	}
	for name, v := range parts {
		if fields[name], err = json.Marshal(v); err != nil {
			return target, "", err
		}
	}
	for _, old := range []string{"container", "container_config", "docker_version", "parent", "id"} {
		delete(fields, old)
	}
	configBlob, err := content.PushJSON(ctx, store.Content, ocispec.MediaTypeImageConfig, fields)
	if err != nil {
		return target, "", err
	}
	layers := slices.Clone(base.Manifest.Layers)
	for i := range layers {
		layers[i].MediaType = content.OCIType(layers[i].MediaType)
	}
	target, err = content.PushJSON(ctx, store.Content, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configBlob, Layers: append(layers, blob), Annotations: maps.Clone(base.Manifest.Annotations),
	})
	return target, configBlob.Digest, err
}
