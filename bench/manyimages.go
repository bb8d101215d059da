package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	manyImages    = 5000
	layersOfImage = 10
)

// measureManyImages compares a store with 5,000 images and 50,000 layers with one that has ten images.
func measureManyImages(ctx context.Context, b *bench) error {
	few, err := b.fillStore(ctx, "few", 10)
	if err != nil {
		return err
	}
	many, err := b.fillStore(ctx, "many", manyImages)
	if err != nil {
		return err
	}
	both := func(args ...string) []contender {
		return []contender{
			{name: fmt.Sprintf("teu, %d images", manyImages), args: append([]string{"env", "TEU_ROOT=" + many, b.teu}, args...)},
			{name: "teu, 10 images", args: append([]string{"env", "TEU_ROOT=" + few, b.teu}, args...)},
		}
	}
	title := fmt.Sprintf(" in a store of %d images and %d layers", manyImages, manyImages*layersOfImage)
	b.report.add(figure{title: "`images -q`" + title, unit: "ms", results: b.race(ctx, 1, b.rounds, both("images", "-q"))})
	b.report.add(figure{title: "`run --rm --network none`" + title, unit: "ms", results: b.race(ctx, 1, b.rounds, both("run", "--rm", "--network", "none", "many:0", "/bin/true"))})
	prune := both("system", "prune", "-f")
	f := figure{title: "`system prune` with nothing to remove" + title, unit: "ms", results: b.race(ctx, 1, max(1, min(5, b.rounds/4)), prune)}
	if r := f.results[0]; len(r.values) > 0 {
		objects := manyImages * (2*layersOfImage + 2) // blobs of layers, manifests and configs, and the layers
		f.note = fmt.Sprintf("%d objects, %.0f a second.", objects, float64(objects)/median(r.values)*1000)
	}
	b.report.add(f)
	return nil
}

// fillStore makes a store of n images out of an archive, and returns its root.
func (b *bench) fillStore(ctx context.Context, name string, n int) (root string, err error) {
	root = filepath.Join(b.dir, name)
	archive := filepath.Join(b.dir, name+".tar")
	if err := writeMany(archive, n); err != nil {
		return "", err
	}
	return root, b.must(ctx, "env", "TEU_ROOT="+root, b.teu, "load", "-q", "-i", archive)
}

// writeMany writes an OCI archive of n images many:0, many:1 and so on, no two of which have a layer in
// common but the first, with busybox.
func writeMany(path string, n int) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	a := &archiver{w: tar.NewWriter(f), seen: map[digest.Digest]bool{}}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for i := range n {
		d, err := a.image(i, busybox)
		if err != nil {
			return err
		}
		d.Annotations = map[string]string{"io.containerd.image.name": fmt.Sprintf("docker.io/library/many:%d", i)}
		index.Manifests = append(index.Manifests, d)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	a.file("index.json", data)
	a.file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if a.err != nil {
		return a.err
	}
	return a.w.Close()
}

// archiver writes blobs into an OCI archive.
type archiver struct {
	w    *tar.Writer
	seen map[digest.Digest]bool
	err  error
}

func (a *archiver) file(name string, data []byte) {
	if a.err == nil {
		a.err = a.w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))})
	}
	if a.err == nil {
		_, a.err = a.w.Write(data)
	}
}

func (a *archiver) blob(mediaType string, data []byte) ocispec.Descriptor {
	d := digest.FromBytes(data)
	if !a.seen[d] {
		a.seen[d] = true
		a.file("blobs/sha256/"+d.Encoded(), data)
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// image writes image i: busybox and small layers of its own.
func (a *archiver) image(i int, busybox []byte) (ocispec.Descriptor, error) {
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for j := range layersOfImage {
		name, data := fmt.Sprintf("file%d", j), fmt.Appendf(nil, "%d %d\n", i, j)
		if i == 0 && j == 0 {
			name, data = "bin/true", busybox
		}
		var plain, blob bytes.Buffer
		tw := tar.NewWriter(&plain)
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(data)), ModTime: time.Unix(1700000000, 0)})
		if err == nil {
			_, err = tw.Write(data)
		}
		if err == nil {
			err = tw.Close()
		}
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		zw := gzip.NewWriter(&blob)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain.Bytes()))
		if _, err := io.Copy(zw, &plain); err != nil {
			return ocispec.Descriptor{}, err
		}
		if err := zw.Close(); err != nil {
			return ocispec.Descriptor{}, err
		}
		manifest.Layers = append(manifest.Layers, a.blob(ocispec.MediaTypeImageLayerGzip, blob.Bytes()))
	}
	data, err := json.Marshal(config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest.Config = a.blob(ocispec.MediaTypeImageConfig, data)
	if data, err = json.Marshal(manifest); err != nil {
		return ocispec.Descriptor{}, err
	}
	return a.blob(manifest.MediaType, data), a.err
}
