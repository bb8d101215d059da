package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
)

// A CacheRef is a place of --cache-from or --cache-to, as buildx takes it.
type CacheRef struct {
	Type string            // "registry", "local" or "inline"
	Args map[string]string // ref; src, dest; mode, compression, ignore-error, mounts
}

func (c CacheRef) String() string {
	for _, name := range []string{"ref", "src", "dest"} {
		if v := c.Args[name]; v != "" {
			return v
		}
	}
	return c.Type
}

func (c CacheRef) flag(name string) (bool, error) {
	if c.Args[name] == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(c.Args[name])
	if err != nil {
		return false, invalidf("%s=%s is neither true nor false", name, c.Args[name])
	}
	return v, nil
}

// openPlace opens the place of a reference.
func (r *run) openPlace(ctx context.Context, c CacheRef, write bool) (remotecache.Place, error) {
	switch c.Type {
	case "registry":
		named, err := reference.ParseNormalizedNamed(c.Args["ref"])
		if err != nil {
			return nil, invalidf("ref=%s: %v", c.Args["ref"], err)
		}
		named = reference.TagNameOnly(named)
		tagged, ok := named.(reference.Tagged)
		if !ok {
			return nil, invalidf("ref=%s has a digest", c.Args["ref"])
		}
		repo, err := r.b.Registry.Repository(named)
		if err != nil {
			return nil, err
		}
		repo.Source = r.b.Store.Content
		if !write {
			place, err := r.insideImage(ctx, repo, named, tagged.Tag())
			if place != nil || err != nil {
				return place, err
			}
		}
		return remotecache.InRegistry(repo, named.Name(), tagged.Tag()), nil
	case "local":
		if r.o.Caller != nil {
			return r.o.Caller.Cache(ctx, c, write)
		}
		name := map[bool]string{false: "src", true: "dest"}[write]
		if c.Args[name] == "" {
			return nil, invalidf("type=local needs %s=DIRECTORY", name)
		}
		return remotecache.InDir(c.Args[name], remotecache.DirOptions{Make: write})
	case "inline":
		return nil, invalidf("type=inline is read as type=registry,ref=IMAGE")
	}
	return nil, invalidf("type=%s is none of registry, local and inline", c.Type)
}

// insideImage returns the cache that an image carries inside, or nil if the reference is none.
func (r *run) insideImage(ctx context.Context, repo interface {
	content.Fetcher
	Manifest(ctx context.Context, tag string) (ocispec.Descriptor, []byte, error)
}, named reference.Named, tag string) (remotecache.Place, error) {
	d, _, err := repo.Manifest(ctx, tag)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var images []content.Image
	for _, platform := range r.platforms() {
		img, err := content.Resolve(ctx, repo, d, platform)
		if err != nil {
			r.warnf("cache inside the image %s for %s ignored: %v", reference.FamiliarString(named), platformName(platform), err)
			continue
		}
		images = append(images, img)
	}
	if images == nil {
		return nil, nil
	}
	place, err := remotecache.Inside(repo, named.String(), images...)
	if err != nil {
		r.warnf("cache inside the image %s ignored: %v", reference.FamiliarString(named), err)
		return nil, nil
	}
	return place, nil
}

// platforms are those that are built for.
func (r *run) platforms() []ocispec.Platform {
	if len(r.o.Platforms) > 0 {
		return r.o.Platforms
	}
	return []ocispec.Platform{content.Host()}
}

// An exporter sends records to a place, several at once, beside the steps that follow.
type exporter struct {
	r         *run
	ctx       context.Context // of the build: a step that is given up does not end what was begun for it
	place     remotecache.Place
	last      bool   // mode=min: only what the image is made of, when that is known
	mediaType string // of layers
	forgiving bool   // a failure is only warned of
	mounts    bool   // cache mounts too
	anew      bool   // place has only what is sent now, whatever was there

	slots   chan struct{}
	wg      sync.WaitGroup
	mu      sync.Mutex
	err     error                                       // the first
	ready   func() error                                // brings what all entries refer to, once
	sent    map[digest.Digest]*solver.Record[op.Result] // by key: begun; what was made here, if it was
	entries map[digest.Digest]func() (*remotecache.Entry, error)
	layers  map[string]func() (remotecache.Layer, error)
}

