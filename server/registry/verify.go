package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// VerifyReport tells what a verification found.
type VerifyReport struct {
	Blobs       int   `json:"blobs"`
	Bytes       int64 `json:"bytes"`
	Manifests   int   `json:"manifests"`
	Bad         []Bad `json:"bad"`
	Quarantined bool  `json:"quarantined"` // the bad ones are out of the way
}

// Bad is a blob or manifest that has other bytes than its digest says.
type Bad struct {
	Digest     digest.Digest `json:"digest"`
	Repository string        `json:"repository,omitempty"` // of a manifest
	Reason     string        `json:"reason"`
}

// verifiable is a storage that can be read whole.
type verifiable interface {
	// eachData calls f with every blob once, and a reader of its bytes as they are stored.
	eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error
	// eachManifest calls f with every manifest of every repository, or why it cannot be read.
	eachManifest(ctx context.Context, f func(repo string, d digest.Digest, r record, err error) error) error
	// quarantineBlob puts a blob out of the way of all repositories, so that the next push
	// of it heals them.
	quarantineBlob(ctx context.Context, d digest.Digest) error
	// quarantineManifest does so with a manifest of repo and its tags.
	quarantineManifest(ctx context.Context, repo string, d digest.Digest) error
}

// Verify reads everything in the registry in o.Root or o.Bucket, which servers may be using,
// and compares it with its digests.
func Verify(ctx context.Context, o Options, quarantine bool) (VerifyReport, error) {
	s, err := openStorage(o)
	if err != nil {
		return VerifyReport{}, err
	}
	v := s.(verifiable) // both are
	report := VerifyReport{Bad: []Bad{}, Quarantined: quarantine}
	err = v.eachData(ctx, func(d digest.Digest, r io.Reader) error {
		h := newHash(d.Algorithm())
		n, err := io.Copy(h, r)
		report.Blobs++
		report.Bytes += n
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil && digest.NewDigest(d.Algorithm(), h) == d {
			return nil
		}
		reason := "other bytes"
		if err != nil {
			reason = err.Error()
		}
		report.Bad = append(report.Bad, Bad{Digest: d, Reason: reason})
		if quarantine {
			return v.quarantineBlob(ctx, d)
		}
		return nil
	})
	if err != nil {
		return report, fmt.Errorf("verifying blobs: %w", err)
	}
	err = v.eachManifest(ctx, func(repo string, d digest.Digest, r record, err error) error {
		report.Manifests++
		if err == nil && r.digest == d && digestOf(d.Algorithm(), r.body) == d {
			return nil
		}
		if errdefs.IsNotFound(err) {
			return nil // deleted meanwhile
		}
		reason := "other bytes"
		if err != nil {
			reason = err.Error()
		}
		report.Bad = append(report.Bad, Bad{Digest: d, Repository: repo, Reason: reason})
		if quarantine {
			return v.quarantineManifest(ctx, repo, d)
		}
		return nil
	})
	if err != nil {
		return report, fmt.Errorf("verifying manifests: %w", err)
	}
	return report, nil
}

// eachData implements verifiable: the files in blobs/, and those of repositories that are not
// there.
func (s *directory) eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error {
	seen := map[uint64]bool{} // inodes
	visit := func(d digest.Digest, path string) error {
		file, err := openRead(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		defer file.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &st); err != nil || seen[st.Ino] {
			return err
		}
		seen[st.Ino] = true
		return f(d, file)
	}
	for _, a := range algorithms {
		for i := range 256 {
			dir := filepath.Join(s.root, "blobs", a.String(), fmt.Sprintf("%02x", i))
			if err := eachDigest(ctx, dir, a, visit); err != nil {
				return err
			}
		}
	}
	return s.eachRepository("", func(repo string) error {
		for _, a := range algorithms {
			if err := eachDigest(ctx, s.repo(repo)+"/_blobs/"+a.String(), a, visit); err != nil {
				return err
			}
		}
		return nil
	})
}

// dataSize implements sizer.
func (s *directory) dataSize(ctx context.Context) (blobs int, bytes int64, err error) {
	for _, a := range algorithms {
		for i := range 256 {
			dir := filepath.Join(s.root, "blobs", a.String(), fmt.Sprintf("%02x", i))
			err := eachDigest(ctx, dir, a, func(_ digest.Digest, path string) error {
				st, err := lstat(path)
				if errors.Is(err, fs.ErrNotExist) {
					return nil
				}
				blobs++
				bytes += st.Size
				return err
			})
			if err != nil {
				return 0, 0, err
			}
		}
	}
	return blobs, bytes, nil
}

// dataSize implements sizer.
func (b *bucket) dataSize(ctx context.Context) (blobs int, bytes int64, err error) {
	for e, err := range b.list(ctx, "data/", "") {
		if err != nil {
			return 0, 0, err
		}
		blobs++
		bytes += e.size
	}
	return blobs, bytes, nil
}

