package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/cache/content"
)

// keyAnnotation names the cache entry that a manifest is, in the index of a client's directory.
const keyAnnotation = "dev.teu.cache.key"

// A clientCache is a cache in a directory of the client: an OCI layout, where one index refers to the manifests
// of all entries. The client puts the index into index.json, under its tag, and says what it finds there.
type clientCache struct {
	*clientStore
	dir       string
	forgiving bool // a failure to write it is none of the build

	mu      sync.Mutex
	entries map[string]ocispec.Descriptor // by the name of the entry
}

var _ remotecache.Place = (*clientCache)(nil)

// cache opens the directory of a cache.
func (c *caller) cache(ctx context.Context, ref build.CacheRef, write bool) (remotecache.Place, error) {
	dir := ref.Args[map[bool]string{false: "src", true: "dest"}[write]]
	s, err := c.of(ctx, "")
	if err != nil {
		return nil, err
	}
	p := &clientCache{clientStore: newClientStore(s, "local:"+dir), dir: dir, forgiving: build.Yes(ref.Args["ignore-error"]), entries: map[string]ocispec.Descriptor{}}
	if write {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.written = append(c.written, p)
		return p, nil
	}
	d, err := digest.Parse(ref.Args["digest"])
	if err != nil {
		return nil, fmt.Errorf("the cache %s: digest %q: %w", dir, ref.Args["digest"], errdefs.ErrInvalidArgument)
	}
	return p, p.read(ctx, d)
}

// read reads the index.
func (p *clientCache) read(ctx context.Context, d digest.Digest) error {
	info, err := p.Info(ctx, d)
	if err != nil {
		return err
	}
	data, err := content.ReadAll(ctx, p, ocispec.Descriptor{Digest: d, Size: info.Size})
	if err != nil {
		return err
	}
	var index ocispec.Index
	if err := content.Unmarshal(data, &index); err != nil {
		return fmt.Errorf("index of the cache: %w", err)
	}
	for _, m := range index.Manifests {
		if name := m.Annotations[keyAnnotation]; name != "" && m.Digest.Validate() == nil {
			p.entries[name] = m
		}
	}
	if len(p.entries) == 0 {
		return fmt.Errorf("%s has no cache of teu's: %w", p.dir, errdefs.ErrNotFound)
	}
	return nil
}

// String implements remotecache.Place.
func (p *clientCache) String() string { return p.dir }

// Get implements remotecache.Place.
func (p *clientCache) Get(ctx context.Context, name string) ([]byte, error) {
	p.mu.Lock()
	d, ok := p.entries[name]
	p.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("cache entry %.12s: %w", name, errdefs.ErrNotFound)
	}
	return content.ReadAll(ctx, p, d)
}

// Put implements remotecache.Place.
func (p *clientCache) Put(ctx context.Context, name string, d ocispec.Descriptor, manifest []byte) error {
	if err := p.Push(ctx, d, bytes.NewReader(manifest)); err != nil {
		return err
	}
	d.Annotations = map[string]string{keyAnnotation: name}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.entries[name] = d
	return nil
}

// finishCaches writes the indices of the client's caches, and returns what it has to put into index.json of all of them;
// "": there are none.
func (c *caller) finishCaches(ctx context.Context) (manifest string, err error) {
	for _, p := range c.written {
		text, err := p.finish(ctx)
		switch {
		case err != nil && p.forgiving:
		case err != nil:
			return "", err
		case manifest != "" && manifest != text:
			return "", fmt.Errorf("the caches %s and %s did not become the same: %w", c.written[0].dir, p.dir, errdefs.ErrInternal)
		default:
			manifest = text
		}
	}
	return manifest, nil
}

// finish writes the index, and returns what the client has to put into index.json.
func (p *clientCache) finish(ctx context.Context) (string, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	for _, name := range slices.Sorted(maps.Keys(p.entries)) {
		index.Manifests = append(index.Manifests, p.entries[name])
	}
	data, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	d := ocispec.Descriptor{MediaType: index.MediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	if err := p.Push(ctx, d, bytes.NewReader(data)); err != nil {
		return "", fmt.Errorf("index of the cache %s: %w", p.dir, err)
	}
	text, err := json.Marshal(d)
	return string(text), err
}
