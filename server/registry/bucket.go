package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/opencontainers/go-digest"
)

// BucketOptions say which bucket of an S3 service holds a registry.
type BucketOptions struct {
	// URL is https://HOST[:PORT]/BUCKET[/PREFIX]. Without a key in the environment
	// (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), ~/.aws and the machine's role are asked.
	URL string `json:"url"`
	// Region is the service's, "us-east-1" if it has none.
	Region string `json:"region,omitempty"`
	// Redirect sends clients to the service for blobs, with URLs that are good for a while.
	Redirect bool `json:"redirect,omitempty"`
	// Temp is where parts of uploads wait, at most partSize for each request. The default
	// is os.TempDir.
	Temp string `json:"temp,omitempty"`
}

// bucket is the storage in an S3 bucket, and nothing beside it. Any number of servers may
// use one. Its objects, below the prefix:
//
//	layout                                     "teu registry s3 1", the version of this tree
//	data/ab/ab12..                             bytes of a blob, named by the upload that brought it;
//	                                           never written again
//	blobs/sha256/HEX                           where the bytes of a digest are
//	repos/NAME/_blobs/sha256/HEX               the same: the blob is visible in NAME
//	repos/NAME/_manifests/sha256/HEX           record of a manifest, as in a directory
//	repos/NAME/_tags/TAG                       the record the tag points to, so that a pull is one request
//	repos/NAME/_tagged/sha256-HEX/TAG          TAG points to that manifest, or did
//	repos/NAME/_referrers/sha256-HEX/sha256-HEX  the second's subject is the first
//	names/NAME!                                NAME has manifests; "!" keeps the order of bytes
//	uploads/ID/state                           an upload, who writes to it and the hash so far
//	uploads/ID/tail-..                         its bytes behind the last whole part
//	gc/lease, gc/last                          the collection that runs, and when one ended
//	gc/removing                                pointers it is about to remove with their data
//
// All but data and tails are small objects that begin with a random line (see object), so
// that every write gives another ETag. What two servers could both change is changed by
// conditional requests. An object without a byte is as good as none: that is how objects go
// in services that cannot delete conditionally.
//
// Garbage is collected as in a directory, with conditional requests in the place of locks:
// whoever relies on a blob or manifest being there rewrites its object first, unless that
// happened a moment ago, so that the deletion of a collection which took it for old fails.
type bucket struct {
	api      *minio.Core
	name     string
	prefix   string // "" or ends with a slash
	redirect bool
	temp     string

	// skew is how far the service's clock is ahead of ours.
	skew atomic.Int64
	// deletesIf tells that the service honours If-Match in deletions.
	deletesIf bool
	// lease is how long a holder that does not renew is waited for.
	lease time.Duration
	// touchAfter is how old an object must be for touch to write it again. minGrace has to
	// leave room for it and for a request.
	touchAfter, minGrace time.Duration

	buffers buffers
	refs    refCache
}

var _ storage = (*bucket)(nil)

const (
	bucketLayout     = "teu registry s3 1\n"
	defaultLease     = 20 * time.Second
	bucketTouchAfter = 10 * time.Second
	bucketMinGrace   = 2 * time.Minute
	// presignLife is how long a client may take from a redirect to its request.
	presignLife = 15 * time.Minute
)

// openBucket opens the storage in a bucket, which has to exist. It makes one if there is none
// and need not be.
func openBucket(ctx context.Context, o BucketOptions, existing bool) (*bucket, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	name, prefix, _ := strings.Cut(strings.Trim(u.Path, "/"), "/")
	if u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || name == "" || u.User != nil {
		return nil, fmt.Errorf("%q is not https://HOST/BUCKET: %w", o.URL, errdefs.ErrInvalidArgument)
	}
	if prefix != "" {
		prefix += "/"
	}
	b := &bucket{name: name, prefix: prefix, redirect: o.Redirect, temp: o.Temp,
		lease: defaultLease, touchAfter: bucketTouchAfter, minGrace: bucketMinGrace}
	if b.temp == "" {
		b.temp = os.TempDir()
	}
	transport, err := minio.DefaultTransport(u.Scheme == "https")
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = 256
	b.api, err = minio.NewCore(u.Host, &minio.Options{
		Creds: credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
		}),
		Secure: u.Scheme == "https", Region: o.Region, Transport: &bucketTransport{transport, b},
	})
	if err != nil {
		return nil, err
	}
	if err := b.checkLayout(ctx, existing); err != nil {
		return nil, err
	}
	return b, b.probe(ctx)
}

