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
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// VerifyReport tells what a verification found.
type VerifyReport struct {
	Blobs       int   `json:"blobs"`
	Bytes       int64 `json:"bytes"`
	Manifests   int   `json:"manifests"`
	Bad         []Bad `json:"bad"`
	Quarantined bool  `json:"quarantined"` // the bad ones are out of the way
	Healed      int   `json:"healed"`      // so many of them are good again
}

// VerifyOptions say what to do with what is bad.
type VerifyOptions struct {
	// Quarantine puts it out of the way: it is not there until somebody pushes it again.
	Quarantine bool
	// Heal, if it is set, is a registry to get it from, after it was put out of the way.
	Heal ImportSource
}

// Bad is a blob or manifest that has other bytes than its digest says.
type Bad struct {
	Digest     digest.Digest `json:"digest"`
	Repository string        `json:"repository,omitempty"` // of a manifest
	Reason     string        `json:"reason"`
	Healed     bool          `json:"healed,omitempty"`
	NotHealed  string        `json:"notHealed,omitempty"` // why not, if that was wanted
}

// verifiable is a storage that can be read whole.
type verifiable interface {
	// eachData calls f with every blob once, and a reader of its bytes as they are stored.
	eachData(ctx context.Context, f func(d digest.Digest, r io.Reader) error) error
	// eachManifest calls f with every manifest of every repository, or why it cannot be read.
	eachManifest(ctx context.Context, f func(repo string, d digest.Digest, r record, err error) error) error
	// quarantineBlob puts a blob out of the way of all repositories, so that the next push
	// of it heals them, and returns those that had it.
	quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error)
	// quarantineManifest does so with a manifest of repo and its tags, and returns these.
	quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error)
}

// Verify reads everything in the registry in o.Root or o.Bucket, which servers may be using,
// and compares it with its digests.
func Verify(ctx context.Context, o Options, how VerifyOptions) (VerifyReport, error) {
	s, err := openStorage(o)
	if err != nil {
		return VerifyReport{}, err
	}
	v := &verification{how: how, s: s, v: s.(verifiable)} // both are
	v.report = VerifyReport{Bad: []Bad{}, Quarantined: how.Quarantine || how.Heal != nil}
	if err := v.v.eachData(ctx, func(d digest.Digest, r io.Reader) error { return v.blob(ctx, d, r) }); err != nil {
		return v.report, fmt.Errorf("verifying blobs: %w", err)
	}
	err = v.v.eachManifest(ctx, func(repo string, d digest.Digest, r record, err error) error { return v.manifest(ctx, repo, d, r, err) })
	if err != nil {
		return v.report, fmt.Errorf("verifying manifests: %w", err)
	}
	return v.report, nil
}

// verification is a Verify that runs.
type verification struct {
	how    VerifyOptions
	s      storage
	v      verifiable
	report VerifyReport
}

func (v *verification) blob(ctx context.Context, d digest.Digest, r io.Reader) error {
	h := newHash(d.Algorithm())
	n, err := io.Copy(h, r)
	v.report.Blobs++
	v.report.Bytes += n
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil && digest.NewDigest(d.Algorithm(), h) == d {
		return nil
	}
	bad := v.bad(Bad{Digest: d}, err)
	if !v.report.Quarantined {
		return nil
	}
	repos, err := v.v.quarantineBlob(ctx, d)
	if err != nil || v.how.Heal == nil {
		return err
	}
	return v.healed(ctx, bad, v.healBlob(ctx, d, repos))
}

func (v *verification) manifest(ctx context.Context, repo string, d digest.Digest, r record, err error) error {
	v.report.Manifests++
	if err == nil && r.digest == d && digestOf(d.Algorithm(), r.body) == d {
		return nil
	}
	if errdefs.IsNotFound(err) {
		return nil // deleted meanwhile
	}
	bad := v.bad(Bad{Digest: d, Repository: repo}, err)
	if !v.report.Quarantined {
		return nil
	}
	tags, err := v.v.quarantineManifest(ctx, repo, d)
	if err != nil || v.how.Heal == nil {
		return err
	}
	return v.healed(ctx, bad, v.healManifest(ctx, repo, d, tags))
}

