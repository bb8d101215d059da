package registry

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestKill kills the server under load, again and again. Everything that was acknowledged
// is there afterwards, and nothing half-made can be seen. TEU_TEST_KILLS sets how often.
func TestKill(t *testing.T) {
	kills := 30
	if s := os.Getenv("TEU_TEST_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	root := t.TempDir()
	all := &acknowledged{}
	for round := range kills {
		p := startProcess(t, root)
		var wg sync.WaitGroup
		for worker := range 4 {
			wg.Go(func() { pushUntilDead(p, all, fmt.Sprintf("%d-%d", round, worker)) })
		}
		time.Sleep(time.Duration(20+rand.IntN(80)) * time.Millisecond)
		all.await(t, round)
		p.kill()
		wg.Wait()
		if t.Failed() {
			return
		}
	}
	if len(all.paths) < kills {
		t.Errorf("only %d acknowledged requests in %d rounds: nothing was tested", len(all.paths), kills)
	}
	checkTree(t, root)
	p := startProcess(t, root)
	for path, want := range all.paths {
		a := p.want(p.do("GET", path, nil), 200, "")
		if got := a.header.Get("Docker-Content-Digest"); got != want.String() || want.Algorithm().FromBytes(a.body) != want {
			t.Errorf("%s: got %s, want %s", path, got, want)
		}
	}
	t.Logf("%d kills, %d acknowledged", kills, len(all.paths))
}

// acknowledged is what servers said they have.
type acknowledged struct {
	mu    sync.Mutex
	paths map[string]digest.Digest
}

func (a *acknowledged) add(path string, d digest.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.paths == nil {
		a.paths = map[string]digest.Digest{}
	}
	a.paths[path] = d
}

func (a *acknowledged) len() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.paths)
}

// await waits until more than n requests are acknowledged, which all of a slow machine's kills could come before.
func (a *acknowledged) await(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if a.len() > n {
			return
		}
	}
	t.Errorf("no more than %d acknowledged requests", n)
}

// pushUntilDead pushes small images in several ways until the server does not answer. An
// answer that is an error fails the test.
func pushUntilDead(p *process, all *acknowledged, who string) {
	for n := 0; ; n++ {
		repo := fmt.Sprintf("r%d", n%3)
		shared := []byte(fmt.Sprintf("shared %d", n/8)) // others push the same
		own := bytes.Repeat([]byte(fmt.Sprintf("%s-%d ", who, n)), 2000)
		for _, b := range [][]byte{shared, own} {
			d, ok := p.pushSomehow(repo, b, n)
			if !ok {
				return
			}
			all.add("/v2/"+repo+"/blobs/"+d.String(), d)
		}
		m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
		m.SchemaVersion = 2
		m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(shared), Size: int64(len(shared))}
		m.Layers = []ocispec.Descriptor{{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(own), Size: int64(len(own))}}
		b, err := json.Marshal(m)
		if err != nil {
			panic(err)
		}
		tag := fmt.Sprintf("%s-%d", who, n)
		if _, ok := p.expect(201, "PUT", "/v2/"+repo+"/manifests/"+tag, b, "Content-Type", m.MediaType); !ok {
			return
		}
		d := digest.FromBytes(b)
		all.add("/v2/"+repo+"/manifests/"+tag, d)
		all.add("/v2/"+repo+"/manifests/"+d.String(), d)
	}
}

func (p *process) pushSomehow(repo string, b []byte, n int) (digest.Digest, bool) {
	d := digest.FromBytes(b)
	start := "/v2/" + repo + "/blobs/uploads/"
	if n%2 == 0 {
		_, ok := p.expect(201, "POST", start+"?digest="+d.String(), b)
		return d, ok
	}
	a, ok := p.expect(202, "POST", start, nil)
	if !ok {
		return "", false
	}
	location := a.header.Get("Location")
	half := len(b) / 2
	if _, ok := p.expect(202, "PATCH", location, b[:half], "Content-Range", fmt.Sprintf("0-%d", half-1)); !ok {
		return "", false
	}
	_, ok = p.expect(201, "PUT", location+"?digest="+d.String(), b[half:])
	return d, ok
}

