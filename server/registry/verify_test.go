package registry

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestVerify: what a disk has changed is found, and put out of the way so that a push heals
// it; what is good stays.
func TestVerify(t *testing.T) {
	o := Options{Root: t.TempDir(), AllowDelete: true}
	c := serveOptions(t, o)
	good := c.tagged("a", "good")
	bad := c.image("a", "c", "bad layer")
	badDesc := c.put("a", "bad", bad)
	layer := bad.Layers[0].Digest
	c.want(c.do("POST", "/v2/b/blobs/uploads/?mount="+layer.String()+"&from=a", nil), 201, "")
	s, err := openDirectory(o.Root, false)
	if err != nil {
		t.Fatal(err)
	}
	verify := func(quarantine bool) VerifyReport {
		t.Helper()
		r, err := Verify(t.Context(), o, VerifyOptions{Quarantine: quarantine})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := verify(false); len(r.Bad) != 0 || r.Blobs != 4 || r.Manifests != 2 || r.Bytes == 0 {
		t.Errorf("got %+v", r)
	}
	flip := func(path string) {
		t.Helper()
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(path, b, 0o600); err != nil { // in place, as a disk does it
			t.Fatal(err)
		}
	}
	flip(s.blobPath(layer))
	flip(s.recordPath("a", badDesc.Digest))
	for _, quarantine := range []bool{false, true} {
		r := verify(quarantine)
		if len(r.Bad) != 2 || r.Bad[0].Digest != layer || r.Bad[1].Digest != badDesc.Digest || r.Bad[1].Repository != "a" {
			t.Errorf("got %+v", r.Bad)
		}
	}
	if r := verify(true); len(r.Bad) != 0 {
		t.Errorf("still bad: %+v", r.Bad)
	}
	for _, repo := range []string{"a", "b"} {
		c.want(c.do("GET", "/v2/"+repo+"/blobs/"+layer.String(), nil), 404, codeBlobUnknown)
	}
	c.want(c.do("GET", "/v2/a/manifests/bad", nil), 404, codeManifestUnknown)
	c.want(c.do("GET", "/v2/a/manifests/good", nil), 200, "")
	c.want(c.do("GET", "/v2/a/manifests/"+good.Digest.String(), nil), 200, "")
	if d := c.put("a", "bad", c.image("a", "c", "bad layer")); d.Digest != badDesc.Digest {
		t.Errorf("got %s", d.Digest)
	}
	if a := c.want(c.do("GET", "/v2/a/blobs/"+layer.String(), nil), 200, ""); string(a.body) != "bad layer" {
		t.Errorf("got %q", a.body)
	}
}

// TestQuarantineBesidePush: what a push has put in the place of something bad, after that was read, stays.
func TestQuarantineBesidePush(t *testing.T) {
	s, err := openDirectory(t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("good")
	if err := s.adoptBytes(t.Context(), []byte("good"), "a", d); err != nil {
		t.Fatal(err)
	}
	if err := s.PutManifest(t.Context(), "a", manifest{digest: d, mediaType: "application/vnd.x+json", body: []byte("good")}, nil); err != nil {
		t.Fatal(err)
	}
	for path, quarantine := range map[string]func() error{
		s.repoBlobPath("a", d): func() error { _, err := s.quarantineBlob(t.Context(), d); return err },
		s.recordPath("a", d):   func() error { _, err := s.quarantineManifest(t.Context(), "a", d); return err },
	} {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := s.writeTemp(good)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, bytes.ToUpper(good), 0o600); err != nil {
			t.Fatal(err)
		}
		unlock, err := lockDir(t.Context(), filepath.Dir(path), unix.LOCK_SH) // as a push of a blob has it
		if err != nil {
			t.Fatal(err)
		}
		unlockRepo, err := s.lockRepository(t.Context(), "a", unix.LOCK_SH) // as that of a manifest
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() { done <- quarantine() }()
		time.Sleep(100 * time.Millisecond) // it has read, and waits
		if err := os.Rename(again, path); err != nil {
			t.Fatal(err)
		}
		unlock()
		unlockRepo()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if b, err := os.ReadFile(path); !bytes.Equal(b, good) {
			t.Errorf("%s: what was pushed meanwhile is %q, %v", path, b, err)
		}
	}
}

// TestStat counts what was pushed.
func TestStat(t *testing.T) {
	o := testStorage(t)
	c := serveOptions(t, o)
	m := c.image("a", "config", "layer")
	c.put("a", "v1", m)
	c.put("a", "v2", m)
	c.tagged("b", "v1")
	got, err := ReadStat(t.Context(), o)
	want := Stat{Repositories: 2, Tags: 3, Manifests: 2, Links: 4, Blobs: 4, Bytes: int64(len("config" + "layer" + "config of v1" + "layer of v1"))}
	if err != nil || got != want {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
}

// TestBucketVerify is TestVerify for a bucket whose data was changed.
func TestBucketVerify(t *testing.T) {
	url := startS3(t)
	b := openTestBucket(t, url)
	c := serveBucket(t, b)
	c.tagged("a", "good")
	bad := c.blob("a", []byte("bad layer")).Digest
	flipData(t, b, bad)
	o := Options{Bucket: BucketOptions{URL: url, Region: "us-east-1"}}
	for _, want := range [][]digest.Digest{{bad}, nil} {
		r, err := Verify(t.Context(), o, VerifyOptions{Quarantine: true})
		if err != nil || len(r.Bad) != len(want) || len(want) > 0 && r.Bad[0].Digest != want[0] {
			t.Errorf("got %+v %v, want %v", r, err, want)
		}
	}
	c.want(c.do("GET", "/v2/a/blobs/"+bad.String(), nil), 404, codeBlobUnknown)
	c.blob("a", []byte("bad layer"))
	if a := c.want(c.do("GET", "/v2/a/blobs/"+bad.String(), nil), 200, ""); string(a.body) != "bad layer" {
		t.Errorf("got %q", a.body)
	}
}
