package registry

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestUploadSurvivesRestart: another server goes on where the first one stopped.
func TestUploadSurvivesRestart(t *testing.T) {
	root := t.TempDir()
	first, second := serveOptions(t, Options{Root: root}), serveOptions(t, Options{Root: root})
	d := digest.FromString("0123456789").String()
	location := first.start("a")
	first.want(first.do("PATCH", location, strings.NewReader("01234"), "Content-Range", "0-4"), 202, "")
	if got := second.want(second.do("GET", location, nil), 204, "").header.Get("Range"); got != "0-4" {
		t.Fatalf("got range %s, want 0-4", got)
	}
	second.want(second.do("PATCH", location, strings.NewReader("567"), "Content-Range", "5-7"), 202, "")
	// The first one remembers the hash of five bytes, which is not to be used.
	first.want(first.do("PUT", location+"?digest="+d, strings.NewReader("89"), "Content-Range", "8-9"), 201, "")
	if a := second.want(second.do("GET", "/v2/a/blobs/"+d, nil), 200, ""); string(a.body) != "0123456789" {
		t.Errorf("got %q", a.body)
	}
}

// TestUploadBegunAgain: what one server remembers of an upload is not said of other bytes, which came to servers that have not
// heard of its end.
func TestUploadBegunAgain(t *testing.T) {
	root := t.TempDir()
	var servers []*client
	for range 3 {
		servers = append(servers, serveOptions(t, Options{Root: root, AllowDelete: true}))
	}
	good, bad := "0123456789", "9876543210"
	d := digest.FromString(good).String()
	for range 20 { // as a file system gives the number of a file to the next one, or not
		location := servers[0].start("a")
		servers[0].want(servers[0].do("PATCH", location, strings.NewReader(good)), 202, "")
		servers[1].want(servers[1].do("DELETE", location, nil), 204, "")
		servers[2].want(servers[2].do("PATCH", location, strings.NewReader(bad)), 202, "")
		servers[0].want(servers[0].do("PUT", location+"?digest="+d, nil), 400, codeDigestInvalid)
		servers[0].want(servers[0].do("GET", "/v2/a/blobs/"+d, nil), 404, codeBlobUnknown)
	}
}

// TestUploadWithoutBytes: an upload that was only begun is nothing on disk, and any server goes on with it, also
// after the one that began it was killed.
func TestUploadWithoutBytes(t *testing.T) {
	root := t.TempDir()
	p := startProcess(t, root)
	var locations []string
	for range 4 {
		locations = append(locations, p.start("a"))
	}
	if left, err := os.ReadDir(filepath.Join(root, "uploads")); err != nil || len(left) > 0 {
		t.Errorf("there are %v (%v)", left, err)
	}
	p.kill()
	c := serveOptions(t, Options{Root: root})
	d := digest.FromString("0123456789").String()
	a := c.want(c.do("GET", locations[0], nil), 204, "")
	if got := a.header.Get("Range"); got != "0-0" {
		t.Errorf("got range %s, want 0-0", got)
	}
	c.want(c.do("PUT", locations[0]+"?digest="+d, strings.NewReader("0123456789")), 201, "")
	c.want(c.do("PATCH", locations[1], strings.NewReader("01234")), 202, "")
	c.want(c.do("PUT", locations[1]+"?digest="+d, strings.NewReader("56789")), 201, "")
	c.want(c.do("DELETE", locations[2], nil), 204, "")
	c.want(c.do("PATCH", locations[3], strings.NewReader("x"), "Content-Range", "5-5"), 416, codeBlobUploadInvalid)
	for _, location := range locations[:3] {
		c.want(c.do("GET", location, nil), 404, codeBlobUploadUnknown)
		c.want(c.do("PUT", location+"?digest="+d, strings.NewReader("0123456789")), 404, codeBlobUploadUnknown)
	}
}

