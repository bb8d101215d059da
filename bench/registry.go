package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registryUnder is a server being measured.
type registryUnder struct {
	tool   string
	base   string // "http://127.0.0.1:1234/v2/"
	client *http.Client

	reads, bytes, pushes result
}

// measureRegistry compares the servers under the three loads that matter: many small
// reads, large reads, and many clients pushing.
func measureRegistry(ctx context.Context, b *bench) error {
	var servers []*registryUnder
	for _, s := range []struct {
		tool  string
		start func(context.Context) (string, func(), error)
	}{{"teu", b.teuRegistry}, {"distribution", b.distribution}} {
		address, stop, err := s.start(ctx)
		if err != nil {
			return err
		}
		defer stop()
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DisableCompression: true}}
		servers = append(servers, &registryUnder{tool: s.tool, base: "http://" + address + "/v2/", client: client})
	}
	for _, s := range servers {
		if err := s.seed(); err != nil {
			return fmt.Errorf("%s: %w", s.tool, err)
		}
	}
	for round := range max(1, b.rounds/5) {
		for _, s := range servers {
			if err := s.measure(ctx, round); err != nil {
				return fmt.Errorf("%s: %w", s.tool, err)
			}
		}
	}
	collect := func(pick func(*registryUnder) result) (list []result) {
		for _, s := range servers {
			r := pick(s)
			r.tool = s.tool
			list = append(list, r)
		}
		return list
	}
	note := "The client shares the two cores with the server."
	b.report.add(figure{title: "Registry: GET of a manifest, 8 connections", unit: "per second", more: true, note: note, results: collect(func(s *registryUnder) result { return s.reads })})
	b.report.add(figure{title: "Registry: GET of a blob of 64 MiB, 2 connections", unit: "MB per second", more: true, note: note, results: collect(func(s *registryUnder) result { return s.bytes })})
	b.report.add(figure{title: "Registry: 64 clients push small images", unit: "images per second", more: true, note: note + " An image is a layer of 8 KiB, a config and a manifest, each client to a repository of its own. teu answers 201 after fsync of data and directory.", results: collect(func(s *registryUnder) result { return s.pushes })})
	return nil
}

const blobSize = 64 << 20

func largeBlob() []byte {
	blob := make([]byte, blobSize)
	random := rand.NewPCG(1, 2)
	for i := 0; i < len(blob); i += 8 {
		binary.LittleEndian.PutUint64(blob[i:], random.Uint64())
	}
	return blob
}

func (s *registryUnder) seed() error {
	if err := s.pushBlob("bench/read", largeBlob()); err != nil {
		return err
	}
	return s.pushImage("bench/read", []byte("a small layer"))
}

func (s *registryUnder) measure(ctx context.Context, round int) error {
	const seconds = 2 * time.Second
	n, err := s.load(ctx, 8, seconds, func(int, int) (int64, error) {
		_, err := s.get("bench/read/manifests/latest")
		return 1, err
	})
	if err != nil {
		return err
	}
	s.reads.values = append(s.reads.values, n)
	blob := "bench/read/blobs/" + digest.FromBytes(largeBlob()).String()
	if n, err = s.load(ctx, 2, seconds, func(int, int) (int64, error) { return s.get(blob) }); err != nil {
		return err
	}
	s.bytes.values = append(s.bytes.values, n/1e6)
	n, err = s.load(ctx, 64, seconds, func(client, i int) (int64, error) {
		layer := bytes.Repeat(fmt.Appendf(nil, "%d %d %d;", round, client, i), 8192/10)
		return 1, s.pushImage(fmt.Sprintf("bench/push%d", client), layer)
	})
	s.pushes.values = append(s.pushes.values, n)
	return err
}

// load runs f from so many clients for a while and returns the sum of what it returned, per second.
func (s *registryUnder) load(ctx context.Context, clients int, how time.Duration, f func(client, i int) (int64, error)) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, how)
	defer cancel()
	var sum atomic.Int64
	var failure atomic.Value
	var wg sync.WaitGroup
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				n, err := f(c, i)
				if err != nil {
					failure.Store(err)
					return
				}
				sum.Add(n)
			}
		})
	}
	wg.Wait()
	if err, ok := failure.Load().(error); ok {
		return 0, err
	}
	return float64(sum.Load()) / time.Since(start).Seconds(), nil
}

func (s *registryUnder) get(path string) (int64, error) {
	req, err := http.NewRequest("GET", s.base+path, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	n, err := drain(resp.Body)
	if err == nil && resp.StatusCode != 200 {
		err = fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return n, err
}

// pushImage pushes a one-layer image as a client does: blobs, config, then the manifest.
func (s *registryUnder) pushImage(repo string, layer []byte) error {
	sum := sha256.Sum256(layer)
	config, _ := json.Marshal(ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.NewDigestFromBytes(digest.SHA256, sum[:])}}})
	for _, blob := range [][]byte{layer, config} {
		if err := s.pushBlob(repo, blob); err != nil {
			return err
		}
	}
	manifest, _ := json.Marshal(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer))}}})
	return s.send("PUT", s.base+repo+"/manifests/latest", ocispec.MediaTypeImageManifest, manifest, nil)
}

func (s *registryUnder) pushBlob(repo string, blob []byte) error {
	var location string
	if err := s.send("POST", s.base+repo+"/blobs/uploads/", "", nil, &location); err != nil {
		return err
	}
	if strings.HasPrefix(location, "/") {
		location = strings.TrimSuffix(s.base, "/v2/") + location
	}
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	return s.send("PUT", location+separator+"digest="+digest.FromBytes(blob).String(), "application/octet-stream", blob, nil)
}

func (s *registryUnder) send(method, url, contentType string, body []byte, location *string) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	said, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	resp.Body.Close()
	if err != nil {
		return err
	}
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, said)
	}
	if location != nil {
		*location = resp.Header.Get("Location")
	}
	return nil
}
