//go:build !front && !porter

package main

import (
	"context"

	"github.com/docker/go-units"

	"github.com/teu-dev/teu/build"
)

// holdBudget keeps the store within storage.max of the configuration, after a command that made it grow.
// That it fails is no reason for the command to fail.
func (a *app) holdBudget(ctx context.Context) {
	limit, err := a.config.storageMax()
	if err == nil && limit > 0 {
		err = a.shrink(ctx, limit)
	}
	if err != nil {
		a.ui.Warnf("holding the store to its size: %v", err)
	}
}

// shrink drops what can be had again: blobs of unpacked layers, then the build cache. Images that have a
// name are the user's to remove.
func (a *app) shrink(ctx context.Context, limit int64) error {
	s, err := a.store()
	if err != nil {
		return err
	}
	done, err := s.Shrink(ctx, limit)
	if err != nil || done.Size <= limit {
		return err
	}
	b, err := a.builder()
	if err != nil {
		return err
	}
	entries, err := b.Cache(ctx)
	if err != nil {
		return err
	}
	var size int64
	for _, e := range entries {
		size += e.Size
	}
	if size > 0 {
		if _, err := b.Prune(ctx, build.PruneOptions{Keep: max(size-(done.Size-limit), 1)}); err != nil {
			return err
		}
		if done, err = s.Shrink(ctx, limit); err != nil {
			return err
		}
	}
	if done.Size > limit {
		a.ui.Warnf("the store has %s, more than the %s of storage.max, all of it in use: remove images or containers",
			units.HumanSize(float64(done.Size)), units.HumanSize(float64(limit)))
	}
	return nil
}