// TestUploadInOnePiece: a blob of any size that comes with one request is whole, and leaves nothing else.
func TestUploadInOnePiece(t *testing.T) {
	root := t.TempDir()
	c := serveOptions(t, Options{Root: root})
	for _, size := range []int{0, 1, smallBufferSize, bufferSize - 1, bufferSize, bufferSize + 1, largeBufferSize, largeBufferSize + 1, 3 * largeBufferSize} {
		for _, chunked := range []bool{false, true} {
			b := randomBytes(size)
			d := digest.FromBytes(b).String()
			body := io.Reader(bytes.NewReader(b))
			if chunked { // without a Content-Length
				body = struct{ io.Reader }{body}
			}
			c.want(c.do("PUT", c.start("a")+"?digest="+d, body), 201, "")
			if a := c.want(c.do("GET", "/v2/a/blobs/"+d, nil), 200, ""); !bytes.Equal(a.body, b) {
				t.Errorf("%d bytes: the blob came back different", size)
			}
		}
	}
	for _, dir := range []string{"uploads", "tmp"} {
		if left, err := os.ReadDir(filepath.Join(root, dir)); err != nil || len(left) > 0 {
			t.Errorf("left in %s: %v (%v)", dir, left, err)
		}
	}
}

// TestEndedUploads: those that ended last are remembered.
func TestEndedUploads(t *testing.T) {
	var e endedUploads
	id := func(i int) string { return fmt.Sprintf("%016x%032x", i, 0) }
	for i := range 5 * maxEnded {
		e.add(id(i))
		if i >= maxEnded && !e.has(id(i-maxEnded+1)) {
			t.Fatalf("%d is forgotten after %d others", i-maxEnded+1, maxEnded-1)
		}
	}
	if n := len(e.now) + len(e.old); n > 2*maxEnded {
		t.Errorf("%d are remembered", n)
	}
}

// TestBrokenConnection: what arrived before the connection broke need not be sent again.
func TestBrokenConnection(t *testing.T) {
	c := serve(t)
	body := bytes.Repeat([]byte("0123456789"), 100_000)
	d := digest.FromBytes(body).String()
	location := c.start("a")
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.base, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PATCH %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", location, len(body), body[:500_000])
	conn.Close()
	var have int
	for have == 0 { // the server may still be reading
		a := c.want(c.do("GET", location, nil), 204, "")
		if _, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &have); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever comes next waits for the broken request to end, and is told the offset.
	a := c.want(c.do("PATCH", location, strings.NewReader("x"), "Content-Range", "999999-999999"), 416, codeBlobUploadInvalid)
	if _, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &have); err != nil {
		t.Fatal(err)
	}
	c.want(c.do("PUT", location+"?digest="+d, bytes.NewReader(body[have+1:])), 201, "")
	if a := c.want(c.do("GET", "/v2/a/blobs/"+d, nil), 200, ""); !bytes.Equal(a.body, body) {
		t.Error("the blob came back different")
	}
}