// bad adds b to the report. err is why it could not be read, if it could not.
func (v *verification) bad(b Bad, err error) *Bad {
	b.Reason = "other bytes"
	if err != nil {
		b.Reason = err.Error()
	}
	v.report.Bad = append(v.report.Bad, b)
	return &v.report.Bad[len(v.report.Bad)-1]
}

// healed adds to the report how the healing of b went. What could not be healed does not
// keep the others from it.
func (v *verification) healed(ctx context.Context, b *Bad, err error) error {
	if err != nil {
		b.NotHealed = err.Error()
		return ctx.Err()
	}
	b.Healed = true
	v.report.Healed++
	return nil
}

// healBlob gets a blob from a repository of the source that has it, into all that had it here.
func (v *verification) healBlob(ctx context.Context, d digest.Digest, repos []string) error {
	im := &importer{s: v.s}
	var errs []error
	var missing []string
	for _, repo := range repos {
		up, err := v.how.Heal.Open(repo)
		var desc ocispec.Descriptor
		if err == nil {
			desc, err = up.ResolveBlob(ctx, d)
		}
		if err == nil {
			err = im.blob(ctx, repo, up, desc)
		}
		if err != nil {
			missing, errs = append(missing, repo), append(errs, err)
		}
	}
	for i, repo := range missing {
		if v.s.MountBlob(ctx, repo, "", d) == nil { // another repository's copy will do
			errs[i] = nil
			continue
		}
		errs[i] = fmt.Errorf("%s: %w", repo, errs[i])
	}
	return errors.Join(errs...)
}

// healManifest gets a manifest, and what it leads to, from the source.
func (v *verification) healManifest(ctx context.Context, repo string, d digest.Digest, tags []string) error {
	up, err := v.how.Heal.Open(repo)
	if err != nil {
		return err
	}
	desc, err := up.Resolve(ctx, d.String())
	if err != nil {
		return err
	}
	im := &importer{s: v.s}
	return im.manifest(ctx, repo, up, desc, tags, 0)
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
func (s *directory) quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error) {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return nil, err
	}
	if err := s.quarantine(s.blobPath(d), d); err != nil {
		return nil, err
	}
	err = s.eachRepository("", func(repo string) error {
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
		repos = append(repos, repo)
		return s.quarantine(path, d)
	})
	return repos, err
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
func (s *directory) quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	if err := s.sync.mkdir(filepath.Join(s.root, "quarantine")); err != nil {
		return nil, err
	}
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	defer unlock()
	path := s.recordPath(repo, d)
	if tags, err = s.removeTagsOf(repo, path, d, false); err != nil {
		return tags, ignoreNotFound(err)
	}
	return tags, s.quarantine(path, d)
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
func (b *bucket) quarantineBlob(ctx context.Context, d digest.Digest) (repos []string, err error) {
	bad, err := b.get(ctx, blobKey(d))
	if err != nil {
		return nil, ignoreNotFound(err)
	}
	if ok, err := b.removeIf(ctx, blobKey(d), bad.etag); err != nil || !ok {
		return nil, err // it has been pushed again
	}
	for e, err := range b.list(ctx, "repos/", "") {
		if err != nil {
			return repos, err
		}
		repo, kind, rest := splitRepoKey(e.key)
		if kind != "blobs" || rest != d.Algorithm().String()+"/"+d.Encoded() {
			continue
		}
		marker, err := b.get(ctx, markerKey(repo, d))
		if err == nil && string(marker.body) == string(bad.body) {
			repos = append(repos, repo)
			_, err = b.removeIf(ctx, markerKey(repo, d), marker.etag)
		}
		if ignoreNotFound(err) != nil {
			return repos, err
		}
	}
	return repos, nil
}

// quarantineManifest implements verifiable.
func (b *bucket) quarantineManifest(ctx context.Context, repo string, d digest.Digest) (tags []string, err error) {
	if tags, err = b.untag(ctx, repo, d); err != nil {
		return tags, err
	}
	return tags, b.remove(ctx, recordKey(repo, d))
}