// expect sends a request. ok is false when the server is dead, or answered otherwise, which
// fails the test.
func (p *process) expect(status int, method, path string, body []byte, headers ...string) (a answer, ok bool) {
	a, err := p.try(method, path, bytes.NewReader(body), headers...)
	if err != nil {
		return a, false
	}
	if a.status != status {
		p.t.Errorf("%s %s: got %d %s, want %d", method, path, a.status, a.body, status)
	}
	return a, a.status == status
}

// checkTree reads the whole directory of a registry: every file has the contents its name
// says, and every manifest has what it refers to.
func checkTree(t *testing.T, root string) {
	t.Helper()
	s, err := openDirectory(root, false)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		seen++
		rel, _ := filepath.Rel(root, path)
		switch part := strings.Split(rel, "/"); {
		case strings.Contains(rel, "/_manifests/"), strings.Contains(rel, "/_tags/"):
			checkRecord(t, s, strings.Split(strings.TrimPrefix(rel, "repositories/"), "/_")[0], path)
		case part[0] == "blobs", strings.Contains(rel, "/_blobs/"):
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if digest.FromBytes(b).Encoded() != filepath.Base(path) {
				t.Errorf("%s has other contents", rel)
			}
		}
		return nil
	})
	if err != nil || seen == 0 {
		t.Fatalf("%d files, %v", seen, err)
	}
}

func checkRecord(t *testing.T, s *directory, repo, path string) {
	t.Helper()
	r, _, err := readRecord(path)
	if err != nil || digest.FromBytes(r.body) != r.digest {
		t.Errorf("%s: not whole (%v)", path, err)
		return
	}
	if strings.Contains(path, "/_manifests/") && filepath.Base(path) != r.digest.Encoded() {
		t.Errorf("%s is the record of %s", path, r.digest)
	}
	m, err := parseManifest(r.body, r.mediaType)
	if err != nil {
		t.Errorf("%s: %v", path, err)
		return
	}
	if err := s.checkReferences(repo, m.references); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if _, err := os.Stat(s.recordPath(repo, r.digest)); err != nil {
		t.Errorf("%s: %v", path, err)
	}
}

// TestTwoServers: two processes on one directory, each told half of every image, and a
// third that is killed meanwhile.
func TestTwoServers(t *testing.T) {
	root := t.TempDir()
	one, two, victim := startProcess(t, root), startProcess(t, root), startProcess(t, root)
	var wg sync.WaitGroup
	all := &acknowledged{}
	wg.Go(func() { pushUntilDead(victim, all, "victim") })
	for worker := range 4 {
		wg.Go(func() {
			for n := range 20 {
				here, there := one, two
				if (worker+n)%2 == 0 {
					here, there = two, one
				}
				repo, text := fmt.Sprintf("r%d", n%3), fmt.Sprintf("image %d", n)
				b := []byte(text)
				d := digest.FromBytes(b)
				a, ok := here.expect(202, "POST", "/v2/"+repo+"/blobs/uploads/", nil)
				if !ok {
					return
				}
				location := a.header.Get("Location")
				there.expect(202, "PATCH", location, b[:3])
				here.expect(201, "PUT", location+"?digest="+d.String(), b[3:])
				m := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"x","digest":%q,"size":%d},"layers":[]}`,
					ocispec.MediaTypeImageManifest, d, len(b))
				there.expect(201, "PUT", "/v2/"+repo+"/manifests/latest", []byte(m))
				here.expect(200, "GET", "/v2/"+repo+"/manifests/"+digest.FromString(m).String(), nil)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	victim.kill()
	wg.Wait()
	checkTree(t, root)
	for _, p := range []*process{one, two} {
		if got := pages(p.client, "/v2/_catalog"); fmt.Sprint(got) != "[r0 r1 r2]" {
			t.Errorf("got %v", got)
		}
		for path := range all.paths {
			p.want(p.do("GET", path, nil), 200, "")
		}
	}
}
