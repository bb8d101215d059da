package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/coldjson"
	"github.com/teu-dev/teu/cache/statefile"
)

const (
	// listFrom is how many records make a list worth its file.
	listFrom = 200
	// settled is how long ago a directory was last changed before its list is kept. It is far more than
	// the clock of any filesystem is coarse: a later change cannot have the same time.
	settled = time.Second
)

// read returns the records of the directory sub. Thousands of files take longer to open than to read,
// so they are kept in one, which is valid for as long as the directory has the time it had then: every
// record is made by a rename and goes by an unlink.
func (s *Store) read(ctx context.Context, sub string) ([]Image, error) {
	dir := filepath.Join(s.dir, sub)
	before, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("listing images: %w", err)
	}
	if list, ok := readList(dir+".list", before.ModTime()); ok {
		return list, nil
	}
	list, err := s.readFiles(ctx, dir)
	if err != nil || len(list) < listFrom || time.Since(before.ModTime()) < settled {
		return list, err
	}
	slices.SortFunc(list, func(a, b Image) int { return strings.Compare(a.Name, b.Name) })
	if after, err := os.Stat(dir); err == nil && after.ModTime().Equal(before.ModTime()) {
		_ = writeList(dir+".list", before.ModTime(), list) // a store that cannot be written is only slower
	}
	return list, nil
}

func writeList(path string, at time.Time, list []Image) error {
	var p statefile.Packer
	p.Int(at.UnixNano())
	p.Int(int64(len(list)))
	for _, img := range list {
		p.String(img.Name)
		p.Int(img.Created.Unix())
		p.Int(int64(img.Created.Nanosecond()))
		if err := packDescriptor(&p, img.Target); err != nil {
			return err
		}
	}
	return p.Write(path)
}

// packDescriptor packs what nearly all descriptors have, or the whole document, which takes long to read.
func packDescriptor(p *statefile.Packer, d ocispec.Descriptor) error {
	platform := ocispec.Platform{}
	if d.Platform != nil {
		platform = ocispec.Platform{OS: d.Platform.OS, Architecture: d.Platform.Architecture, Variant: d.Platform.Variant}
	}
	simple := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if d.Platform != nil {
		simple.Platform = &platform
	}
	p.String(d.MediaType)
	p.String(string(d.Digest))
	p.Int(d.Size)
	p.String(platform.OS)
	p.String(platform.Architecture)
	p.String(platform.Variant)
	whole := ""
	if !reflect.DeepEqual(d, simple) || d.Platform != nil && platform.OS == "" {
		data, err := coldjson.Marshal(d)
		if err != nil {
			return err
		}
		whole = string(data)
	}
	p.String(whole)
	return nil
}

func unpackDescriptor(u *statefile.Unpacker) (d ocispec.Descriptor, err error) {
	d = ocispec.Descriptor{MediaType: u.String(), Digest: digest.Digest(u.String()), Size: u.Int()}
	if p := (ocispec.Platform{OS: u.String(), Architecture: u.String(), Variant: u.String()}); p.OS != "" {
		d.Platform = &p
	}
	if whole := u.String(); whole != "" {
		d = ocispec.Descriptor{}
		err = coldjson.Unmarshal([]byte(whole), &d)
	}
	return d, err
}

// readList returns the list that was made when the directory had the time at.
func readList(path string, at time.Time) ([]Image, bool) {
	u, err := statefile.Unpack(path)
	if err != nil || u.Int() != at.UnixNano() {
		return nil, false
	}
	n := u.Int()
	list := make([]Image, 0, min(max(n, 0), 1<<16))
	for u.More() {
		img := Image{Name: u.String(), Created: time.Unix(u.Int(), u.Int()).UTC()}
		var err error
		if img.Target, err = unpackDescriptor(u); err != nil {
			return nil, false
		}
		list = append(list, img)
	}
	return list, u.Err() == nil && int64(len(list)) == n
}
