package registry

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const (
	bucketUser     = "teutest"
	bucketPassword = "teutestsecret"
)

// startS3 starts the Versity S3 Gateway on a directory and returns the URL of a new bucket.
// Its module is test/s3.
func startS3(t testing.TB) string {
	t.Helper()
	tool := exec.Command("go", "tool", "-n", "versitygw")
	tool.Dir = "../../test/s3"
	tool.Stderr = os.Stderr
	path, err := tool.Output()
	if err != nil {
		t.Fatalf("building the S3 server: %v", err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", bucketUser)
	t.Setenv("AWS_SECRET_ACCESS_KEY", bucketPassword)
	for range 5 { // somebody else may take the port
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		ln.Close()
		cmd := exec.Command(strings.TrimSpace(string(path)), "--port", addr, "--quiet",
			"--access", bucketUser, "--secret", bucketPassword, "posix", bucketDir(t))
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		if makeBucket(addr) == nil {
			return "http://" + addr + "/registry/teu"
		}
		cmd.Process.Kill()
	}
	t.Fatal("the S3 server does not start")
	return ""
}

// bucketDir is where the gateway keeps objects: it wants extended attributes.
func bucketDir(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "s3")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func makeBucket(addr string) error {
	c, err := minio.New(addr, &minio.Options{Creds: credentials.NewStaticV4(bucketUser, bucketPassword, ""), MaxRetries: 1})
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if err = c.MakeBucket(context.Background(), "registry", minio.MakeBucketOptions{}); err == nil {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// onBucket is the name of the test whose subtests get a bucket from serve.
const onBucket = "TestBucket/"

// bucketURL is set by TestBucket, and each subtest has a prefix of its own below it.
const bucketVariable = "TEU_TEST_BUCKET"

// TestBucket runs the tests of the API on a bucket.
func TestBucket(t *testing.T) {
	t.Setenv(bucketVariable, startS3(t))
	for name, test := range map[string]func(*testing.T){
		"Conformance": TestConformance, "PushBlob": TestPushBlob, "PushBlobDigests": TestPushBlobDigests,
		"PushBlobErrors": TestPushBlobErrors, "UploadStatusAndCancel": TestUploadStatusAndCancel,
		"FinishedUploadIsGone": TestFinishedUploadIsGone, "MountBlob": TestMountBlob, "GetBlob": TestGetBlob,
		"Isolation": TestIsolation, "DeleteBlob": TestDeleteBlob, "PutAndGetManifest": TestPutAndGetManifest,
		"ManifestKinds": TestManifestKinds, "PutManifestErrors": TestPutManifestErrors, "MissingReferences": TestMissingReferences, "LargeManifest": TestLargeManifest,
		"GetManifestErrors": TestGetManifestErrors, "MoveTag": TestMoveTag, "ManifestByDigest": TestManifestByDigest,
		"DeleteManifest": TestDeleteManifest, "Referrers": TestReferrers, "ListTags": TestListTags, "Catalog": TestCatalog,
		"Accounts": TestAccounts, "Documents": TestDocuments, "Stat": TestStat, "ImportDistribution": TestImportDistribution, "Health": TestHealth,
		"Immutable": TestImmutable, "Retention": TestRetention,
		"BrokenConnection": TestBrokenConnection, "BrokenPOST": TestBrokenPOST,
	} {
		t.Run(name, test)
	}
}

// testStorage is where a registry of a test keeps its data.
func testStorage(t testing.TB) Options {
	t.Helper()
	if !strings.HasPrefix(t.Name(), onBucket) {
		return Options{Root: t.TempDir()}
	}
	return Options{Bucket: BucketOptions{URL: os.Getenv(bucketVariable) + "/" + randomHex(), Region: "us-east-1", Temp: t.TempDir()}}
}

// openTestBucket opens a bucket whose leases are short, and where whatever is found is touched.
func openTestBucket(t testing.TB, url string) *bucket {
	t.Helper()
	b, err := openBucket(t.Context(), BucketOptions{URL: url, Region: "us-east-1", Temp: t.TempDir()}, false)
	if err != nil {
		t.Fatal(err)
	}
	b.touchAfter, b.lease = 0, 2*time.Second
	return b
}

// serveBucket serves from b.
func serveBucket(t testing.TB, b storage) *client {
	t.Helper()
	g, err := New(Options{Root: t.TempDir(), AllowDelete: true})
	if err != nil {
		t.Fatal(err)
	}
	g.store = b
	return serveRegistry(t, g)
}

// TestBucketRefuses: a bucket that is not there, not a URL, or a tree of another version.
func TestBucketRefuses(t *testing.T) {
	url := startS3(t)
	b := openTestBucket(t, url)
	if !b.deletesIf {
		t.Log("the gateway does not delete conditionally")
	}
	if err := b.put(t.Context(), "layout", []byte("teu registry s3 2\n")); err != nil {
		t.Fatal(err)
	}
	for name, url := range map[string]string{
		"later version": url, "no bucket": strings.Replace(url, "/registry/", "/nothing/", 1),
		"no URL": "registry", "no name": "http://127.0.0.1:1/",
	} {
		if _, err := New(Options{Bucket: BucketOptions{URL: url, Region: "us-east-1"}}); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	nothing := Options{Bucket: BucketOptions{URL: url + "/nothing", Region: "us-east-1"}}
	for range 2 { // the first makes none
		if r, err := Verify(t.Context(), nothing, VerifyOptions{}); !errdefs.IsNotFound(err) {
			t.Errorf("verified what is not there: %+v %v", r, err)
		}
	}
}

// TestBucketRedirect: blobs are had from the bucket itself, by a URL that is good without a
// key.
func TestBucketRedirect(t *testing.T) {
	b := openTestBucket(t, startS3(t))
	b.redirect = true
	c := serveBucket(t, b)
	d := c.blob("a", []byte("blob")).Digest
	c.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	a := c.want(c.do("GET", "/v2/a/blobs/"+d.String(), nil), 307, "")
	if got := a.header.Get("Cache-Control"); got != "no-store" {
		t.Errorf("an address for one client may be kept for others: %q", got)
	}
	resp, err := http.Get(a.header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got [10]byte
	if n, _ := resp.Body.Read(got[:]); string(got[:n]) != "blob" {
		t.Errorf("got %s %q", resp.Status, got[:n])
	}
	c.want(c.do("HEAD", "/v2/a/blobs/"+d.String(), nil), 200, "")
	c.want(c.do("GET", "/v2/b/blobs/"+d.String(), nil), 404, codeBlobUnknown)

	mirrored, err := newMirrors(b, Options{Mirrors: []Mirror{{Prefix: "hub", Registry: "registry.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	c.blob("hub/a", []byte("blob"))
	m := serveBucket(t, mirrored)
	m.http.CheckRedirect = c.http.CheckRedirect
	for _, repo := range []string{"a", "hub/a"} { // its own, and what was kept of another's
		m.want(m.do("GET", "/v2/"+repo+"/blobs/"+d.String(), nil), 307, "")
	}
}

// TestBucketGC collects what nothing refers to, and nothing else.
func TestBucketGC(t *testing.T) {
	for _, deletesIf := range []bool{true, false} {
		t.Run(fmt.Sprintf("conditional deletion %t", deletesIf), func(t *testing.T) {
			url := startS3(t)
			b, collector := openTestBucket(t, url), openTestBucket(t, url)
			b.deletesIf = b.deletesIf && deletesIf
			collector.deletesIf, collector.minGrace = b.deletesIf, 0
			testBucketGC(t, b, collector)
		})
	}
}

// moment returns a time that is clearly after what was done before, and before what comes:
// buckets tell times by seconds. A collection since then does not depend on how fast the
// test is; but what it knows of the bucket's clock may be late, never early.
func moment() time.Time {
	time.Sleep(1100 * time.Millisecond)
	now := time.Now()
	time.Sleep(1100 * time.Millisecond)
	return now
}

func testBucketGC(t *testing.T, b, collector *bucket) {
	c := serveBucket(t, b)
	kept := c.tagged("a/b", "latest")
	garbage := c.blob("a/b", []byte("garbage"))
	untagged := c.put("a/b", "x", c.image("a/b", "c2", "l2"))
	c.want(c.do("DELETE", "/v2/a/b/manifests/x", nil), 202, "")
	collect := func(o GCOptions) GCReport {
		t.Helper()
		r, err := collector.Collect(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := collect(GCOptions{Grace: time.Hour}); r.RemovedLinks != 0 || r.Fresh != 1 {
		t.Errorf("within the grace: got %+v", r)
	}
	collectAll := func(since time.Time, links, blobs int, o GCOptions) (all GCReport) {
		t.Helper()
		for range 50 {
			o.Grace = time.Since(since)
			r := collect(o)
			all.RemovedLinks += r.RemovedLinks
			all.RemovedManifests += r.RemovedManifests
			all.RemovedBlobs += r.RemovedBlobs
			all.Bytes += r.Bytes
			if all.RemovedLinks >= links && all.RemovedBlobs >= blobs {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		return all
	}
	first := moment()
	fresh := c.blob("a/b", []byte("fresh"))
	confirmed := c.blob("c", []byte("garbage")) // shares the bytes of the first, which are live again
	if r := collectAll(first, 1, 0, GCOptions{DryRun: true}); r.RemovedLinks != 1 || r.Bytes != 0 {
		t.Errorf("dry run: got %+v", r)
	}
	c.want(c.do("HEAD", "/v2/a/b/blobs/"+garbage.Digest.String(), nil), 200, "") // which confirms it
	if r := collect(GCOptions{Grace: time.Since(first)}); r.RemovedLinks != 0 {
		t.Errorf("what was found by HEAD was removed: %+v", r)
	}
	r := collectAll(moment(), 5, 4, GCOptions{Untagged: true})
	// garbage in both repositories, fresh, and of the untagged image both blobs.
	if r.RemovedLinks != 5 || r.RemovedManifests != 1 || r.RemovedBlobs != 4 || r.Bytes == 0 {
		t.Errorf("got %+v", r)
	}
	for _, gone := range []string{"a/b/blobs/" + garbage.Digest.String(), "a/b/blobs/" + fresh.Digest.String(), "c/blobs/" + confirmed.Digest.String(), "a/b/manifests/" + untagged.Digest.String()} {
		if a := c.do("GET", "/v2/"+gone, nil); a.status != 404 {
			t.Errorf("%s: got %d", gone, a.status)
		}
	}
	c.want(c.do("GET", "/v2/a/b/manifests/"+kept.Digest.String(), nil), 200, "")
	c.tagged("a/b", "again")
	c.blob("a/b", []byte("garbage"))
	data := 0
	for range b.list(t.Context(), "data/", "") {
		data++
	}
	if data != 5 { // two images of two blobs, and garbage
		t.Errorf("%d objects of data are left, want 5", data)
	}
}