// newExporter returns nil for an inline cache, which goes with the image.
func (r *run) newExporter(ctx context.Context, c CacheRef) (*exporter, error) {
	if c.Type == "inline" {
		r.inline = true
		return nil, nil
	}
	if m := c.Args["mode"]; m != "" && m != "min" && m != "max" {
		return nil, invalidf("mode=%s is neither min nor max", m)
	}
	place, err := r.openPlace(ctx, c, true)
	if err != nil {
		return nil, err
	}
	ex := &exporter{
		r: r, ctx: ctx, place: place, last: c.Args["mode"] == "min", slots: make(chan struct{}, 6), sent: map[digest.Digest]*solver.Record[op.Result]{},
		entries: map[digest.Digest]func() (*remotecache.Entry, error){}, layers: map[string]func() (remotecache.Layer, error){},
		ready: sync.OnceValue(func() error { return remotecache.Prepare(ctx, place) }),
		anew:  c.Type == "local" && r.o.Caller != nil, // the index that the client finds it by is made by each build
	}
	if ex.mediaType, err = layerType(c.Args["compression"]); err != nil {
		return nil, err
	}
	if ex.forgiving, err = c.flag("ignore-error"); err != nil {
		return nil, err
	}
	ex.mounts, err = c.flag("mounts")
	return ex, err
}

func layerType(compression string) (string, error) {
	switch compression {
	case "", "gzip":
		return ocispec.MediaTypeImageLayerGzip, nil
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd, nil
	case "uncompressed":
		return ocispec.MediaTypeImageLayer, nil
	}
	return "", invalidf("compression=%s is none of gzip, zstd and uncompressed", compression)
}

// send begins to send rec under keys. What came from the same place is there already.
func (x *exporter) send(rec solver.Record[op.Result], from *importer, keys ...digest.Digest) {
	if from != nil && !x.anew && from.place.String() == x.place.String() {
		return
	}
	for _, key := range keys {
		if x.begin(rec, from != nil, key) {
			x.wg.Go(func() { x.work(x.ctx, rec, from != nil, key) })
		}
	}
}

// begin says whether nobody else sends under key. What was made here is kept for when
// the other sends what a cache promised, which it may not have.
func (x *exporter) begin(rec solver.Record[op.Result], promised bool, key digest.Digest) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	_, begun := x.sent[key]
	switch {
	case !promised:
		x.sent[key] = &rec
	case !begun:
		x.sent[key] = nil
	}
	return !begun
}

// work sends rec, and if it was promised in vain what was made here instead.
func (x *exporter) work(ctx context.Context, rec solver.Record[op.Result], promised bool, key digest.Digest) {
	select {
	case x.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-x.slots }()
	err := x.put(ctx, rec, key)
	if err != nil && promised {
		made := x.instead(rec.Key, key)
		if made == nil {
			return
		}
		err = x.put(ctx, *made, key)
	}
	if err != nil {
		x.fail(err)
	}
}

// instead returns what was made here of a record that could not be sent; nil leaves the
// key to whoever makes it later.
func (x *exporter) instead(record, key digest.Digest) *solver.Record[op.Result] {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.entries, record)
	made := x.sent[key]
	if made == nil {
		delete(x.sent, key)
	}
	return made
}

func (x *exporter) fail(err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.err == nil {
		x.err = err
	}
}

func (x *exporter) failed() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.err
}

// put sends rec under key, unless that is there.
func (x *exporter) put(ctx context.Context, rec solver.Record[op.Result], key digest.Digest) error {
	if x.failed() != nil {
		return nil
	}
	there, err := remotecache.Get(ctx, x.place, key)
	if err == nil && there.Canonical == rec.Key {
		return nil
	}
	if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsInvalidArgument(err) && !errdefs.IsDataLoss(err) {
		return err
	}
	x.mu.Lock()
	entryOnce := x.entries[rec.Key]
	if entryOnce == nil {
		entryOnce = sync.OnceValues(func() (*remotecache.Entry, error) { return x.entry(ctx, rec) })
		x.entries[rec.Key] = entryOnce
	}
	x.mu.Unlock()
	entry, err := entryOnce()
	if err != nil {
		return err
	}
	return remotecache.Put(ctx, x.place, *entry, key)
}

