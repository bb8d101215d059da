package buildkit

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/opencontainers/go-digest"
)

// records are the builds that have ended, on the disk. Of a build there is one directory, whose name is the digest
// of its ref: clients choose that, and it may be anything.
//
//	DIR/HEX/record  the record, a message BuildHistoryRecord of BuildKit's API
//	DIR/HEX/HEX     blobs that the record names, by their digest
//	DIR/.new-*      one that is being written
//
// It appears by rename, and goes as a whole. Nothing is synced: a power loss may take the last ones, and what
// it left half is none. Several processes may use one directory.
type records struct{ dir string }

// maxRecords is how many are kept, as by BuildKit; those that are pinned are beside that. Some more may be
// there, so that not every build has to look for the oldest.
const (
	maxRecords  = 50
	moreRecords = 10
)

// maxBlob is how large a blob of a record may be that is read at once.
const maxBlob = 64 << 20

func (r records) path(ref string) string {
	return filepath.Join(r.dir, digest.FromString(ref).Encoded())
}

// save keeps a record and its blobs.
func (r records) save(rec *controlapi.BuildHistoryRecord, blobs ...[]byte) (err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(r.dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	for _, b := range blobs {
		if err := os.WriteFile(filepath.Join(tmp, digest.FromBytes(b).Encoded()), b, 0o600); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(tmp, "record"), rec); err != nil {
		return err
	}
	if err := os.RemoveAll(r.path(rec.Ref)); err != nil {
		return err
	}
	if err := os.Rename(tmp, r.path(rec.Ref)); err != nil {
		return err
	}
	return r.trim()
}

func write(path string, rec *controlapi.BuildHistoryRecord) error {
	data, err := rec.MarshalVT()
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// get returns the record of a build; not found: there is none.
func (r records) get(ref string) (*controlapi.BuildHistoryRecord, error) {
	rec, err := read(r.path(ref))
	if err != nil {
		return nil, fmt.Errorf("no record of a build %q: %w", ref, errdefs.ErrNotFound)
	}
	return rec, nil
}

func read(dir string) (*controlapi.BuildHistoryRecord, error) {
	data, err := os.ReadFile(filepath.Join(dir, "record"))
	if err != nil {
		return nil, err
	}
	rec := &controlapi.BuildHistoryRecord{}
	if err := rec.UnmarshalVT(data); err != nil {
		return nil, err
	}
	if rec.Ref == "" || rec.CreatedAt == nil || rec.CompletedAt == nil {
		return nil, errors.New("half a record")
	}
	return rec, nil
}

// all returns all records, the newest first.
func (r records) all() ([]*controlapi.BuildHistoryRecord, error) {
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	var list []*controlapi.BuildHistoryRecord
	for _, name := range names {
		if rec, err := read(filepath.Join(r.dir, name)); err == nil {
			list = append(list, rec)
		}
	}
	slices.SortFunc(list, func(a, b *controlapi.BuildHistoryRecord) int {
		return b.CreatedAt.AsTime().Compare(a.CreatedAt.AsTime())
	})
	return list, nil
}

// names returns the directories of records.
func (r records) names() ([]string, error) {
	entries, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names, err
}

// pin sets whether a record stays whatever comes after it.
func (r records) pin(ref string, pinned bool) error {
	rec, err := r.get(ref)
	if err != nil || rec.Pinned == pinned {
		return err
	}
	rec.Pinned = pinned
	rec.Generation++
	path := filepath.Join(r.path(ref), "record")
	if err := write(path+".new", rec); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// remove forgets a build.
func (r records) remove(ref string) error {
	path := r.path(ref)
	if _, err := os.Lstat(path); err != nil {
		return fmt.Errorf("no record of a build %q: %w", ref, errdefs.ErrNotFound)
	}
	return os.RemoveAll(path)
}

// trim removes the oldest records if there are too many, and with them what is none.
func (r records) trim() error {
	entries, err := os.ReadDir(r.dir)
	if err != nil || len(entries) <= maxRecords+moreRecords {
		return err
	}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		fi, err := e.Info()
		old := err == nil && time.Since(fi.ModTime()) > time.Hour
		if _, err := read(path); err != nil && old { // not one that is being written, or that another process removes
			errs = append(errs, os.RemoveAll(path))
		}
	}
	all, err := r.all()
	errs = append(errs, err)
	kept := 0
	for _, rec := range all {
		if rec.Pinned {
			continue
		}
		if kept++; kept > maxRecords {
			errs = append(errs, os.RemoveAll(r.path(rec.Ref)))
		}
	}
	return errors.Join(errs...)
}

// open returns a blob that some record names.
func (r records) open(d digest.Digest) (*os.File, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	names, err := r.names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if f, err := os.Open(filepath.Join(r.dir, name, d.Encoded())); err == nil {
			return f, nil
		}
	}
	return nil, fmt.Errorf("no blob %s: %w", d, errdefs.ErrNotFound)
}

// blobs calls fn with each blob of the records, once.
func (r records) blobs(fn func(d digest.Digest, fi fs.FileInfo) error) error {
	names, err := r.names()
	if err != nil {
		return err
	}
	seen := map[string]bool{"record": true}
	for _, name := range names {
		entries, err := os.ReadDir(filepath.Join(r.dir, name))
		if err != nil {
			continue // it has just been removed
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(digest.Canonical, e.Name())
			fi, err := e.Info()
			if err != nil || seen[e.Name()] || d.Validate() != nil {
				continue
			}
			seen[e.Name()] = true
			if err := fn(d, fi); err != nil {
				return err
			}
		}
	}
	return nil
}

// A blob with what a build told is a row of messages StatusResponse, each behind its length in four bytes: that
// is BuildKit's form, which other programs read.
const statusType = "application/vnd.buildkit.status.v0"

func appendStatus(to []byte, s *controlapi.StatusResponse) ([]byte, error) {
	b, err := s.MarshalVT()
	if err != nil {
		return nil, err
	}
	return append(binary.LittleEndian.AppendUint32(to, uint32(len(b))), b...), nil
}

// readStatus calls send with each message of such a blob.
func readStatus(data []byte, send func(*controlapi.StatusResponse) error) error {
	for r := bytes.NewBuffer(data); r.Len() > 0; {
		var size uint32
		if err := binary.Read(r, binary.LittleEndian, &size); err != nil {
			return err
		}
		if int64(size) > int64(r.Len()) {
			return io.ErrUnexpectedEOF
		}
		s := &controlapi.StatusResponse{}
		if err := s.UnmarshalVT(r.Next(int(size))); err != nil {
			return err
		}
		if err := send(s); err != nil {
			return err
		}
	}
	return nil
}
