package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// The first line of a record is
//
//	manifest DIGEST MEDIA-TYPE
//	manifest DIGEST MEDIA-TYPE split
//
// "split" says that some tags of the manifest are links to another file with the same
// contents, which happens when there are more tags than the file system counts links.
const (
	recordWord = "manifest"
	splitWord  = "split"
	// maxRecord is the largest record, in bytes. Media types are at most 255.
	maxRecord = maxManifest + 1024
)

func encodeHeader(d digest.Digest, mediaType string, split bool) []byte {
	line := recordWord + " " + d.String() + " " + mediaType
	if split {
		line += " " + splitWord
	}
	return []byte(line + "\n")
}

// decodeRecord takes a record apart. The result shares b.
func decodeRecord(b []byte) (r record, split bool, err error) {
	line, body, ok := bytes.Cut(b, []byte("\n"))
	f := strings.Split(string(line), " ")
	if !ok || len(f) < 3 || f[0] != recordWord {
		return record{}, false, fmt.Errorf("not a record of a manifest: %w", errdefs.ErrDataLoss)
	}
	d, err := parseDigest(f[1])
	if err != nil {
		return record{}, false, fmt.Errorf("not a record of a manifest: %w", errdefs.ErrDataLoss)
	}
	return record{digest: d, mediaType: f[2], body: body}, len(f) > 3 && f[3] == splitWord, nil
}

