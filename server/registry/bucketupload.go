package registry

import (
	"context"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// partSize is the size of all parts of a multipart upload but the last: some services want
// them equal, and 10,000 is as many as there can be.
const partSize = 16 << 20

// uploadState is what any server needs to go on with an upload. It tells the truth at every
// moment: a server that dies loses what it read since it was last written.
type uploadState struct {
	Owner     string           `json:"owner,omitempty"` // the request that holds it
	Algorithm digest.Algorithm `json:"algorithm"`
	Size      int64            `json:"size"`
	Hash      []byte           `json:"hash"`                // of Size bytes, as hash.Hash marshals it
	Multipart string           `json:"multipart,omitempty"` // ID of the multipart upload of the data
	Data      string           `json:"data,omitempty"`      // its key
	Parts     []string         `json:"parts,omitempty"`     // their ETags
	Tail      string           `json:"tail,omitempty"`      // key of the bytes behind the parts
	Final     digest.Digest    `json:"final,omitempty"`     // what it is about to become
	// Earlier are what it was about to become when a server died or the bucket failed: the
	// blobs may be there, with the data that was stored for them.
	Earlier []digest.Digest `json:"earlier,omitempty"`
	Gone    bool            `json:"gone,omitempty"` // it has ended: only the sweep looks at it
}

// dataKey is where the bytes of the upload are stored in the end. Nothing is ever written over
// what is there, as blobs may be there already: of one without parts see createData, and each
// multipart upload has a key of its own.
func (s uploadState) dataKey(id string) string {
	if s.Data != "" {
		return s.Data
	}
	return dataKey(id)
}

func decodeState(b []byte) (s uploadState, err error) {
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("state of an upload: %w: %w", errdefs.ErrDataLoss, err)
	}
	return s, nil
}

func (s uploadState) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

// partsMark is between the ID of an upload and what is random in the key of its data.
const partsMark = "."

func uploadKey(id, name string) string { return "uploads/" + id + "/" + name }

// CreateUpload implements uploads.
func (b *bucket) CreateUpload(ctx context.Context, repo string, a digest.Algorithm) (string, error) {
	id := randomHex() + repoMark(repo)
	s := uploadState{Algorithm: a, Hash: marshalHash(newHash(a))}
	return id, b.put(ctx, uploadKey(id, "state"), s.encode())
}

// UploadSize implements uploads.
func (b *bucket) UploadSize(ctx context.Context, repo, id string) (int64, error) {
	if err := checkUpload(repo, id); err != nil {
		return 0, err
	}
	o, err := b.get(ctx, uploadKey(id, "state"))
	if err != nil {
		return 0, err
	}
	s, err := decodeState(o.body)
	if err == nil && s.Gone {
		err = errGone
	}
	return s.Size, err
}

var errGone = fmt.Errorf("the upload has ended: %w", errdefs.ErrNotFound)

// OpenUpload implements uploads.
func (b *bucket) OpenUpload(ctx context.Context, repo, id string, final digest.Digest) (upload, error) {
	if err := checkUpload(repo, id); err != nil {
		return nil, err
	}
	busy := &apiError{409, codeBlobUploadInvalid, "another request writes to this upload", nil}
	ctx, cancel := context.WithTimeoutCause(ctx, max(uploadWait, 2*b.lease), busy)
	defer cancel()
	u, err := b.openUpload(ctx, id, final)
	if err != nil {
		return nil, err
	}
	u.repo = repo
	return u, nil
}

func (b *bucket) openUpload(ctx context.Context, id string, final digest.Digest) (*bucketUpload, error) {
	u := &bucketUpload{ctx: context.WithoutCancel(ctx), b: b, id: id, final: final}
	owner := randomHex()
	var err error
	u.lease, err = b.hold(ctx, uploadKey(id, "state"), func(body []byte) (bool, error) {
		s, err := decodeState(body)
		if err == nil && s.Gone {
			err = errGone
		}
		return s.Owner != "", err
	}, func(body []byte) []byte {
		u.state, err = decodeState(body)
		if was := u.state.Final; was != "" && !slices.Contains(u.state.Earlier, was) {
			u.state.Earlier = append(u.state.Earlier, was)
		}
		u.state.Owner, u.state.Final = owner, final
		return u.state.encode()
	}, func([]byte) []byte { return u.state.encode() })
	if err != nil {
		return nil, err
	}
	u.size, u.stored = u.state.Size, u.state.Tail
	if u.hash, err = unmarshalHash(u.state.Algorithm, u.state.Hash); err != nil {
		return nil, errors.Join(err, u.Close())
	}
	return u, nil
}

