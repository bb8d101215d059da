package build

import (
	"archive/tar"
	"context"
	"fmt"
	"io"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/build/export"
	"github.com/teu-dev/teu/build/remotecache"
	"github.com/teu-dev/teu/cache/layer"
	"github.com/teu-dev/teu/cache/rootfs"
)

// sendMounts sends the cache mounts that steps of this build used.
func (x *exporter) sendMounts(ctx context.Context) error {
	for _, key := range x.r.env.UsedCaches() {
		err := x.r.env.ReadCache(ctx, key, func(dir *rootfs.Dir) error {
			return remotecache.SaveMount(ctx, x.place, key, func(w io.Writer) error {
				tw := tar.NewWriter(w)
				if err := export.WriteTar(ctx, tw, dir, export.TreeOptions{}); err != nil {
					return err
				}
				return tw.Close()
			})
		})
		if err != nil {
			return fmt.Errorf("cache mount: %w", err)
		}
	}
	return nil
}

// fillMount fills the directory of a cache mount that is not here yet with what a shared cache has of it.
// A failure leaves an empty or a half full one, which a cache may be.
func (r *run) fillMount(ctx context.Context, key, dir string) error {
	for _, im := range r.cache.from {
		if !im.mounts {
			continue
		}
		tar, err := remotecache.LoadMount(ctx, im.place, key)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err == nil {
			_, err = layer.Apply(ctx, dir, tar, layer.ApplyOptions{})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			r.warnf("cache mount not filled from %s: %v", im.place, err)
		}
		return nil
	}
	return nil
}