// entry sends the layers of rec and returns what is to be said of it.
func (x *exporter) entry(ctx context.Context, rec solver.Record[op.Result]) (*remotecache.Entry, error) {
	if err := x.ready(); err != nil {
		return nil, err
	}
	e := &remotecache.Entry{Canonical: rec.Key, Plain: rec.Plain, Description: rec.Description, Outputs: make([][]remotecache.Layer, len(rec.Outputs))}
	for i, out := range rec.Outputs {
		e.Outputs[i] = []remotecache.Layer{}
		for _, l := range out.Layers {
			sent, err := x.layer(ctx, l)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", rec.Description, err)
			}
			e.Outputs[i] = append(e.Outputs[i], sent)
		}
	}
	return e, nil
}

// layer sends a layer, once. Those of base images stay where they are.
func (x *exporter) layer(ctx context.Context, l op.Layer) (remotecache.Layer, error) {
	if l.Origin != nil {
		return remotecache.Layer{DiffID: l.DiffID}, nil
	}
	x.mu.Lock()
	sendOnce := x.layers[l.ID+l.DiffID.String()]
	if sendOnce == nil {
		sendOnce = sync.OnceValues(func() (remotecache.Layer, error) { return x.sendLayer(ctx, l) })
		x.layers[l.ID+l.DiffID.String()] = sendOnce
	}
	x.mu.Unlock()
	return sendOnce()
}

func (x *exporter) sendLayer(ctx context.Context, l op.Layer) (remotecache.Layer, error) {
	out := remotecache.Layer{DiffID: l.DiffID, Blob: l.Blob, Created: l.Created}
	var from content.Fetcher = l.From
	if l.ID != "" {
		sealed, err := x.r.b.Store.Layers.Seal(ctx, l.ID, x.r.epoch)
		if err != nil {
			return out, err
		}
		d, err := x.r.b.Store.CompressLayer(ctx, l.ID, x.mediaType)
		if err != nil {
			return out, err
		}
		out.DiffID, out.Blob, from = sealed.DiffID, &d, x.r.b.Store.Content
	}
	blob := *out.Blob
	blob.Annotations = nil
	out.Blob = &blob
	return out, remotecache.Send(ctx, x.place, blob, func() (io.ReadCloser, error) { return from.Fetch(ctx, blob) })
}

// finish waits until all is sent. states are those of the image.
func (x *exporter) finish(ctx context.Context, states []op.Result) error {
	if x.last {
		for _, seen := range x.r.cache.records() {
			if len(seen.Outputs) == 1 && slices.ContainsFunc(states, func(s op.Result) bool { return begins(s, seen.Outputs[0]) }) {
				x.send(seen.Record, seen.remote, seen.keys...)
			}
		}
	}
	x.wg.Wait()
	if x.mounts {
		if err := x.sendMounts(ctx); err != nil {
			x.fail(err)
		}
	}
	err := x.failed()
	if err != nil && x.forgiving && ctx.Err() == nil {
		x.r.warnf("the cache was not exported to %s: %v", x.place, err)
		return nil
	}
	return err
}

// begins says whether the layers of whole begin with those of part.
func begins(whole, part op.Result) bool {
	if len(part.Layers) > len(whole.Layers) || part.Local != nil {
		return false
	}
	for i, l := range part.Layers {
		if w := whole.Layers[i]; w.ID != l.ID || w.DiffID != l.DiffID {
			return false
		}
	}
	return true
}

// finishCache ends the sending of the cache and keeps what came from elsewhere.
func (r *run) finishCache(ctx context.Context, states []op.Result) error {
	errs := []error{r.cache.adopt(ctx)}
	for _, x := range r.cache.to {
		errs = append(errs, r.step(ctx, "exporting cache to "+x.place.String(), func(*solver.Console) error { return x.finish(ctx, states) }))
	}
	return errors.Join(errs...)
}

// inlineSteps returns the steps that the layers of state were made by.
func (r *run) inlineSteps(state op.Result) (list []remotecache.Inline) {
	for _, seen := range r.cache.records() {
		if len(seen.Outputs) == 1 && begins(state, seen.Outputs[0]) {
			list = append(list, remotecache.Inline{Keys: slices.Sorted(slices.Values(seen.keys)), Canonical: seen.Key, Layers: len(seen.Outputs[0].Layers)})
		}
	}
	slices.SortFunc(list, func(a, b remotecache.Inline) int {
		if a.Layers != b.Layers {
			return a.Layers - b.Layers
		}
		return cmp.Compare(a.Canonical, b.Canonical)
	})
	return list
}
