package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// measurePull takes the time of pulls from a registry on loopback, cold and of what is there.
func measurePull(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	large, layers, err := b.publish(ctx, address, "large", largeImage())
	if err != nil {
		return err
	}
	debian, _, err := b.publish(ctx, address, "debian", b.debianImage())
	if err != nil {
		return err
	}
	p, stop := b.pullers(ctx)
	defer stop()
	rounds := max(1, min(2, b.rounds/7)) // what was pulled stays on the disk
	f := figure{title: "Cold pull, 835 MB, 43,000 files, 6 gzip layers", unit: "ms",
		note:    "From distribution's registry on loopback. skopeo only downloads, into an OCI layout. The floor is one process that fetches, hashes, gunzips, hashes and unpacks layer after layer with Go's standard library.",
		results: b.race(ctx, 0, rounds, p.cold(large))}
	floor := result{tool: "floor: sha256, gunzip, sha256, untar"}
	for i := range rounds {
		took, err := pullFloor("http://"+address+"/v2/bench/large/blobs/", layers, filepath.Join(b.dir, fmt.Sprint("floor", i)))
		if err != nil {
			return err
		}
		floor.values = append(floor.values, float64(took.Milliseconds()))
	}
	f.results = append(f.results, floor)
	b.report.add(f)
	b.report.add(figure{title: "Cold pull of Debian", unit: "ms", results: b.race(ctx, 0, max(1, min(5, b.rounds/4)), p.cold(debian))})
	b.report.add(figure{title: "Pull of Debian that is there already", unit: "ms", results: b.race(ctx, 1, b.rounds, p.again(debian))})
	return nil
}

// pullers are the tools that pull, each with its daemon if it needs one.
type pullers struct {
	b       *bench
	round   int
	nerdctl string
	failed  map[string]error // daemons that did not start
}

