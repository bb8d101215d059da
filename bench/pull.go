package main

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The image of the pull figure: 43,000 files, 835 MB, in six gzip layers.
const (
	pullLayers = 6
	pullFiles  = 43000
	pullBytes  = 835 << 20
)

// measurePull takes the time of a cold pull from a registry on loopback.
func measurePull(ctx context.Context, b *bench) error {
	address, stop, err := b.distribution(ctx)
	if err != nil {
		return err
	}
	defer stop()
	image := address + "/bench/large:1"
	layout := filepath.Join(b.dir, "layout")
	layers, err := writeLargeImage(layout)
	if err != nil {
		return err
	}
	if err := b.must(ctx, "skopeo", "copy", "--dest-tls-verify=false", "oci:"+layout+":1", "docker://"+image); err != nil {
		return err
	}
	// Each round pulls into an empty store. Emptying is not timed, and done by renaming,
	// because unpacking after deleting is slow on ext4.
	round := 0
	fresh := func(dir string) func() error {
		return func() error {
			round++
			old := filepath.Join(b.dir, dir)
			if err := os.Rename(old, fmt.Sprintf("%s.%d", old, round)); err != nil && !os.IsNotExist(err) {
				return err
			}
			return nil
		}
	}
	contenders := []contender{
		{name: "teu pull", prepare: fresh("teu"), args: []string{b.teu, "pull", "-q", image}},
		{name: "podman pull", prepare: fresh("podman"), args: b.podman("pull", "-q", "--tls-verify=false", image)},
	}
	if stopDocker, err := b.dockerd(ctx); err == nil {
		defer stopDocker()
		removed := func() error { b.must(ctx, "docker", "rmi", "-f", image); return nil }
		contenders = append(contenders, contender{name: "docker pull", prepare: removed, args: []string{"docker", "pull", "-q", image}})
	} else {
		contenders = append(contenders, contender{name: "docker pull", prepare: func() error { return err }, args: []string{"false"}})
	}
	if nerdctl, stopContainerd, err := b.containerd(ctx); err == nil {
		defer stopContainerd()
		contenders = append(contenders, contender{name: "nerdctl pull", args: []string{"sh", "-c", "exec " + strings.Join(nerdctl, " ") + " --namespace n$(date +%s%N) pull -q " + image}})
	} else {
		contenders = append(contenders, contender{name: "nerdctl pull", prepare: func() error { return err }, args: []string{"false"}})
	}
	rounds := max(1, b.rounds/7) // what was pulled stays on the disk
	f := figure{title: "Cold pull, 835 MB, 43,000 files, 6 gzip layers", unit: "ms",
		note:    "From distribution's registry on loopback. The floor is one process that fetches, hashes, gunzips, hashes and unpacks layer after layer with Go's standard library.",
		results: b.race(ctx, 0, rounds, contenders)}
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
	return nil
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

// writeLargeImage writes the image as an OCI layout, the same bytes every time.
func writeLargeImage(dir string) ([]ocispec.Descriptor, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return nil, err
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i := range pullLayers {
		desc, diffID, err := writeLayer(dir, i)
		if err != nil {
			return nil, err
		}
		manifest.Layers = append(manifest.Layers, desc)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	var err error
	if manifest.Config, err = writeDocument(dir, config, ocispec.MediaTypeImageConfig); err != nil {
		return nil, err
	}
	root, err := writeDocument(dir, manifest, manifest.MediaType)
	if err != nil {
		return nil, err
	}
	root.Annotations = map[string]string{ocispec.AnnotationRefName: "1"}
	index, err := json.Marshal(ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{root}})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644); err != nil {
		return nil, err
	}
	return manifest.Layers, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644)
}

func writeDocument(dir string, v any, mediaType string) (ocispec.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d := digest.FromBytes(data)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}, os.WriteFile(filepath.Join(dir, "blobs/sha256", d.Encoded()), data, 0o644)
}

type counter struct {
	hash.Hash
	n int64
}

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return c.Hash.Write(p) }

// writeLayer writes layer i: words out of a small vocabulary, which gzip makes a third of.
func writeLayer(dir string, i int) (ocispec.Descriptor, digest.Digest, error) {
	tmp := filepath.Join(dir, "layer")
	f, err := os.Create(tmp)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer f.Close()
	blob, plain := &counter{Hash: sha256.New()}, sha256.New()
	zw, _ := gzip.NewWriterLevel(io.MultiWriter(f, blob), gzip.BestSpeed)
	tw := tar.NewWriter(io.MultiWriter(zw, plain))
	if err := fillLayer(tw, rand.New(rand.NewPCG(1, uint64(i))), i); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	for _, c := range []io.Closer{tw, zw, f} {
		if err := c.Close(); err != nil {
			return ocispec.Descriptor{}, "", err
		}
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(blob.Sum(nil)))
	desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: blob.n}
	return desc, digest.NewDigestFromBytes(digest.SHA256, plain.Sum(nil)), os.Rename(tmp, filepath.Join(dir, "blobs/sha256", d.Encoded()))
}

func fillLayer(tw *tar.Writer, random *rand.Rand, i int) error {
	words := make([]string, 4000)
	for w := range words {
		words[w] = fmt.Sprintf("%x ", random.Uint64()>>(random.UintN(6)*8))
	}
	mtime := time.Unix(1700000000, 0)
	const perDir = 100
	for n := range pullFiles / pullLayers {
		path := fmt.Sprintf("usr/share/l%d/d%03d", i, n/perDir)
		if n%perDir == 0 {
			if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: path + "/", Mode: 0o755, ModTime: mtime}); err != nil {
				return err
			}
		}
		// Sizes as in a distribution: many small files, few large ones, 20 KB on average.
		size := int(random.ExpFloat64() * pullBytes / pullFiles)
		var text strings.Builder
		for text.Len() < size {
			text.WriteString(words[random.IntN(len(words))])
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%s/f%05d", path, n), Mode: 0o644, Size: int64(text.Len()), ModTime: mtime}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.WriteString(tw, text.String()); err != nil {
			return err
		}
	}
	return nil
}