// bucketUpload is an upload that is held. What has arrived behind the last part is in a file
// without a name until there is enough for a part.
type bucketUpload struct {
	ctx      context.Context // outlives the request: what was read is kept
	b        *bucket
	repo, id string
	final    digest.Digest
	lease    *lease
	state    uploadState // guarded by lease.mu

	size   int64
	hash   hash.Hash // of size bytes
	spool  *os.File  // the bytes behind the parts, nil until they are needed
	stored string    // the tail that the state in the bucket may name
	ending bool      // the data may have been stored
	ended  bool      // the state is not ours any more
}

func (u *bucketUpload) Size() int64 { return u.size }

// spooled is how many bytes are in the spool.
func (u *bucketUpload) spooled() int64 { return u.size - int64(len(u.state.Parts))*partSize }

// ReadFrom implements upload. Unless this is the last chunk what was read is stored, and the
// upload let go of, when it returns.
func (u *bucketUpload) ReadFrom(r io.Reader) (n int64, err error) {
	if err := u.openSpool(); err != nil {
		return 0, err
	}
	n, err = u.receive(r)
	var broken *bodyError
	if err == nil && u.final != "" || err != nil && !errors.As(err, &broken) {
		return n, err // Commit is next, or the bucket is the trouble
	}
	return n, errors.Join(err, u.save())
}

func (u *bucketUpload) receive(r io.Reader) (n int64, err error) {
	pooled := u.b.buffers.get()
	defer u.b.buffers.put(pooled)
	for buf := *pooled; ; {
		k, readErr := r.Read(buf[:min(int64(len(buf)), partSize-u.spooled())])
		if k > 0 {
			if _, err := u.spool.WriteAt(buf[:k], u.spooled()); err != nil {
				return n, fmt.Errorf("writing upload: %w", err)
			}
			u.hash.Write(buf[:k])
			u.size += int64(k)
			n += int64(k)
		}
		if u.spooled() == partSize {
			if err := u.flushPart(); err != nil {
				return n, err
			}
		}
		if readErr == io.EOF {
			return n, nil
		}
		if readErr != nil {
			return n, readErr
		}
	}
}

