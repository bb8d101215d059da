package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// measureRegistryMany looks at teu's registry with much in it: many tags, many blobs.
func measureRegistryMany(ctx context.Context, b *bench) error {
	if err := b.measureTags(ctx); err != nil {
		return fmt.Errorf("tags: %w", err)
	}
	if err := b.measureMillion(ctx); err != nil {
		return fmt.Errorf("blobs: %w", err)
	}
	return nil
}

const (
	manyTags = 100_000
	fewTags  = 10
	tagPage  = 1000
	tagPuts  = 300
)

// measureTags has a repository of many tags, and one of few.
func (b *bench) measureTags(ctx context.Context) error {
	address, stop, err := b.teuRegistry(ctx)
	if err != nil {
		return err
	}
	defer stop()
	manifest := map[string][]byte{}
	for repo, tags := range map[string]int{"bench/many": manyTags, "bench/few": fewTags} {
		if manifest[repo], err = seedTags(ctx, address, repo, tags); err != nil {
			return err
		}
	}
	c, err := dialHTTP(address)
	if err != nil {
		return err
	}
	defer c.Close()
	pages, many, few := result{tool: "teu"}, result{tool: "teu, 100,000 tags"}, result{tool: "teu, 10 tags"}
	for i := range 50 {
		start := time.Now()
		if _, err := c.do("GET", fmt.Sprintf("/v2/bench/many/tags/list?n=%d&last=t%06d", tagPage, i*1900), ""); err != nil {
			return err
		}
		pages.values = append(pages.values, milliseconds(time.Since(start)))
	}
	for i := range tagPuts {
		for repo, r := range map[string]*result{"bench/many": &many, "bench/few": &few} {
			start := time.Now()
			if err := c.putManifest(repo, fmt.Sprintf("new%d", i), manifest[repo]); err != nil {
				return err
			}
			r.values = append(r.values, milliseconds(time.Since(start)))
		}
	}
	b.report.add(figure{title: "Registry: a page of 1,000 of 100,000 tags", unit: "ms", results: []result{pages}})
	b.report.add(figure{title: "Registry: a tag is set in a repository of 100,000 tags, and of 10", unit: "ms", results: []result{many, few}})
	return nil
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// seedTags sets tags t000000.. of one image, many with each request, and returns its manifest.
func seedTags(ctx context.Context, address, repo string, tags int) ([]byte, error) {
	image := newSmallImage([]byte("layer"))
	const batch = 50
	return image.manifest, each(ctx, address, 4, func(c *httpConn, client int) error {
		if err := c.pushImage(repo, "t000000", image); err != nil {
			return err
		}
		for from := client * batch; from < tags; from += 4 * batch {
			reference := digest.FromBytes(image.manifest).String() + "?"
			for i := from; i < min(from+batch, tags); i++ {
				reference += fmt.Sprintf("&tag=t%06d", i)
			}
			if err := c.putManifest(repo, reference, image.manifest); err != nil {
				return err
			}
		}
		return nil
	})
}

const (
	millionRepositories = 500
	millionManifests    = 20 // in each
	millionBlobs        = 100
	// gcRate is that of servers.
	gcRate = "50000"
)

// measureMillion has a registry of 1,000,000 blobs: how long until a server answers, and what
// a collection of garbage costs those who push meanwhile.
func (b *bench) measureMillion(ctx context.Context) error {
	root, unmount, err := b.smallFilesDisk()
	if err != nil {
		return err
	}
	defer unmount()
	if err := b.plantMillion(ctx, filepath.Join(root, "registry")); err != nil {
		return err
	}
	starts := result{tool: "teu"}
	var address string
	var stop func()
	for range 3 {
		if stop != nil {
			stop()
		}
		begin := time.Now()
		if address, stop, err = b.teuRegistryAt(ctx, filepath.Join(root, "registry")); err != nil {
			return err
		}
		starts.values = append(starts.values, milliseconds(time.Since(begin)))
	}
	defer stop()
	b.report.add(figure{title: "Registry: start with 1,000,000 blobs", unit: "ms", results: []result{starts}, note: "Until a connection is accepted, asked for every 50 ms."})
	begin := time.Now()
	if err := b.must(ctx, b.teu, "registry", "gc", "--root", filepath.Join(root, "registry")); err != nil {
		return err
	}
	rate := float64(millionRepositories*millionManifests*millionBlobs) / time.Since(begin).Seconds()
	b.report.add(figure{title: "Registry: collection of garbage among 1,000,000 blobs", unit: "blobs per second", more: true,
		results: []result{{tool: "teu", values: []float64{rate}}}})
	return b.measureGCPushes(ctx, address, filepath.Join(root, "registry"))
}

// measureGCPushes compares pushes beside a collection with pushes alone.
func (b *bench) measureGCPushes(ctx context.Context, address, root string) error {
	during, alone := result{tool: "teu, while garbage is collected"}, result{tool: "teu, alone"}
	for round := range 2 * b.registryRounds() {
		r := &alone
		wait := func() {}
		if round%2 == 1 {
			r = &during
			gc := b.command(ctx, b.teu, "registry", "gc", "--root", root, "--rate", gcRate)
			if err := gc.Start(); err != nil {
				return err
			}
			wait = func() { _ = gc.Process.Signal(unix.SIGTERM); _ = gc.Wait() }
		}
		_, took, err := load(ctx, 64, 4*time.Second, []string{address}, pushSmall(100+round))
		wait()
		if err != nil {
			return err
		}
		slices.Sort(took)
		r.values = append(r.values, milliseconds(took[len(took)*99/100]))
	}
	b.report.add(figure{title: "Registry: 99th percentile of pushes of small images, 64 clients, beside 1,000,000 blobs", unit: "ms", results: []result{during, alone},
		note: registryNote + " The collection looks at 50,000 files a second, as that of a server does."})
	return nil
}

// teuRegistryAt starts teu's registry on a directory, without collections of its own.
func (b *bench) teuRegistryAt(ctx context.Context, root string) (address string, stop func(), err error) {
	if address, err = freePort(); err != nil {
		return "", nil, err
	}
	stop, err = b.daemon(ctx, dialable("tcp", address), b.teu, "serve", "registry", "--addr", address, "--root", root, "--gc-interval", "0")
	return address, stop, err
}

// smallFilesDisk is an ext4 for two million small files.
func (b *bench) smallFilesDisk() (dir string, unmount func(), err error) {
	base := filepath.Dir(b.dir)
	file, dir := filepath.Join(base, "small"), filepath.Join(base, "small-mnt")
	script := `set -e; truncate -s 8G "$1"; mkfs.ext4 -q -m 0 -N 1400000 -O inline_data "$1"; mkdir "$2"; mount -o loop "$1" "$2"`
	if out, err := exec.Command("sh", "-c", script, "sh", file, dir).CombinedOutput(); err != nil {
		return "", nil, fmt.Errorf("making a disk: %w: %s", err, out)
	}
	return dir, func() { _ = unix.Unmount(dir, unix.MNT_DETACH); _ = os.Remove(file) }, nil
}

// plantMillion writes what a million pushes would have left. The tree is described in the
// package server/registry.
func (b *bench) plantMillion(ctx context.Context, root string) error {
	_, stop, err := b.teuRegistryAt(ctx, root) // makes the directories of a new registry
	if err != nil {
		return err
	}
	stop()
	for i := range 256 {
		if err := os.MkdirAll(filepath.Join(root, "blobs/sha256", fmt.Sprintf("%02x", i)), 0o755); err != nil {
			return err
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(2)
	for i := range millionRepositories {
		g.Go(func() error {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return plantRepository(root, fmt.Sprintf("bench/r%03d", i))
		})
	}
	return g.Wait()
}

func plantRepository(root, name string) error {
	dir := filepath.Join(root, "repositories", name)
	for _, d := range []string{"_blobs/sha256", "_manifests/sha256", "_tags"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for i := range millionManifests {
		m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
		for j := range millionBlobs {
			blob := fmt.Appendf(nil, "%s %d %d", name, i, j)
			d := digest.FromBytes(blob)
			path := filepath.Join(root, "blobs/sha256", d.Encoded()[:2], d.Encoded())
			if err := os.WriteFile(path, blob, 0o644); err != nil {
				return err
			}
			if err := os.Link(path, filepath.Join(dir, "_blobs/sha256", d.Encoded())); err != nil {
				return err
			}
			m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: d, Size: int64(len(blob))}
			m.Layers = append(m.Layers, m.Config)
		}
		m.Layers, m.Config.MediaType = m.Layers[:millionBlobs-1], ocispec.MediaTypeImageConfig
		body, err := json.Marshal(m)
		if err != nil {
			return err
		}
		d := digest.FromBytes(body)
		path := filepath.Join(dir, "_manifests/sha256", d.Encoded())
		if err := os.WriteFile(path, []byte("manifest "+d.String()+" "+m.MediaType+"\n"+string(body)), 0o644); err != nil {
			return err
		}
		if err := os.Link(path, filepath.Join(dir, "_tags", fmt.Sprint("v", i))); err != nil {
			return err
		}
	}
	return nil
}
