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
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The large image: 43,000 files, 835 MB, in six layers.
const (
	pullLayers = 6
	pullFiles  = 43000
	pullBytes  = 835 << 20
)

// A fill writes the entries of layer i.
type fill func(tw *tar.Writer, i int) error

// An imageSpec says what writeImage makes.
type imageSpec struct {
	layers int
	zstd   bool // instead of gzip
	fill   fill
}

// largeImage is the large one.
func largeImage() imageSpec {
	return imageSpec{layers: pullLayers, fill: func(tw *tar.Writer, i int) error {
		return fillLayer(tw, rand.New(rand.NewPCG(1, uint64(i))), i)
	}}
}

// debianImage has the tar of a minimal Debian, which the tests keep, as its only layer.
func (b *bench) debianImage() imageSpec {
	return imageSpec{layers: 1, fill: func(tw *tar.Writer, _ int) error {
		f, err := os.Open(filepath.Join(filepath.Dir(b.peers), "debian-bookworm.tar"))
		if err != nil {
			return err
		}
		defer f.Close()
		return copyTar(tw, tar.NewReader(f))
	}}
}

func copyTar(tw *tar.Writer, tr *tar.Reader) error {
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return err
		}
	}
}

// zeroImage has one file of zeros.
func zeroImage(size int64) imageSpec {
	return imageSpec{layers: 1, fill: func(tw *tar.Writer, _ int) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "zeros", Mode: 0o644, Size: size, ModTime: time.Unix(1700000000, 0)}); err != nil {
			return err
		}
		_, err := io.Copy(tw, io.LimitReader(zeros{}, size))
		return err
	}}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// publish writes the image and copies it into a registry as ADDRESS/bench/NAME:1.
func (b *bench) publish(ctx context.Context, address, name string, spec imageSpec) (image string, layers []ocispec.Descriptor, err error) {
	layout := filepath.Join(b.dir, "layout-"+name)
	if layers, err = writeImage(layout, spec); err != nil {
		return "", nil, err
	}
	image = address + "/bench/" + name + ":1"
	err = b.must(ctx, "skopeo", "copy", "--dest-tls-verify=false", "oci:"+layout+":1", "docker://"+image)
	return image, layers, err
}

// writeImage writes an image as an OCI layout, the same bytes every time.
func writeImage(dir string, spec imageSpec) ([]ocispec.Descriptor, error) {
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		return nil, err
	}
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for i := range spec.layers {
		desc, diffID, err := writeLayer(dir, i, spec)
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

// writeLayer writes layer i.
func writeLayer(dir string, i int, spec imageSpec) (ocispec.Descriptor, digest.Digest, error) {
	tmp := filepath.Join(dir, "layer")
	f, err := os.Create(tmp)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	defer f.Close()
	blob, plain := &counter{Hash: sha256.New()}, sha256.New()
	zw, mediaType, err := compressor(io.MultiWriter(f, blob), spec.zstd)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	tw := tar.NewWriter(io.MultiWriter(zw, plain))
	if err := spec.fill(tw, i); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	for _, c := range []io.Closer{tw, zw, f} {
		if err := c.Close(); err != nil {
			return ocispec.Descriptor{}, "", err
		}
	}
	d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(blob.Sum(nil)))
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: blob.n}
	return desc, digest.NewDigestFromBytes(digest.SHA256, plain.Sum(nil)), os.Rename(tmp, filepath.Join(dir, "blobs/sha256", d.Encoded()))
}

func compressor(w io.Writer, useZstd bool) (io.WriteCloser, string, error) {
	if useZstd {
		z, err := zstd.NewWriter(w)
		return z, ocispec.MediaTypeImageLayerZstd, err
	}
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	return z, ocispec.MediaTypeImageLayerGzip, err
}

// fillLayer writes words out of a small vocabulary, which gzip makes a third of.
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