// TestBrokenPOST: nobody can go on with a POST that broke, so nothing is kept.
func TestBrokenPOST(t *testing.T) {
	root := t.TempDir()
	g, err := New(Options{Root: root, Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("0123456789").String()
	r := httptest.NewRequest("POST", "/v2/a/blobs/uploads/?digest="+d, io.MultiReader(strings.NewReader("01234"), brokenReader{}))
	w := httptest.NewRecorder()
	g.ServeHTTP(w, r)
	if w.Code != 400 {
		t.Errorf("got %d, want 400", w.Code)
	}
	if left, err := os.ReadDir(filepath.Join(root, "uploads")); err != nil || len(left) > 0 {
		t.Errorf("left %v (%v)", left, err)
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestUploadTogether: requests for one upload at one time do not mix their bytes, and the
// blob can be made only once.
func TestUploadTogether(t *testing.T) {
	c := serve(t)
	location := c.start("a")
	part := bytes.Repeat([]byte("x"), 300_000)
	var wg sync.WaitGroup
	statuses := make([]int, 8)
	for i := range statuses {
		wg.Go(func() {
			// All say they have the first chunk; one can be right.
			a, err := c.try("PATCH", location, bytes.NewReader(part), "Content-Range", "0-299999")
			if err != nil {
				t.Error(err)
			}
			statuses[i] = a.status
		})
	}
	wg.Wait()
	accepted := 0
	for _, s := range statuses {
		switch s {
		case 202:
			accepted++
		case 416:
		default:
			t.Errorf("got %d, want 202 or 416", s)
		}
	}
	if accepted != 1 {
		t.Errorf("%d first chunks were accepted", accepted)
	}
	c.want(c.do("PUT", location+"?digest="+digest.FromBytes(part).String(), nil), 201, "")
}

// TestSweep removes what was abandoned and nothing that is in use.
func TestSweep(t *testing.T) {
	root := t.TempDir()
	s, err := openDirectory(root, false)
	if err != nil {
		t.Fatal(err)
	}
	open := func(id string) upload {
		u, err := s.OpenUpload(t.Context(), "a", id, "")
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	var ids []string
	for range 3 {
		id, err := s.CreateUpload(t.Context(), "a", digest.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		u := open(id)
		if _, err := u.ReadFrom(strings.NewReader("x")); err != nil {
			t.Fatal(err)
		}
		u.Close()
		ids = append(ids, id)
	}
	old := time.Now().Add(-48 * time.Hour)
	for _, id := range ids[:2] {
		if err := os.Chtimes(s.uploadPath(id), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "tmp/old"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(root, "tmp/old"), old, old); err != nil {
		t.Fatal(err)
	}
	inUse := open(ids[0]) // old, but somebody has just come back to it
	n, err := s.SweepUploads(t.Context(), time.Now().Add(-24*time.Hour))
	if err != nil || n != 1 {
		t.Errorf("swept %d (%v), want 1", n, err)
	}
	inUse.Close()
	for i, want := range []int64{1, 0, 1} {
		if n, err := s.UploadSize(t.Context(), "a", ids[i]); err == nil && n != want || err != nil && want != 0 {
			t.Errorf("upload %d: %d bytes, %v", i, n, err)
		}
	}
	if _, err := os.Stat(filepath.Join(root, "tmp/old")); err == nil {
		t.Error("the temporary file is still there")
	}
}

// TestHashMemoryIsBounded: uploads that were forgotten are hashed from their file.
func TestHashMemoryIsBounded(t *testing.T) {
	c := serve(t)
	location := c.start("a")
	c.want(c.do("PATCH", location, strings.NewReader("01234")), 202, "")
	for range maxHashes + 1 {
		c.do("POST", "/v2/b/blobs/uploads/", nil)
	}
	c.want(c.do("PUT", location+"?digest="+digest.FromString("0123456789").String(), strings.NewReader("56789")), 201, "")
}

// TestBodyDeadline: a client may pause, but not send a byte now and then for ever.
func TestBodyDeadline(t *testing.T) {
	begun := time.Unix(1e9, 0)
	for _, test := range []struct {
		name      string
		after     time.Duration
		n         int64
		remaining time.Duration
	}{
		{"at the start", 0, 0, stallTime},
		{"fast", time.Second, 100 << 20, stallTime},
		{"a long pause after much", time.Hour, 100 << 20, stallTime},
		{"slow for a while", stallTime / 2, 10, stallTime / 2},
		{"slow for too long", stallTime, 10, 0},
		{"as slow as may be", time.Hour, 3600 * slowestBody, stallTime},
		{"slower", time.Hour, 3500 * slowestBody, stallTime - 100*time.Second},
	} {
		now := begun.Add(test.after)
		if got := bodyDeadline(begun, now, test.n).Sub(now); got != test.remaining {
			t.Errorf("%s: got %s, want %s", test.name, got, test.remaining)
		}
	}
}

// TestUploadMemory: what is remembered of uploads holds little, however long the requests were.
func TestUploadMemory(t *testing.T) {
	kept := held(func() any {
		s := &directory{}
		for i := range 500 {
			r := httptest.NewRequest("PUT", fmt.Sprintf("/v2/a/blobs/uploads/%016x%032x?%s", i, i, strings.Repeat("x", 60<<10)), nil)
			rt, err := parseRoute(r.URL.Path)
			if err != nil {
				t.Fatal(err)
			}
			s.hashes.put(rt.ref, &runningHash{})
			s.ended.add(rt.ref)
		}
		return s
	})
	if kept > 1<<20 {
		t.Errorf("500 uploads hold %d KB", kept>>10)
	}
}
