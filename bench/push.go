package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// measurePush takes the time of pushing the large image to an empty registry, and again.
func measurePush(ctx context.Context, b *bench) error {
	source, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	image, _, err := b.publish(ctx, source, "large", largeImage())
	if err != nil {
		return err
	}
	target, emptied, stop, err := b.emptyRegistry(ctx)
	if err != nil {
		return err
	}
	defer stop()
	pushed := target + "/bench/pushed:1"
	p, stop := b.pullers(ctx)
	defer stop()
	contenders := p.pushers(ctx, image, pushed)
	for i := range contenders {
		if first := contenders[i].prepare; first != nil { // get the image
			if err := first(); err != nil {
				p.failed[contenders[i].name] = err
				contenders[i] = p.or(contenders[i].name, contenders[i])
				continue
			}
		}
		contenders[i].prepare = emptied
	}
	b.report.add(figure{title: "Push of the 835 MB image to an empty registry", unit: "ms",
		note:    "To distribution's registry on loopback. The image was pulled, so that a tool which kept its compressed layers need not compress. skopeo pushes an OCI layout.",
		results: b.race(ctx, 0, max(1, min(3, b.rounds/7)), contenders)})
	for i, c := range contenders {
		if p.failed[c.name] == nil {
			contenders[i].prepare = nil
		}
	}
	b.report.add(figure{title: "Push of the same image again", unit: "ms", results: b.race(ctx, 1, max(1, b.rounds/2), contenders)})
	return nil
}

// pushers push image as pushed; what prepares each gets the image first.
func (p *pullers) pushers(ctx context.Context, image, pushed string) []contender {
	b := p.b
	all := func(commands ...[]string) func() error {
		return func() error {
			for _, c := range commands {
				if err := b.must(ctx, c[0], c[1:]...); err != nil {
					return err
				}
			}
			return nil
		}
	}
	nerdctl := func(args string) []string {
		return []string{"sh", "-c", "exec " + p.nerdctl + " --namespace push " + args}
	}
	return []contender{
		{name: "teu", prepare: all([]string{b.teu, "pull", "-q", image}, []string{b.teu, "tag", image, pushed}), args: []string{b.teu, "push", "-q", pushed}},
		p.or("docker", contender{name: "docker", prepare: all([]string{"docker", "pull", "-q", image}, []string{"docker", "tag", image, pushed}), args: []string{"docker", "push", "-q", pushed}}),
		p.or("nerdctl", contender{name: "nerdctl", prepare: all(nerdctl("pull -q "+image), nerdctl("tag "+image+" "+pushed)), args: nerdctl("push -q " + pushed)}),
		{name: "podman", prepare: all(b.podman("pull", "-q", "--tls-verify=false", image), b.podman("tag", image, pushed)), args: b.podman("push", "-q", "--tls-verify=false", pushed)},
		{name: "skopeo", args: []string{"skopeo", "copy", "-q", "--dest-tls-verify=false", "oci:" + filepath.Join(b.dir, "layout-large") + ":1", "docker://" + pushed}},
	}
}

// emptyRegistry starts distribution, with nothing that outlives emptied, which empties it.
func (b *bench) emptyRegistry(ctx context.Context) (address string, emptied func() error, stop func(), err error) {
	if address, err = freePort(); err != nil {
		return "", nil, nil, err
	}
	root := filepath.Join(b.dir, "target")
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\nhttp: {addr: %s}\n", root, address)
	if err := writeFile(filepath.Join(b.dir, "target.yml"), config); err != nil {
		return "", nil, nil, err
	}
	stop, err = b.daemon(ctx, dialable("tcp", address), filepath.Join(b.peers, "registry"), "serve", filepath.Join(b.dir, "target.yml"))
	return address, func() error { return os.RemoveAll(root) }, stop, err
}