// readRecord reads a record with as few system calls as there can be.
func readRecord(path string) (r record, split bool, err error) {
	f, err := openRead(path)
	if err != nil {
		return record{}, false, notFound(err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return record{}, false, &fs.PathError{Op: "fstat", Path: path, Err: err}
	}
	if st.Size > maxRecord {
		return record{}, false, fmt.Errorf("%s is too large: %w", path, errdefs.ErrDataLoss)
	}
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil {
		return record{}, false, err
	}
	r, split, err = decodeRecord(b)
	if err != nil {
		return record{}, false, fmt.Errorf("%s: %w", path, err)
	}
	return r, split, nil
}

// GetManifest implements manifests.
func (s *directory) GetManifest(_ context.Context, repo, ref string) (record, error) {
	path := s.tagPath(repo, ref)
	if strings.Contains(ref, ":") {
		path = s.recordPath(repo, digest.Digest(ref))
	}
	r, _, err := readRecord(path)
	return r, err
}

// PutManifest implements manifests. The order is: the record's bytes to disk, then under the
// lock its references looked at and the links made, then the links to disk.
func (s *directory) PutManifest(ctx context.Context, repo string, m manifest, tags []string) error {
	path := s.recordPath(repo, m.digest)
	dirs := []string{filepath.Dir(path)}
	if len(tags) > 0 {
		dirs = append(dirs, s.repo(repo)+"/_tags")
	}
	if m.subject != "" {
		dirs = append(dirs, s.referrersPath(repo, m.subject))
	}
	for _, dir := range dirs {
		if err := s.sync.mkdir(dir); err != nil {
			return err
		}
	}
	r, _, err := readRecord(path)
	switch {
	case errdefs.IsNotFound(err):
		err = errNoRecord
	case err != nil || !r.is(m.digest):
		if err = s.healRecord(ctx, repo, m); err != nil {
			break
		}
		fallthrough
	default: // what is pushed again to set a tag is not written again
		err = s.linkManifest(ctx, repo, m, tags, "")
	}
	if errors.Is(err, errNoRecord) {
		var tmp string
		if tmp, err = s.writeTemp(append(encodeHeader(m.digest, m.mediaType, false), m.body...)); err != nil {
			return err
		}
		defer unix.Unlink(tmp)
		err = s.linkManifest(ctx, repo, m, tags, tmp)
	}
	if err != nil {
		return err
	}
	return s.sync.dirs(dirs)
}

// healRecord replaces a record that a disk has changed, for its tags too. They get the new one first: who is killed
// between leaves a record that still needs it. errNoRecord when it is not there any more.
func (s *directory) healRecord(ctx context.Context, repo string, m manifest) error {
	tmp, err := s.writeTemp(append(encodeHeader(m.digest, m.mediaType, true), m.body...))
	if err != nil {
		return err
	}
	defer unix.Unlink(tmp)
	unlock, err := s.lockReferences(ctx, repo, m, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	path := s.recordPath(repo, m.digest)
	if r, _, err := readRecord(path); errdefs.IsNotFound(err) {
		return errNoRecord
	} else if err == nil && r.is(m.digest) {
		return nil // another push was faster
	}
	bad, err := os.Lstat(path)
	if err != nil {
		return err
	}
	dir := s.repo(repo) + "/_tags"
	tags, err := readNames(dir)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	for _, tag := range tags {
		fi, err := os.Lstat(filepath.Join(dir, tag))
		if err == nil && os.SameFile(fi, bad) {
			err = s.linkRecord(tmp, filepath.Join(dir, tag), "")
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if len(tags) > 0 {
		if err := s.sync.dir(dir); err != nil {
			return err
		}
	}
	return os.Rename(tmp, path)
}

// lockReferences is lockRepository for who makes m visible, and refuses it if what it refers to is not there.
func (s *directory) lockReferences(ctx context.Context, repo string, m manifest, how int) (unlock func(), err error) {
	if unlock, err = s.lockRepository(ctx, repo, how); err != nil {
		return nil, err
	}
	if err := s.checkReferences(repo, m.references); err != nil {
		unlock()
		return nil, err
	}
	return unlock, nil
}

// errNoRecord says that a manifest is not there and was not brought along.
var errNoRecord = errors.New("no record of the manifest")

// linkManifest makes m and its tags visible. tmp is a file with its record, or "" if it
// should be there already.
func (s *directory) linkManifest(ctx context.Context, repo string, m manifest, tags []string, tmp string) error {
	unlock, err := s.lockReferences(ctx, repo, m, unix.LOCK_SH)
	if err != nil {
		return err
	}
	defer unlock()
	path := s.recordPath(repo, m.digest)
	if tmp == "" {
		if err := touch(path); errors.Is(err, fs.ErrNotExist) {
			return errNoRecord
		} else if err != nil {
			return err
		}
	}
	spare := tmp
	if tmp != "" {
		err := os.Link(tmp, path)
		if errors.Is(err, fs.ErrExist) {
			spare, err = "", touch(path)
		}
		if err != nil {
			return err
		}
	}
	if m.subject != "" {
		referrer := s.referrersPath(repo, m.subject) + "/" + flatDigest(m.digest)
		if err := s.linkRecord(path, referrer, ""); err != nil {
			return err
		}
	}
	for _, tag := range tags {
		if slices.Contains(m.fixed, tag) {
			err = s.linkFixed(path, s.tagPath(repo, tag))
		} else {
			err, spare = s.linkRecord(path, s.tagPath(repo, tag), spare), ""
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// linkFixed is linkRecord for a target that does not change.
func (s *directory) linkFixed(path, target string) error {
	err := s.linkOrSplit(path, target)
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	there, _, err := readRecord(target)
	if err == nil && there.digest.Encoded() != filepath.Base(path) {
		err = errImmutable(filepath.Base(target))
	}
	return err
}

// linkRecord makes target, which may be a link to another record, one to this record. spare is
// "" or one more name of the record that can go.
func (s *directory) linkRecord(path, target, spare string) error {
	if spare == "" {
		err := s.linkOrSplit(path, target)
		if !errors.Is(err, fs.ErrExist) {
			return err
		}
		spare = s.tempPath()
		if err := s.linkOrSplit(path, spare); err != nil {
			return err
		}
		// rename(2) does nothing, successfully, to two names of one file.
		defer unix.Unlink(spare)
	}
	return os.Rename(spare, target)
}

// linkOrSplit is link(2) for a record that may have as many links as there can be.
func (s *directory) linkOrSplit(path, target string) error {
	err := os.Link(path, target)
	if !errors.Is(err, unix.EMLINK) {
		return err
	}
	if err := s.splitRecord(path); err != nil {
		return err
	}
	return os.Link(path, target)
}

// splitRecord puts a new file in the place of a record that has as many links as there can
// be.
func (s *directory) splitRecord(path string) error {
	r, _, err := readRecord(path)
	if err != nil {
		return err
	}
	tmp, err := s.writeTemp(append(encodeHeader(r.digest, r.mediaType, true), r.body...))
	if err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// RemoveManifest implements manifests. The record goes last, so that a deletion that was
// cut short can be repeated.
func (s *directory) RemoveManifest(ctx context.Context, repo string, d digest.Digest) error {
	unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	path := s.recordPath(repo, d)
	r, split, err := readRecord(path)
	if err != nil {
		return err
	}
	if _, err := s.removeTagsOf(repo, path, d, split); err != nil {
		return err
	}
	if m, err := parseManifest(r.body, r.mediaType); err == nil && m.subject != "" {
		dir := s.referrersPath(repo, m.subject)
		if err := removeDurably(s.sync, dir+"/"+flatDigest(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return removeDurably(s.sync, path)
}

// removeTagsOf removes every tag that is a link to the record at path or, if the record was
// split, to one with its digest, and returns them.
func (s *directory) removeTagsOf(repo, path string, d digest.Digest, split bool) (removed []string, err error) {
	record, err := os.Lstat(path)
	if err != nil {
		return nil, notFound(err)
	}
	dir := s.repo(repo) + "/_tags"
	tags, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, tag := range tags {
		fi, err := tag.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		ours := os.SameFile(fi, record)
		if !ours && split {
			r, _, err := readRecord(filepath.Join(dir, tag.Name()))
			ours = err == nil && r.digest == d
		}
		if !ours {
			continue
		}
		if err := os.Remove(filepath.Join(dir, tag.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		removed = append(removed, tag.Name())
	}
	if len(removed) == 0 {
		return nil, nil
	}
	return removed, s.sync.dir(dir)
}

// TagInfos implements tags. A tag is a link to its manifest's record, and as old.
func (s *directory) TagInfos(ctx context.Context, repo string) ([]tagInfo, error) {
	names, err := readNames(s.repo(repo) + "/_tags")
	if err != nil {
		return nil, err
	}
	list := make([]tagInfo, 0, len(names))
	for _, name := range names {
		st, err := lstat(s.tagPath(repo, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
		list = append(list, tagInfo{name, time.Unix(st.Mtim.Unix()), tagVersion(&st)})
	}
	return list, nil
}

func tagVersion(st *unix.Stat_t) string {
	return fmt.Sprintf("%d-%d.%d", st.Ino, st.Mtim.Sec, st.Mtim.Nsec)
}

// RemoveTag implements tags. Only who looks at the version needs the lock.
func (s *directory) RemoveTag(ctx context.Context, repo, tag, version string) error {
	path := s.tagPath(repo, tag)
	if version != "" {
		unlock, err := s.lockRepository(ctx, repo, unix.LOCK_EX)
		if err != nil {
			return err
		}
		defer unlock()
		st, err := lstat(path)
		if err != nil {
			return notFound(err)
		}
		if tagVersion(&st) != version {
			return errOtherVersion
		}
	}
	return notFound(removeDurably(s.sync, path))
}

var errOtherVersion = fmt.Errorf("another version: %w", errdefs.ErrNotFound)

func removeDurably(s *syncer, path string) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return s.dir(filepath.Dir(path))
}

// Referrers implements manifests.
func (s *directory) Referrers(ctx context.Context, repo string, d digest.Digest, last string) iter.Seq2[record, error] {
	return func(yield func(record, error) bool) {
		dir := s.referrersPath(repo, d)
		names, err := readNames(dir)
		if err != nil && !errdefs.IsNotFound(err) {
			yield(record{}, err)
			return
		}
		// "-" and ":" sort alike here: they follow the same names of algorithms.
		slices.Sort(names)
		after := strings.Replace(last, ":", "-", 1)
		for _, name := range names {
			if name <= after {
				continue
			}
			r, _, err := readRecord(filepath.Join(dir, name))
			if errdefs.IsNotFound(err) {
				continue // deleted meanwhile
			}
			if err == nil {
				err = ctx.Err()
			}
			if !yield(r, err) || err != nil {
				return
			}
		}
	}
}
