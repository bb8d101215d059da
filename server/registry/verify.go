package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"

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
// and compares it with its digests. errdefs.ErrNotFound when there is none.
func Verify(ctx context.Context, o Options, how VerifyOptions) (VerifyReport, error) {
	o.Existing = true
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
	if err != nil {
		return v.healed(ctx, bad, err)
	}
	if v.how.Heal == nil {
		return nil
	}
	return v.healed(ctx, bad, v.healBlob(ctx, d, repos))
}

func (v *verification) manifest(ctx context.Context, repo string, d digest.Digest, r record, err error) error {
	v.report.Manifests++
	if err == nil && r.is(d) {
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
