package main

import "context"

// measureZstd compares a cold pull of zstd layers with one of the same in gzip.
func measureZstd(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	gzip, _, err := b.publish(ctx, address, "gzip", largeImage())
	if err != nil {
		return err
	}
	spec := largeImage()
	spec.zstd = true
	image, _, err := b.publish(ctx, address, "zstd", spec)
	if err != nil {
		return err
	}
	p, stop := b.pullers(ctx)
	defer stop()
	contenders := p.cold(image)
	contenders = append(contenders[:len(contenders)-1], p.cold(gzip)[0]) // skopeo does not decompress
	contenders[len(contenders)-1].name = "teu, the same in gzip"
	b.report.add(figure{title: "Cold pull of the 835 MB image in zstd layers", unit: "ms", results: b.race(ctx, 0, max(1, min(2, b.rounds/7)), contenders)})
	return nil
}