// pullers starts the daemons.
func (b *bench) pullers(ctx context.Context) (p *pullers, stop func()) {
	p = &pullers{b: b, failed: map[string]error{}}
	var stops []func()
	started := func(name string, stop func(), err error) {
		if err != nil {
			p.failed[name] = err
			return
		}
		stops = append(stops, stop)
	}
	stopDocker, err := b.dockerd(ctx)
	started("docker", stopDocker, err)
	nerdctl, stopContainerd, err := b.containerd(ctx)
	p.nerdctl = strings.Join(nerdctl, " ")
	started("nerdctl", stopContainerd, err)
	return p, func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// fresh empties a store before a round. That is not timed, and done by renaming, because unpacking after
// deleting is slow on ext4.
func (p *pullers) fresh(dir string) func() error {
	return func() error {
		p.round++
		old := filepath.Join(p.b.dir, dir)
		if err := os.Rename(old, fmt.Sprintf("%s.%d", old, p.round)); err != nil && !os.IsNotExist(err) {
			return err
		}
		return nil
	}
}

// freshTeu keeps the program that teu unpacks into its store, as a host has it after the first command.
func (p *pullers) freshTeu(ctx context.Context) func() error {
	empty := p.fresh("teu")
	return func() error {
		if err := empty(); err != nil {
			return err
		}
		return p.b.must(ctx, p.b.teu, "images")
	}
}

// or makes a contender fail whose daemon did.
func (p *pullers) or(name string, c contender) contender {
	if err := p.failed[name]; err != nil {
		c.prepare, c.args = func() error { return err }, []string{"false"}
	}
	return c
}

// cold pulls image into empty stores.
func (p *pullers) cold(image string) []contender {
	b := p.b
	ctx := context.Background()
	removed := func() error { b.must(ctx, "docker", "rmi", "-f", image); return nil }
	return []contender{
		{name: "teu", prepare: p.freshTeu(ctx), args: []string{b.teu, "pull", "-q", image}},
		p.or("docker", contender{name: "docker", prepare: removed, args: []string{"docker", "pull", "-q", image}}),
		p.or("nerdctl", contender{name: "nerdctl", args: []string{"sh", "-c", "exec " + p.nerdctl + " --namespace n$(date +%s%N) pull -q " + image}}),
		{name: "podman", prepare: p.fresh("podman"), args: b.podman("pull", "-q", "--tls-verify=false", image)},
		{name: "skopeo", prepare: p.fresh("skopeo"), args: []string{"skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + image, "oci:" + filepath.Join(b.dir, "skopeo") + ":1"}},
	}
}

// again pulls image where it is; the first round, which does not count, may fetch it.
func (p *pullers) again(image string) []contender {
	b := p.b
	return []contender{
		{name: "teu", args: []string{b.teu, "pull", "-q", image}},
		p.or("docker", contender{name: "docker", args: []string{"docker", "pull", "-q", image}}),
		p.or("nerdctl", contender{name: "nerdctl", args: []string{"sh", "-c", "exec " + p.nerdctl + " --namespace again pull -q " + image}}),
		{name: "podman", args: b.podman("pull", "-q", "--tls-verify=false", image)},
		{name: "skopeo", args: []string{"skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + image, "oci:" + filepath.Join(b.dir, "skopeo") + ":1"}},
	}
}

// measurePullMemory takes the peak memory of processes that pull. That of daemons is not in it.
func measurePullMemory(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	large, _, err := b.publish(ctx, address, "large", largeImage())
	if err != nil {
		return err
	}
	p := &pullers{b: b}
	zeros := int64(10 << 30)
	if available() < 18<<30 { // the disk is in memory
		zeros = 2 << 30
	}
	z, _, err := b.publish(ctx, address, "zeros", zeroImage(zeros))
	if err != nil {
		return err
	}
	f := figure{title: "Peak memory of a pull", unit: "MB", note: "Of the process that the user starts; docker and nerdctl pull in daemons."}
	for _, m := range []struct {
		name    string
		prepare func() error
		args    []string
	}{
		{"teu, 835 MB", p.freshTeu(ctx), []string{b.teu, "pull", "-q", large}},
		{fmt.Sprintf("teu, one layer with %d GB of zeros", zeros>>30), p.freshTeu(ctx), []string{b.teu, "pull", "-q", z}},
		{"podman, 835 MB", p.fresh("podman"), b.podman("pull", "-q", "--tls-verify=false", large)},
		{"skopeo, 835 MB", p.fresh("skopeo"), []string{"skopeo", "copy", "-q", "--src-tls-verify=false", "docker://" + large, "oci:" + filepath.Join(b.dir, "skopeo") + ":1"}},
	} {
		if err := m.prepare(); err != nil {
			return err
		}
		cmd := b.command(ctx, m.args[0], m.args[1:]...)
		r := result{tool: m.name}
		if out, err := cmd.CombinedOutput(); err != nil {
			r.failed = "failed: " + tail(out)
		} else {
			r.values = []float64{float64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss) / 1024}
		}
		f.results = append(f.results, r)
		if err := os.RemoveAll(filepath.Join(b.dir, "teu")); err != nil { // for the space
			return err
		}
	}
	b.report.add(f)
	return nil
}

// available returns how many bytes of memory programs can still have.
func available() int64 {
	var kilobytes int64
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "MemAvailable: %d kB", &kilobytes); err == nil {
			break
		}
	}
	return kilobytes << 10
}

// pullFloor is the least work a pull can be, done by one process in sequence.
func pullFloor(blobs string, layers []ocispec.Descriptor, dir string) (time.Duration, error) {
	start := time.Now()
	for _, l := range layers {
		resp, err := http.Get(blobs + l.Digest.String())
		if err != nil {
			return 0, err
		}
		compressed := sha256.New()
		zr, err := gzip.NewReader(io.TeeReader(resp.Body, compressed))
		if err != nil {
			return 0, err
		}
		plain := sha256.New()
		if err := untar(io.TeeReader(zr, plain), dir); err != nil {
			return 0, err
		}
		drain(resp.Body)
		_ = plain.Sum(nil)
	}
	return time.Since(start), nil
}

func untar(r io.Reader, dir string) error {
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			_, err = io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		path := filepath.Join(dir, h.Name)
		if h.Typeflag == tar.TypeDir {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return err
			}
			continue
		}
		f, err := os.Create(path)
		if err == nil {
			_, err = io.Copy(f, tr)
			f.Close()
		}
		if err == nil {
			err = os.Chtimes(path, h.ModTime, h.ModTime)
		}
		if err != nil {
			return err
		}
	}
}
