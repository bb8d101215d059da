package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
)

// object is a small object as it was read. Its bytes in the bucket are a random line and
// the body: no two writes have the same ETag, and a writer can tell whether it was him.
type object struct {
	body     []byte
	nonce    string
	etag     string // of what is there, even if that is as good as nothing
	modified time.Time
}

// nonceSize is the length of the random line.
const nonceSize = 33

// maxObject is the largest small object: a manifest, or the state of an upload.
const maxObject = maxRecord + nonceSize

// get reads a small object. errdefs.ErrNotFound: there is none, or one without a byte.
// errdefs.ErrDataLoss: it is none that was written here; the result has its ETag.
func (b *bucket) get(ctx context.Context, key string) (object, error) {
	r, info, _, err := b.api.GetObject(ctx, b.name, b.prefix+key, minio.GetObjectOptions{})
	if err != nil {
		return object{}, bucketError(key, err)
	}
	defer r.Close()
	o := object{etag: info.ETag, modified: info.LastModified}
	all, err := io.ReadAll(io.LimitReader(r, maxObject+1))
	switch {
	case err != nil:
		return object{}, fmt.Errorf("reading %s: %w", key, err)
	case len(all) == 0:
		return o, fmt.Errorf("%s has been deleted: %w", key, errdefs.ErrNotFound)
	case len(all) < nonceSize || len(all) > maxObject || all[nonceSize-1] != '\n':
		return o, fmt.Errorf("%s is not of this registry: %w", key, errdefs.ErrDataLoss)
	}
	o.nonce, o.body = string(all[:nonceSize]), all[nonceSize:]
	return o, nil
}

// put writes a small object over whatever is there.
func (b *bucket) put(ctx context.Context, key string, body []byte) error {
	_, err := b.write(ctx, key, newNonce(), body, minio.PutObjectOptions{})
	return bucketError(key, err)
}

func (b *bucket) write(ctx context.Context, key, nonce string, body []byte, o minio.PutObjectOptions) (etag string, err error) {
	o.ContentType = "application/octet-stream"
	all := append([]byte(nonce), body...)
	info, err := b.api.PutObject(ctx, b.name, b.prefix+key, bytes.NewReader(all), int64(len(all)), "", "", o)
	return info.ETag, err
}

// create writes a small object where none is. Otherwise created is false.
func (b *bucket) create(ctx context.Context, key string, body []byte) (etag string, created bool, err error) {
	var o minio.PutObjectOptions
	o.SetMatchETagExcept("*")
	etag, created, err = b.writeIf(ctx, key, newNonce(), body, o)
	if err != nil || created {
		return etag, created, err
	}
	there, err := b.get(ctx, key)
	if !errdefs.IsNotFound(err) {
		return "", false, err
	}
	if there.etag == "" { // it went meanwhile
		return "", false, nil
	}
	return b.replace(ctx, key, there.etag, body)
}

// replace writes a small object over the one with that ETag. ok is false when it is not
// there any more.
func (b *bucket) replace(ctx context.Context, key, etag string, body []byte) (newETag string, ok bool, err error) {
	return b.replaceAs(ctx, key, etag, newNonce(), body)
}

func (b *bucket) replaceAs(ctx context.Context, key, etag, nonce string, body []byte) (newETag string, ok bool, err error) {
	var o minio.PutObjectOptions
	o.SetMatchETag(etag)
	return b.writeIf(ctx, key, nonce, body, o)
}

func newNonce() string { return randomHex() + "\n" }