// openSpool gets the bytes behind the parts from where the last request left them.
func (u *bucketUpload) openSpool() error {
	if u.spool != nil {
		return nil
	}
	f, err := os.OpenFile(u.b.temp, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return fmt.Errorf("opening a file for a part: %w", err)
	}
	u.spool = f
	if u.state.Tail == "" {
		return nil
	}
	r, _, _, err := u.b.api.GetObject(u.ctx, u.b.name, u.b.prefix+u.state.Tail, minio.GetObjectOptions{})
	if err != nil {
		return bucketError(u.state.Tail, err)
	}
	defer r.Close()
	k, err := io.Copy(f, r)
	if err == nil && k != u.spooled() {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// flushPart makes the spool the next part. The state in the bucket follows with the next
// renewal.
func (u *bucketUpload) flushPart() error {
	if u.state.Multipart == "" {
		key := dataKey(u.id) + partsMark + randomHex()
		id, err := u.b.api.NewMultipartUpload(u.ctx, u.b.name, u.b.prefix+key, minio.PutObjectOptions{ContentType: "application/octet-stream"})
		if err != nil {
			return bucketError(key, err)
		}
		u.lease.mu.Lock()
		u.state.Multipart, u.state.Data = id, key
		u.lease.mu.Unlock()
	}
	if err := u.lease.check(u.ctx); err != nil {
		return err
	}
	etag, err := u.putPart()
	if err != nil {
		return err
	}
	u.lease.mu.Lock()
	defer u.lease.mu.Unlock()
	u.state.Parts = append(u.state.Parts, etag)
	u.state.Size, u.state.Hash, u.state.Tail = u.size, marshalHash(u.hash), ""
	return nil
}

// putPart stores the spool as the next part.
func (u *bucketUpload) putPart() (etag string, err error) {
	size := u.spooled()
	key := u.state.dataKey(u.id)
	part, err := u.b.api.PutObjectPart(u.ctx, u.b.name, u.b.prefix+key, u.state.Multipart, len(u.state.Parts)+1,
		io.NewSectionReader(u.spool, 0, size), size, minio.PutObjectPartOptions{})
	return part.ETag, bucketError(key, err)
}

// save stores the spool and the state, and lets go of the upload.
func (u *bucketUpload) save() error {
	tail := ""
	if size := u.spooled(); size > 0 {
		tail = uploadKey(u.id, "tail-"+randomHex())
		if err := u.b.putData(u.ctx, tail, u.spool, size); err != nil {
			return err
		}
	}
	u.lease.end()
	u.ended = true
	u.state.Tail, u.state.Size, u.state.Hash = tail, u.size, marshalHash(u.hash)
	u.state.Owner, u.state.Final = "", ""
	if err := u.lease.write(u.ctx, u.state.encode()); err != nil {
		return err
	}
	if u.stored != "" {
		_ = u.b.remove(u.ctx, u.stored) // else it goes with the upload
	}
	return nil
}

// putData stores the first size bytes of a file.
func (b *bucket) putData(ctx context.Context, key string, f *os.File, size int64) error {
	_, err := b.api.PutObject(ctx, b.name, b.prefix+key, io.NewSectionReader(f, 0, size), size, "", "",
		minio.PutObjectOptions{ContentType: "application/octet-stream"})
	return bucketError(key, err)
}

// Commit implements upload.
func (u *bucketUpload) Commit(ctx context.Context, d digest.Digest) error {
	if err := u.openSpool(); err != nil {
		return err
	}
	known := u.state.Algorithm == d.Algorithm()
	if known && digest.NewDigest(d.Algorithm(), u.hash) != d {
		return errors.Join(errDigest, u.Cancel())
	}
	if !known && len(u.state.Parts) == 0 {
		sum, err := readDigest(d.Algorithm(), io.NewSectionReader(u.spool, 0, u.size))
		if err != nil || sum != d {
			return errors.Join(errDigest, err, u.Cancel())
		}
		known = true
	}
	if known { // perhaps the registry has it, and nothing need be stored
		_, err := u.b.share(ctx, u.repo, d)
		if err == nil {
			return u.Cancel()
		}
		if !errdefs.IsNotFound(err) {
			return err
		}
	}
	if err := u.lease.check(ctx); err != nil {
		return err
	}
	u.ending = true
	sure, err := u.store()
	if err != nil {
		return err
	}
	if !known || !sure {
		if err := u.readBack(ctx, d, sure); err != nil {
			return err
		}
	}
	if err := u.b.adopt(ctx, u.repo, pointer{d, u.size, u.state.dataKey(u.id)}); err != nil {
		return err
	}
	return u.discard()
}

// store makes one object of the parts and the spool. sure is false if this request may not have
// done it: there was something, or the multipart upload is not there any more, as it was completed
// and the answer got lost.
func (u *bucketUpload) store() (sure bool, err error) {
	key := u.state.dataKey(u.id)
	if len(u.state.Parts) == 0 {
		return u.b.createData(u.ctx, key, u.spool, u.size)
	}
	parts := make([]minio.CompletePart, 0, len(u.state.Parts)+1)
	for i, etag := range u.state.Parts {
		parts = append(parts, minio.CompletePart{PartNumber: i + 1, ETag: etag})
	}
	if u.spooled() > 0 {
		etag, err := u.putPart()
		if err != nil {
			return false, ignoreNotFound(err)
		}
		parts = append(parts, minio.CompletePart{PartNumber: len(parts) + 1, ETag: etag})
	}
	_, err = u.b.api.CompleteMultipartUpload(u.ctx, u.b.name, u.b.prefix+key, u.state.Multipart, parts, minio.PutObjectOptions{})
	err = bucketError(key, err)
	return err == nil, ignoreNotFound(err)
}

// createData stores the first size bytes of a file where nothing is. created is false when there
// was something: an earlier try, or another server's.
func (b *bucket) createData(ctx context.Context, key string, f *os.File, size int64) (created bool, err error) {
	o := minio.PutObjectOptions{ContentType: "application/octet-stream"}
	o.SetMatchETagExcept("*")
	for range 10 {
		_, err = b.api.PutObject(ctx, b.name, b.prefix+key, io.NewSectionReader(f, 0, size), size, "", "", o)
		switch minio.ToErrorResponse(err).StatusCode {
		case http.StatusPreconditionFailed:
			return false, nil
		case http.StatusConflict: // another one is under way
			time.Sleep(20 * time.Millisecond)
			continue
		}
		break
	}
	return err == nil, bucketError(key, err)
}

// readBack checks what was stored, when the digest is of another kind than was announced, or
// when it may be another request's.
func (u *bucketUpload) readBack(ctx context.Context, d digest.Digest, ours bool) error {
	r := &dataReader{ctx: ctx, b: u.b, p: pointer{d, u.size, u.state.dataKey(u.id)}}
	defer r.Close()
	sum, err := readDigest(d.Algorithm(), r)
	switch {
	case err != nil:
		return err
	case sum == d:
		return nil
	case !ours: // and perhaps a blob by now
		return errSpoiled
	}
	return errors.Join(errDigest, u.b.remove(u.ctx, u.state.dataKey(u.id)), u.discard())
}

// errSpoiled says that an upload cannot be ended, as somebody else did, with other bytes.
var errSpoiled = &apiError{http.StatusConflict, codeBlobUploadInvalid, "another request ended this upload with other bytes", nil}

func readDigest(a digest.Algorithm, r io.Reader) (digest.Digest, error) {
	h := newHash(a)
	if _, err := io.Copy(h, r); err != nil {
		return "", fmt.Errorf("reading upload: %w", err)
	}
	return digest.NewDigest(a, h), nil
}

// Cancel implements upload.
func (u *bucketUpload) Cancel() error {
	if err := u.lease.check(u.ctx); err != nil {
		return err
	}
	if len(u.state.Earlier) > 0 {
		return u.leave()
	}
	if u.state.Multipart != "" {
		key := u.state.dataKey(u.id)
		err := u.b.api.AbortMultipartUpload(u.ctx, u.b.name, u.b.prefix+key, u.state.Multipart)
		if err := bucketError(key, err); err != nil && !errdefs.IsNotFound(err) {
			return err
		}
	}
	return u.discard()
}

// discard removes the state and tails. The state goes last: whatever happens, it can be
// found and done again.
func (u *bucketUpload) discard() error {
	if len(u.state.Earlier) > 0 {
		return u.leave()
	}
	u.lease.end()
	u.ended = true
	if err := u.lease.check(u.ctx); errors.Is(err, errLost) {
		return nil // the other server does it
	} else if err != nil {
		return err
	}
	for _, tail := range []string{u.stored, u.state.Tail} {
		if tail != "" {
			if err := u.b.remove(u.ctx, tail); err != nil {
				return err
			}
		}
	}
	return u.b.remove(u.ctx, uploadKey(u.id, "state"))
}

// leave ends an upload that may have left data behind: the sweep looks whose they are.
func (u *bucketUpload) leave() error {
	u.lease.end()
	u.ended = true
	u.state.Owner, u.state.Gone = "", true
	return u.lease.write(u.ctx, u.state.encode())
}

// Close implements upload.
func (u *bucketUpload) Close() error {
	var err error
	if !u.ended {
		u.lease.end()
		u.state.Owner = ""
		if !u.ending {
			u.state.Final = ""
		}
		err = u.lease.write(u.ctx, u.state.encode())
		u.ended = true
	}
	if u.spool != nil {
		err = errors.Join(err, u.spool.Close())
		u.spool = nil
	}
	return err
}

// SweepUploads implements uploads.
func (b *bucket) SweepUploads(ctx context.Context, before time.Time) (removed int, err error) {
	var last string // upload whose state was seen
	for e, err := range b.list(ctx, "uploads/", "") {
		if err != nil {
			return removed, err
		}
		id, name, _ := strings.Cut(e.key, "/")
		if name == "state" {
			last = id
		} else if id != last && e.modified.Before(before) { // a tail behind the upload
			if err := b.remove(ctx, "uploads/"+e.key); err != nil {
				return removed, err
			}
		}
		if name != "state" || !e.modified.Before(before) {
			continue
		}
		ok, err := b.sweepUpload(ctx, id)
		if err != nil {
			return removed, err
		}
		if ok {
			removed++
		}
	}
	return removed, b.sweepMultiparts(ctx, before)
}

// sweepUpload removes an upload, with the data it may have stored when its server died.
func (b *bucket) sweepUpload(ctx context.Context, id string) (ok bool, err error) {
	o, err := b.get(ctx, uploadKey(id, "state"))
	if err != nil {
		return false, ignoreNotFound(err)
	}
	s, err := decodeState(o.body)
	if err != nil {
		return false, err
	}
	s.Owner = "sweep"
	if _, ok, err := b.replace(ctx, uploadKey(id, "state"), o.etag, s.encode()); err != nil || !ok {
		return false, err
	}
	key := s.dataKey(id)
	stored, kept := s.Final != "" || len(s.Earlier) > 0, false
	for _, d := range append(s.Earlier, s.Final) {
		if d == "" {
			continue
		}
		p, err := b.pointer(ctx, blobKey(d))
		if ignoreNotFound(err) != nil {
			return false, err
		}
		kept = kept || p.data == key
	}
	if stored && !kept {
		if err := b.remove(ctx, key); err != nil {
			return false, err
		}
	}
	if s.Multipart != "" {
		err := b.api.AbortMultipartUpload(ctx, b.name, b.prefix+key, s.Multipart)
		if err := bucketError(id, err); ignoreNotFound(err) != nil {
			return false, err
		}
	}
	for e, err := range b.list(ctx, uploadKey(id, "tail-"), "") {
		if err == nil {
			err = b.remove(ctx, uploadKey(id, "tail-")+e.key)
		}
		if err != nil {
			return false, err
		}
	}
	return true, b.remove(ctx, uploadKey(id, "state"))
}

// sweepMultiparts removes multipart uploads that no state came to name.
func (b *bucket) sweepMultiparts(ctx context.Context, before time.Time) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for m := range b.api.ListIncompleteUploads(ctx, b.name, b.prefix+"data/", true) {
		if m.Err != nil {
			return bucketError("data/", m.Err)
		}
		if !m.Initiated.Before(before.Add(-uploadLife)) {
			continue
		}
		id, _, _ := strings.Cut(path.Base(m.Key), partsMark)
		o, err := b.get(ctx, uploadKey(id, "state"))
		if ignoreNotFound(err) != nil {
			return err
		}
		if s, err := decodeState(o.body); err == nil && s.Multipart == m.UploadID {
			continue // of an upload that takes so long
		}
		if err := b.api.AbortMultipartUpload(ctx, b.name, m.Key, m.UploadID); err != nil {
			return bucketError(m.Key, err)
		}
	}
	return nil
}

func ignoreNotFound(err error) error {
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// marshalHash returns the state of a hash of newHash.
func marshalHash(h hash.Hash) []byte {
	b, err := h.(encoding.BinaryMarshaler).MarshalBinary()
	if err != nil {
		panic(err) // those of the standard library can
	}
	return b
}

func unmarshalHash(a digest.Algorithm, state []byte) (hash.Hash, error) {
	h := newHash(a)
	if err := h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state); err != nil {
		return nil, fmt.Errorf("state of an upload: %w: %w", errdefs.ErrDataLoss, err)
	}
	return h, nil
}