// eachDigest calls f with the files of a directory whose names are digests.
func eachDigest(ctx context.Context, dir string, a digest.Algorithm, f func(d digest.Digest, path string) error) error {
	names, err := readNames(dir)
	if err != nil {
		return ignoreNotFound(err)
	}
	for _, name := range names {
		d, err := parseDigest(a.String() + ":" + name)
		if err != nil {
			continue // not ours
		}
		if err := errors.Join(ctx.Err(), f(d, filepath.Join(dir, name))); err != nil {
			return err
		}
	}
	return nil
}

// eachManifest implements verifiable.
func (s *directory) eachManifest(ctx context.Context, f func(repo string, d digest.Digest, r record, err error) error) error {
	return s.eachRepository("", func(repo string) error {
		for _, a := range algorithms {
			err := eachDigest(ctx, s.repo(repo)+"/_manifests/"+a.String(), a, func(d digest.Digest, path string) error {
				r, _, err := readRecord(path)
				return f(repo, d, r, err)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// quarantineBlob implements verifiable: ROOT/quarantine/ keeps what there was.
func (s *directory) quarantineBlob(ctx context.Context, d digest.Digest) error {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return err
	}
	if err := s.quarantine(s.blobPath(d), d); err != nil {
		return err
	}
	return s.eachRepository("", func(repo string) error {
		path := s.repoBlobPath(repo, d)
		bad, err := isBad(path, d)
		if err != nil || !bad {
			return ignoreNotFound(err) // it has been pushed again
		}
		unlock, err := lockBlobs(ctx, filepath.Dir(path), unix.LOCK_EX)
		if err != nil {
			return ignoreNotFound(err)
		}
		defer unlock()
		return s.quarantine(path, d)
	})
}

// isBad reads a file.
func isBad(path string, d digest.Digest) (bool, error) {
	f, err := openRead(path)
	if err != nil {
		return false, notFound(err)
	}
	defer f.Close()
	h := newHash(d.Algorithm())
	_, err = io.Copy(h, f)
	return err != nil || digest.NewDigest(d.Algorithm(), h) != d, nil
}

func (s *directory) quarantine(path string, d digest.Digest) error {
	err := os.Rename(path, filepath.Join(s.root, "quarantine", flatDigest(d)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// rename(2) does nothing to two names of one file.
	if err == nil {
		err = os.Remove(path)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.sync.dir(filepath.Dir(path))
}

// quarantineManifest implements verifiable.
func (s *directory) quarantineManifest(ctx context.Context, repo string, d digest.Digest) error {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return err
	}
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
	if err != nil {
		return ignoreNotFound(err)
	}
	defer unlock()
	path := s.recordPath(repo, d)
	if err := s.removeTagsOf(repo, path, d, false); err != nil {
		return ignoreNotFound(err)
	}
	return s.quarantine(path, d)
}

// eachData implements verifiable.
func (b *bucket) eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error {
	for e, err := range b.list(ctx, "blobs/", "") {
		if err != nil {
			return err
		}
		d, err := parseDigest(strings.Replace(e.key, "/", ":", 1))
		if err != nil {
			continue // not ours
		}
		p, err := b.pointer(ctx, blobKey(d))
		switch {
		case errdefs.IsNotFound(err):
			continue
		case err != nil:
			err = f(d, failingReader{err})
		default:
			data := &dataReader{ctx: ctx, b: b, p: p}
			err = errors.Join(f(d, data), data.Close())
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// failingReader is a reader of what cannot be read.
type failingReader struct{ err error }

func (r failingReader) Read([]byte) (int, error) { return 0, r.err }

// eachManifest implements verifiable.
func (b *bucket) eachManifest(ctx context.Context, f func(repo string, d digest.Digest, r record, err error) error) error {
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return err
		}
		repo, kind, rest := splitRepoKey(e.key)
		d, err := parseDigest(strings.Replace(rest, "/", ":", 1))
		if kind != "manifests" || err != nil {
			continue
		}
		r, err := b.record(ctx, recordKey(repo, d))
		if err := f(repo, d, r, err); err != nil {
			return err
		}
	}
	return nil
}

// quarantineBlob implements verifiable. The bytes stay in data/, to be looked at: nothing
// names them any more.
func (b *bucket) quarantineBlob(ctx context.Context, d digest.Digest) error {
	bad, err := b.get(ctx, blobKey(d))
	if err != nil {
		return ignoreNotFound(err)
	}
	if ok, err := b.removeIf(ctx, blobKey(d), bad.etag); err != nil || !ok {
		return err // it has been pushed again
	}
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return err
		}
		repo, kind, rest := splitRepoKey(e.key)
		if kind != "blobs" || rest != d.Algorithm().String()+"/"+d.Encoded() {
			continue
		}
		marker, err := b.get(ctx, markerKey(repo, d))
		if err == nil && string(marker.body) == string(bad.body) {
			_, err = b.removeIf(ctx, markerKey(repo, d), marker.etag)
		}
		if ignoreNotFound(err) != nil {
			return err
		}
	}
	return nil
}

// quarantineManifest implements verifiable.
func (b *bucket) quarantineManifest(ctx context.Context, repo string, d digest.Digest) error {
	if err := b.untag(ctx, repo, d); err != nil {
		return err
	}
	return b.remove(ctx, recordKey(repo, d))
}
