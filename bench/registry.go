package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registryServer is a server being measured.
type registryServer struct {
	tool, address string
	mark          string // an argument that only its process has
	stop          func()
}

// registries starts the servers on their defaults, each with an empty directory.
func (b *bench) registries(ctx context.Context) (servers []*registryServer, stop func(), err error) {
	stop = func() {
		for _, s := range servers {
			s.stop()
		}
	}
	for _, s := range []struct{ tool, program string }{
		{"teu", ""}, {"distribution 3", filepath.Join(b.peers, "registry")}, {"distribution 2 (Debian)", "docker-registry"},
	} {
		r := &registryServer{tool: s.tool}
		if s.program == "" {
			r.address, r.stop, err = b.teuRegistry(ctx)
			r.mark = r.address
		} else {
			r.mark = filepath.Join(b.dir, filepath.Base(s.program)+".yml")
			r.address, r.stop, err = b.distributionServer(ctx, s.program, r.mark)
		}
		if err != nil {
			stop()
			return nil, nil, err
		}
		servers = append(servers, r)
	}
	return servers, stop, nil
}

// distributionServer starts a registry of the distribution project.
func (b *bench) distributionServer(ctx context.Context, program, config string) (address string, stop func(), err error) {
	if address, err = freePort(); err != nil {
		return "", nil, err
	}
	return b.distributionAt(ctx, address, program, config)
}

// distributionAt starts it on an address.
func (b *bench) distributionAt(ctx context.Context, address, program, config string) (_ string, stop func(), err error) {
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\n  cache: {blobdescriptor: inmemory}\nhttp: {addr: %s}\n",
		strings.TrimSuffix(config, ".yml"), address)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	stop, err = b.daemon(ctx, dialable("tcp", address), program, "serve", config)
	return address, stop, err
}

// resident returns the memory of the server, in MB.
func (s *registryServer) resident() (float64, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(b, []byte("\x00"+s.mark+"\x00")) {
			continue
		}
		if b, err = os.ReadFile(filepath.Join(filepath.Dir(file), "status")); err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(b), "VmRSS:")
		kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
		return kb / 1000 * 1.024, err
	}
	return 0, fmt.Errorf("%s is not running", s.tool)
}

// table collects the results of several servers.
type table map[string]*result

func (t table) add(server string, v float64) {
	if t[server] == nil {
		t[server] = &result{tool: server}
	}
	t[server].values = append(t[server].values, v)
}

func (t table) of(servers []*registryServer) (list []result) {
	for _, s := range servers {
		if r := t[s.tool]; r != nil {
			list = append(list, *r)
		}
	}
	return list
}

// registryNote is said of all figures of registries.
const registryNote = "The client shares the two cores with the server."

// registryRounds is how many rounds the figures of registries take.
func (b *bench) registryRounds() int { return max(1, min(3, b.rounds/5)) }

// measureRegistry compares the servers under the loads that matter most: many small reads, and
// many clients that push small images; and their memory before and after.
func measureRegistry(ctx context.Context, b *bench) error {
	servers, stop, err := b.registries(ctx)
	if err != nil {
		return err
	}
	defer stop()
	reads, pushes, idle, after := table{}, table{}, table{}, table{}
	time.Sleep(time.Second)
	for _, s := range servers {
		n, err := s.resident()
		if err != nil {
			return err
		}
		idle.add(s.tool, n)
		c, err := dialHTTP(s.address)
		if err != nil {
			return err
		}
		if err := c.pushImage("bench/read", "latest", newSmallImage([]byte("a small layer"))); err != nil {
			return fmt.Errorf("%s: %w", s.tool, err)
		}
		c.Close()
	}
	// Rounds of pushes differ by a third: what the journal of the disk is at when one begins.
	for round := range 6 * b.registryRounds() {
		for _, s := range servers {
			n, _, err := load(ctx, 64, time.Second, []string{s.address}, func(c *httpConn, _, _ int) (float64, error) {
				_, err := c.do("GET", "/v2/bench/read/manifests/latest", "Accept: "+ocispec.MediaTypeImageManifest+"\r\n")
				return 1, err
			})
			if err != nil {
				return fmt.Errorf("%s: %w", s.tool, err)
			}
			reads.add(s.tool, n)
			if n, _, err = load(ctx, 64, 2*time.Second, []string{s.address}, pushSmall(round)); err != nil {
				return fmt.Errorf("%s: %w", s.tool, err)
			}
			pushes.add(s.tool, n)
		}
	}
	time.Sleep(2 * time.Second)
	for _, s := range servers {
		n, err := s.resident()
		if err != nil {
			return err
		}
		after.add(s.tool, n)
	}
	b.report.add(figure{title: "Registry: GET of a manifest by tag, 64 clients", unit: "per second", more: true, note: registryNote, results: reads.of(servers)})
	b.report.add(figure{title: "Registry: 64 clients push small images", unit: "images per second", more: true, results: pushes.of(servers),
		note: registryNote + " An image is a layer of 8 KiB, a config and a manifest, each client to a repository of its own. teu answers 201 after fsync of data and directory."})
	b.report.add(figure{title: "Registry: memory of an idle server", unit: "MB", results: idle.of(servers)})
	b.report.add(figure{title: "Registry: memory two seconds after the loads above", unit: "MB", results: after.of(servers)})
	return nil
}

// pushSmall pushes images that nobody has pushed before.
func pushSmall(round int) func(c *httpConn, client, i int) (float64, error) {
	return func(c *httpConn, client, i int) (float64, error) {
		layer := bytes.Repeat(fmt.Appendf(nil, "%d %d %d;", round, client, i), 8192/10)
		return 1, c.pushImage(fmt.Sprintf("bench/push%d", client), "latest", newSmallImage(layer))
	}
}