// checkLayout refuses a tree of a later teu, and marks a new one unless one has to be there.
func (b *bucket) checkLayout(ctx context.Context, existing bool) error {
	o, err := b.get(ctx, "layout")
	if existing && err != nil {
		return noRegistry(err)
	}
	if errdefs.IsNotFound(err) {
		if _, _, err := b.create(ctx, "layout", []byte(bucketLayout)); err != nil {
			return err
		}
		o, err = b.get(ctx, "layout")
	}
	if err != nil {
		return err
	}
	if string(o.body) != bucketLayout {
		return fmt.Errorf("made by another version of teu, or not a registry: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// probe finds out whether the service honours the conditions that the registry rests on.
func (b *bucket) probe(ctx context.Context) error {
	key := "gc/probe-" + randomHex()
	first, created, err := b.create(ctx, key, []byte("1"))
	if err != nil || !created {
		return errors.Join(fmt.Errorf("probing the bucket: cannot create an object"), err)
	}
	defer b.remove(context.WithoutCancel(ctx), key)
	_, again, err1 := b.create(ctx, key, []byte("2"))
	second, replaced, err2 := b.replace(ctx, key, first, []byte("3"))
	_, wrongly, err3 := b.replace(ctx, key, first, []byte("4"))
	if err := errors.Join(err1, err2, err3); err != nil {
		return fmt.Errorf("probing the bucket: %w", err)
	}
	if again || wrongly || !replaced {
		return fmt.Errorf("the service does not honour If-Match and If-None-Match of a PUT: %w", errdefs.ErrNotImplemented)
	}
	b.deletesIf = true
	if gone, err := b.removeIf(ctx, key, first); err != nil || gone {
		b.deletesIf = false
		return nil
	}
	if gone, err := b.removeIf(ctx, key, second); err != nil || !gone {
		b.deletesIf = false
	}
	return nil
}

// now is the time of the service, by which it stamps objects.
func (b *bucket) now() time.Time { return time.Now().Add(time.Duration(b.skew.Load())) }

// bucketTransport adds what the client library cannot say, and looks at the clock.
type bucketTransport struct {
	next http.RoundTripper
	b    *bucket
}

// deleteIf is the key of a context with the ETag that a deletion is bound to. The header is
// not signed, which services accept for all but their own.
type deleteIf struct{}

// RoundTrip implements http.RoundTripper.
func (t *bucketTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if etag, ok := r.Context().Value(deleteIf{}).(string); ok && r.Method == http.MethodDelete {
		r = r.Clone(r.Context())
		r.Header.Set("If-Match", `"`+etag+`"`)
	}
	resp, err := t.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		t.b.skew.Store(int64(time.Until(date)))
	}
	return resp, nil
}

// Keys. All their parts have been checked by the API.

func blobKey(d digest.Digest) string {
	return "blobs/" + d.Algorithm().String() + "/" + d.Encoded()
}

func repoKey(repo, kind string) string { return "repos/" + repo + "/_" + kind + "/" }

func markerKey(repo string, d digest.Digest) string {
	return repoKey(repo, "blobs") + d.Algorithm().String() + "/" + d.Encoded()
}

func recordKey(repo string, d digest.Digest) string {
	return repoKey(repo, "manifests") + d.Algorithm().String() + "/" + d.Encoded()
}

func tagKey(repo, tag string) string { return repoKey(repo, "tags") + tag }

func taggedKey(repo string, d digest.Digest, tag string) string {
	return repoKey(repo, "tagged") + flatDigest(d) + "/" + tag
}

func referrersKey(repo string, subject digest.Digest) string {
	return repoKey(repo, "referrers") + flatDigest(subject) + "/"
}

func nameKey(repo string) string { return "names/" + repo + "!" }

func dataKey(id string) string { return "data/" + id[:2] + "/" + id }
