package differential

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// An image is what an OCI archive holds.
type image struct {
	layers     []tree
	config     map[string]any
	provenance map[string]any // what is stated of it
}

// A tree maps paths to descriptions of what is there.
type tree map[string]string

// readImage reads the first image of an OCI archive. Times after began are written as "now": they
// are those of the build itself.
func readImage(file string, began time.Time) (*image, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := map[string][]byte{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			return nil, err
		}
	}
	var index ocispec.Index
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		return nil, fmt.Errorf("index.json: %w", err)
	}
	return readManifest(files, index.Manifests[0], began)
}

func blob(files map[string][]byte, d ocispec.Descriptor) []byte {
	return files["blobs/sha256/"+d.Digest.Encoded()]
}

func readManifest(files map[string][]byte, d ocispec.Descriptor, began time.Time) (*image, error) {
	if d.MediaType == ocispec.MediaTypeImageIndex {
		var index ocispec.Index
		if err := json.Unmarshal(blob(files, d), &index); err != nil {
			return nil, err
		}
		img, err := readManifest(files, index.Manifests[0], began)
		if err == nil && len(index.Manifests) > 1 {
			img.provenance, err = readProvenance(files, index.Manifests[1])
		}
		return img, err
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(blob(files, d), &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	img := &image{}
	for _, l := range m.Layers {
		t, err := readLayer(blob(files, l), began)
		if err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
		img.layers = append(img.layers, t)
	}
	if err := json.Unmarshal(blob(files, m.Config), &img.config); err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	img.normalise(began)
	return img, nil
}

// normalise takes out of the config what differs between any two builds: the times of new
// history entries, and digests, which stand for layers that are compared themselves.
func (img *image) normalise(began time.Time) {
	now := func(m map[string]any) {
		s, _ := m["created"].(string)
		if t, err := time.Parse(time.RFC3339Nano, s); err == nil && t.After(began) {
			m["created"] = "now"
		}
	}
	now(img.config)
	history, _ := img.config["history"].([]any)
	for _, h := range history {
		if m, ok := h.(map[string]any); ok {
			now(m)
		}
	}
	if rootfs, ok := img.config["rootfs"].(map[string]any); ok {
		ids, _ := rootfs["diff_ids"].([]any)
		rootfs["diff_ids"] = len(ids)
	}
}

// readLayer describes every entry of a compressed layer. Names of one file are described by the
// first of them in order of name, so that the order in the archive means nothing.
func readLayer(b []byte, began time.Time) (tree, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	t, links := tree{}, map[string][]string{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		name := path.Join("/", h.Name)
		if _, twice := t[name]; twice {
			return nil, fmt.Errorf("%s is there twice", name)
		}
		if h.Typeflag == tar.TypeLink {
			first := path.Join("/", h.Linkname)
			links[first] = append(links[first], name)
			t[name] = ""
			continue
		}
		if t[name], err = describe(h, r, began); err != nil {
			return nil, err
		}
	}
	for first, others := range links {
		group := append(others, first)
		slices.Sort(group)
		text, ok := t[first]
		if !ok {
			text = "a file of a lower layer"
		}
		for _, name := range group {
			t[name] = text + " names=" + strings.Join(group, ",")
		}
	}
	return t, nil
}

// describe returns what matters of an entry.
func describe(h *tar.Header, r io.Reader, began time.Time) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%c %04o %d:%d", h.Typeflag, h.Mode, h.Uid, h.Gid)
	if h.ModTime.After(began) {
		b.WriteString(" now")
	} else {
		fmt.Fprintf(&b, " %s", h.ModTime.UTC().Format(time.RFC3339))
	}
	switch h.Typeflag {
	case tar.TypeReg:
		sum := sha256.New()
		if _, err := io.Copy(sum, r); err != nil {
			return "", err
		}
		fmt.Fprintf(&b, " size=%d", h.Size)
		if !strings.HasSuffix(h.Name, ".git/index") { // it has inode numbers in it
			fmt.Fprintf(&b, " sha256=%x", sum.Sum(nil)[:6])
		}
	case tar.TypeSymlink:
		fmt.Fprintf(&b, " -> %s", h.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		fmt.Fprintf(&b, " %d,%d", h.Devmajor, h.Devminor)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		// BuildKit writes no attributes of users into layers; teu does.
		if strings.HasPrefix(k, "SCHILY.xattr.") && !strings.HasPrefix(k, "SCHILY.xattr.user.") {
			fmt.Fprintf(&b, " %s=%q", strings.TrimPrefix(k, "SCHILY.xattr."), h.PAXRecords[k])
		}
	}
	return b.String(), nil
}

// flat applies the layers one after the other, as image-spec v1.1 layer.md says.
func (img *image) flat() tree {
	all := tree{}
	for _, layer := range img.layers {
		for _, name := range slices.Sorted(maps.Keys(layer)) {
			dir, base := path.Split(name)
			if base == ".wh..wh..opq" {
				all.removeBelow(path.Clean(dir))
			} else if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
				delete(all, path.Join(dir, hidden))
				all.removeBelow(path.Join(dir, hidden))
			}
		}
		for name, text := range layer {
			if strings.HasPrefix(path.Base(name), ".wh.") {
				continue
			}
			if !strings.HasPrefix(text, "5") {
				all.removeBelow(name)
			}
			all[name] = text
		}
	}
	return all
}

func (t tree) removeBelow(dir string) {
	prefix := strings.TrimSuffix(dir, "/") + "/"
	for name := range t {
		if strings.HasPrefix(name, prefix) && name != "/" {
			delete(t, name)
		}
	}
}
