package main

import (
	"context"
	"os"
	"path/filepath"
)

// measureSave takes the time of saving the large image to an archive, and of loading that into an empty store.
func measureSave(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	image, _, err := b.publish(ctx, address, "large", largeImage())
	if err != nil {
		return err
	}
	p, stop := b.pullers(ctx)
	defer stop()
	saves, loads := p.archivers(ctx, image)
	for i, c := range saves {
		if c.prepare != nil {
			if err := c.prepare(); err != nil {
				p.failed[c.name] = err
			}
		}
		c.prepare = func() error { return os.RemoveAll(p.archive(c.name)) } // podman adds to one that is there
		saves[i], loads[i] = p.or(c.name, c), p.or(c.name, loads[i])
	}
	rounds := max(1, b.rounds/6)
	b.report.add(figure{title: "Save of the 835 MB image", unit: "ms", results: b.race(ctx, 0, rounds, saves)})
	b.report.add(figure{title: "Load of what the tool saved, into an empty store", unit: "ms", results: b.race(ctx, 0, rounds, loads)})
	return nil
}

// archive is what the tool saves.
func (p *pullers) archive(tool string) string { return filepath.Join(p.b.dir, tool+".tar") }

// archivers save and load image; what prepares a save pulls it.
func (p *pullers) archivers(ctx context.Context, image string) (saves, loads []contender) {
	b := p.b
	do := func(args ...string) func() error { return func() error { return b.must(ctx, args[0], args[1:]...) } }
	nerdctl := func(namespace, args string) []string {
		return []string{"sh", "-c", "exec " + p.nerdctl + " --namespace " + namespace + " " + args}
	}
	pull := b.podman("pull", "-q", "--tls-verify=false", image)
	saves = []contender{
		{name: "teu", prepare: do(b.teu, "pull", "-q", image), args: []string{b.teu, "save", "-o", p.archive("teu"), image}},
		{name: "docker", prepare: do("docker", "pull", "-q", image), args: []string{"docker", "save", "-o", p.archive("docker"), image}},
		{name: "nerdctl", prepare: do(nerdctl("save", "pull -q "+image)...), args: nerdctl("save", "save -o "+p.archive("nerdctl")+" "+image)},
		{name: "podman", prepare: do(pull...), args: b.podman("save", "-q", "-o", p.archive("podman"), image)},
	}
	emptyPodman := p.fresh("podman")
	// What is loaded stays on the disk, which does not hold three of each tool.
	loads = []contender{
		{name: "teu", prepare: p.freshTeu(ctx), args: []string{b.teu, "load", "-q", "-i", p.archive("teu")}},
		{name: "docker", prepare: do("docker", "rmi", "-f", image), args: []string{"docker", "load", "-q", "-i", p.archive("docker")}},
		{name: "nerdctl", most: 1, args: nerdctl("load", "load -q -i "+p.archive("nerdctl"))},
		{name: "podman", most: 1, prepare: emptyPodman, args: b.podman("load", "-q", "-i", p.archive("podman"))},
	}
	return saves, loads
}