// writeIf is a conditional write. One that was answered by nobody, and repeated, fails for
// its own success: the nonce tells.
func (b *bucket) writeIf(ctx context.Context, key, nonce string, body []byte, o minio.PutObjectOptions) (etag string, ok bool, err error) {
	for range 10 {
		etag, err = b.write(ctx, key, nonce, body, o)
		if err == nil {
			return etag, true, nil
		}
		switch e := minio.ToErrorResponse(err); {
		case e.StatusCode == http.StatusPreconditionFailed, e.StatusCode == http.StatusNotFound && e.Code == minio.NoSuchKey:
			there, err := b.get(ctx, key)
			if err == nil && there.nonce == nonce {
				return there.etag, true, nil
			}
			if errdefs.IsNotFound(err) {
				err = nil
			}
			return "", false, err
		case e.StatusCode == http.StatusConflict: // another one was under way
			select {
			case <-ctx.Done():
				return "", false, ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		default:
			return "", false, bucketError(key, err)
		}
	}
	return "", false, bucketError(key, err)
}

// removeIf removes the object with that ETag. ok is false when it is not there any more.
func (b *bucket) removeIf(ctx context.Context, key, etag string) (ok bool, err error) {
	if b.deletesIf {
		err = b.api.RemoveObject(context.WithValue(ctx, deleteIf{}, etag), b.name, b.prefix+key, minio.RemoveObjectOptions{})
	} else {
		var o minio.PutObjectOptions
		o.SetMatchETag(etag)
		_, err = b.api.PutObject(ctx, b.name, b.prefix+key, bytes.NewReader(nil), 0, "", "", o)
	}
	switch e := minio.ToErrorResponse(err); {
	case err == nil:
		return true, nil
	case e.StatusCode == http.StatusPreconditionFailed, e.StatusCode == http.StatusConflict, e.StatusCode == http.StatusNotFound:
		return false, nil
	}
	return false, bucketError(key, err)
}

// remove removes an object, whatever it is. That there is none is fine.
func (b *bucket) remove(ctx context.Context, key string) error {
	return bucketError(key, b.api.RemoveObject(ctx, b.name, b.prefix+key, minio.RemoveObjectOptions{}))
}

// drop removes whatever small object is at key now. errdefs.ErrNotFound when there is none.
func (b *bucket) drop(ctx context.Context, key string) error {
	for range 10 {
		o, err := b.get(ctx, key)
		if err != nil {
			return err
		}
		if ok, err := b.removeIf(ctx, key, o.etag); err != nil || ok {
			return err
		}
	}
	return fmt.Errorf("%s changes all the time: %w", key, errdefs.ErrUnavailable)
}

// touch reads a small object, and protects it from collections. That somebody else has
// written it since is as good as having done it.
func (b *bucket) touch(ctx context.Context, key string) (object, error) {
	var seen string
	for range 10 {
		o, err := b.get(ctx, key)
		if err != nil || b.now().Sub(o.modified) < b.touchAfter || seen != "" && o.etag != seen {
			return o, err
		}
		seen = o.etag
		if etag, ok, err := b.replace(ctx, key, o.etag, o.body); err != nil || ok {
			o.etag = etag
			return o, err
		}
	}
	return object{}, fmt.Errorf("%s changes all the time: %w", key, errdefs.ErrUnavailable)
}

// entry is an object in a list.
type entry struct {
	key      string // without the prefix of the list
	size     int64
	etag     string
	modified time.Time
}

// list yields the objects below prefix that are behind prefix+after, in the order of bytes.
// An error ends it.
func (b *bucket) list(ctx context.Context, prefix, after string) iter.Seq2[entry, error] {
	return func(yield func(entry, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the goroutine behind the channel
		o := minio.ListObjectsOptions{Prefix: b.prefix + prefix, Recursive: true}
		if after != "" {
			o.StartAfter = b.prefix + prefix + after
		}
		for info := range b.api.Client.ListObjects(ctx, b.name, o) {
			if info.Err != nil {
				yield(entry{}, bucketError(prefix, info.Err))
				return
			}
			key := strings.TrimPrefix(info.Key, b.prefix+prefix)
			if info.Size == 0 || key <= after {
				continue
			}
			if !yield(entry{key, info.Size, info.ETag, info.LastModified}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(entry{}, err)
		}
	}
}

// any reports whether there is an object below prefix.
func (b *bucket) any(ctx context.Context, prefix string) (bool, error) {
	for _, err := range b.list(ctx, prefix, "") {
		return err == nil, err
	}
	return false, nil
}

// bucketError gives an error of the service its class.
func bucketError(key string, err error) error {
	if err == nil {
		return nil
	}
	e := minio.ToErrorResponse(err)
	if e.StatusCode == http.StatusNotFound && e.Code != minio.NoSuchBucket {
		return fmt.Errorf("%s: %w: %w", key, errdefs.ErrNotFound, err)
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("storage, %s: %w", key, err)
}
