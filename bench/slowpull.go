package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
)

// measureSlowPull takes the time of cold pulls over a slow link.
func measureSlowPull(ctx context.Context, b *bench) error {
	link, err := newSlowLink()
	if err != nil {
		return err
	}
	defer link.close()
	var address string
	var stop func()
	link.far.do(func() {
		if err = fastOpen(fastOpenAll); err != nil {
			return
		}
		address, stop, err = b.distributionAt(ctx, farAddress+":5000", filepath.Join(b.peers, "registry"), filepath.Join(b.dir, "distribution.yml"))
		err = errors.Join(err, fastOpen(fastOpenUsual))
	})
	if stop != nil {
		defer stop()
	}
	if err != nil {
		return err
	}
	image, layers, err := b.publish(ctx, address, "large", largeImage())
	if err != nil {
		return err
	}
	debian, _, err := b.publish(ctx, address, "debian", b.debianImage())
	if err != nil {
		return err
	}
	config := filepath.Join(b.dir, "teu.json")
	if err := writeFile(config, fmt.Sprintf("{%q: [%q]}\n", "insecure-registries", farAddress)); err != nil {
		return err
	}
	b.env = []string{"TEU_CONFIG=" + config}
	defer func() { b.env = nil }()
	link.slow.Store(true)
	p, stop := b.pullers(ctx)
	defer stop()
	var bytes int64
	floor := contender{name: "floor: curl, one connection", args: []string{"curl", "-sSf"}}
	for _, l := range layers {
		bytes += l.Size
		floor.args = append(floor.args, "-o", "/dev/null", "http://"+address+"/v2/bench/large/blobs/"+l.Digest.String())
	}
	f := figure{title: "Cold pull of the 835 MB image over 50 ms and 200 Mbit/s", unit: "ms",
		note: fmt.Sprintf("The registry is in another network namespace; packets between are delayed, and dropped when more wait than the link takes in 50 ms, as netem would. "+
			"%d MB cross it. The floor only fetches the layers, one after another. The link's row is what these take by themselves, with their headers.", bytes>>20),
		results: b.race(ctx, 0, max(1, b.rounds/6), append(p.cold(image), floor))}
	f.results = append(f.results, result{tool: "the link", values: []float64{float64(bytes) / payload * packet / linkRate * 1000}})
	b.report.add(f)
	f = figure{title: "Pull of Debian that is there already, over 50 ms and 200 Mbit/s", unit: "ms",
		note: "From plain HTTP: all of them try TLS, most of them first, and every connection takes a round trip of its own. " +
			"The last row is of a registry whose system takes early bytes (TCP Fast Open, net.ipv4.tcp_fastopen=3), which teu sends where it can; systems do not by themselves.",
		results: b.race(ctx, 1, max(1, b.rounds/3), p.again(debian))}
	link.far.do(func() { err = fastOpen(fastOpenAll) })
	if err != nil {
		return err
	}
	early := p.again(debian)[:1]
	early[0].name += ", early bytes"
	f.results = append(f.results, b.race(ctx, 2, max(1, b.rounds/3), early)...)
	b.report.add(f)
	return nil
}
