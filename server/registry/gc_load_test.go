package registry

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestGCUnderLoad: clients push, mount, pull and delete over two servers while a third
// opening of the directory collects without pause, with the shortest grace there is. No image that
// was acknowledged loses anything. TEU_SOAK=1 makes it long.
func TestGCUnderLoad(t *testing.T) {
	duration, all := 6*time.Second, 24
	if os.Getenv("TEU_SOAK") != "" {
		duration, all = 10*time.Minute, 64
	}
	one, s := serveDirectory(t)
	two := serveOptions(t, Options{Root: s.root, AllowDelete: true})
	stop := make(chan struct{})
	var clients, collections sync.WaitGroup
	var sum GCReport
	rounds := 0
	var pushed, links, blobs atomic.Int64
	collections.Go(func() {
		for ; ; rounds++ {
			select {
			case <-stop:
				return
			default:
			}
			r, err := s.Collect(t.Context(), GCOptions{Grace: MinGrace, Untagged: rounds%2 == 1})
			if err != nil {
				t.Error(err)
				return
			}
			links.Add(int64(r.RemovedLinks))
			blobs.Add(int64(r.RemovedBlobs))
			sum.RemovedLinks += r.RemovedLinks
			sum.RemovedBlobs += r.RemovedBlobs
			sum.RemovedManifests += r.RemovedManifests
			sum.Busy += r.Busy
		}
	})
	times := &pushTimes{begun: time.Now(), tenth: duration / 10}
	goesOn := func() bool { // longer where little can be done in the time
		took := time.Since(times.begun)
		return took < duration || took < duration+time.Minute && (pushed.Load() == 0 || links.Load() == 0 || blobs.Load() == 0)
	}
	for n := range all {
		clients.Go(func() {
			u := &gcClient{c: []*client{one, two}, name: fmt.Sprintf("c%d", n), random: rand.New(rand.NewPCG(1, uint64(n))), times: times, pushed: &pushed}
			for goesOn() && !t.Failed() {
				u.step(t)
			}
			for _, i := range u.images {
				u.check(t, i)
			}
		})
	}
	clients.Wait()
	close(stop)
	collections.Wait()
	checkTree(t, s.root)
	t.Logf("%d images pushed by %d clients, %d collections: %+v; p99 of a push in each tenth of the time: %v", pushed.Load(), all, rounds, sum, times.p99())
	if pushed.Load() == 0 || sum.RemovedLinks == 0 || sum.RemovedBlobs == 0 {
		t.Error("nothing was tested")
	}
}

// gcClient is one client of TestGCUnderLoad. Its images are its own, their layers are not.
type gcClient struct {
	c      []*client
	name   string
	random *rand.Rand
	n      int
	images []gcImage
	pushed *atomic.Int64
	times  *pushTimes
}

// pushTimes are how long pushes took, by when they began.
type pushTimes struct {
	begun time.Time
	tenth time.Duration
	mu    sync.Mutex
	took  [10][]time.Duration
}

func (p *pushTimes) add(begun time.Time) {
	took := time.Since(begun)
	p.mu.Lock()
	defer p.mu.Unlock()
	i := min(int(begun.Sub(p.begun)/p.tenth), len(p.took)-1)
	p.took[i] = append(p.took[i], took)
}

func (p *pushTimes) p99() (list []time.Duration) {
	for _, took := range p.took {
		if slices.Sort(took); len(took) > 0 {
			list = append(list, took[len(took)*99/100].Round(time.Millisecond))
		}
	}
	return list
}

type gcImage struct {
	repo, tag string
	manifest  digest.Digest
	blobs     []digest.Digest
}

func (u *gcClient) any() *client { return u.c[u.random.IntN(len(u.c))] }

func (u *gcClient) step(t *testing.T) {
	if len(u.images) > 0 && u.random.IntN(3) == 0 {
		u.check(t, u.images[u.random.IntN(len(u.images))])
	}
	if len(u.images) > 4 {
		u.remove(t)
	}
	begun := time.Now()
	u.push(t)
	u.times.add(begun)
}

// push pushes an image of a config and layers that others push, mount and delete too.
func (u *gcClient) push(t *testing.T) {
	u.n++
	i := gcImage{repo: fmt.Sprintf("r%d", u.random.IntN(4)), tag: fmt.Sprintf("%s-%d", u.name, u.n)}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	m.SchemaVersion = 2
	begun := time.Now()
	for k := range 4 {
		text := bytes.Repeat([]byte(fmt.Sprintf("layer %d ", u.random.IntN(300))), 500)
		if k == 0 {
			text = []byte("config " + i.tag)
		}
		d := ocispec.Descriptor{Digest: digest.FromBytes(text), Size: int64(len(text)), MediaType: ocispec.MediaTypeImageLayer}
		if !u.bring(t, i.repo, d.Digest, text) {
			return
		}
		i.blobs = append(i.blobs, d.Digest)
		if k == 0 {
			m.Config = d
		} else {
			m.Layers = append(m.Layers, d)
		}
	}
	b := encode(t, m)
	i.manifest = digest.FromBytes(b)
	a, err := u.any().try("PUT", "/v2/"+i.repo+"/manifests/"+i.tag, bytes.NewReader(b), "Content-Type", m.MediaType)
	switch {
	case err != nil:
		t.Error(err)
	case a.status == 201:
		u.images = append(u.images, i)
		u.pushed.Add(1)
	case a.code() == codeManifestBlobUnknown && time.Since(begun) > MinGrace-touchAfter:
		time.Sleep(time.Duration(u.random.IntN(2000)) * time.Millisecond) // the machine was too slow for the grace and so many clients
	default:
		t.Errorf("manifest, %s after the first blob: %d %s", time.Since(begun), a.status, a.body)
	}
}

// bring makes sure that repo has a blob, as clients do.
func (u *gcClient) bring(t *testing.T, repo string, d digest.Digest, text []byte) bool {
	c := u.any()
	location := ""
	switch u.random.IntN(3) {
	case 0:
		a, err := c.try("HEAD", "/v2/"+repo+"/blobs/"+d.String(), nil)
		if err != nil || a.status != 200 && a.status != 404 {
			t.Errorf("HEAD: %v, %d", err, a.status)
			return false
		}
		if a.status == 200 {
			return true
		}
	case 1:
		from := ""
		if u.random.IntN(2) == 0 {
			from = fmt.Sprintf("&from=r%d", u.random.IntN(4))
		}
		a, err := c.try("POST", "/v2/"+repo+"/blobs/uploads/?mount="+d.String()+from, nil)
		if err != nil || a.status != 201 && a.status != 202 {
			t.Errorf("mount: %v, %d %s", err, a.status, a.body)
			return false
		}
		if a.status == 201 {
			return true
		}
		location = a.header.Get("Location")
	}
	method, path := "POST", "/v2/"+repo+"/blobs/uploads/"
	if location != "" {
		method, path = "PUT", location
	}
	a, err := c.try(method, path+"?digest="+d.String(), bytes.NewReader(text))
	if err != nil || a.status != 201 {
		t.Errorf("push: %v, %d %s", err, a.status, a.body)
		return false
	}
	return true
}

// remove deletes the oldest image, or only its tag.
func (u *gcClient) remove(t *testing.T) {
	i := u.images[0]
	u.images = u.images[1:]
	ref := i.manifest.String()
	if u.random.IntN(3) == 0 {
		ref = i.tag
	}
	if a, err := u.any().try("DELETE", "/v2/"+i.repo+"/manifests/"+ref, nil); err != nil || a.status != 202 {
		t.Errorf("delete: %v, %d %s", err, a.status, a.body)
	}
}

// check pulls an image.
func (u *gcClient) check(t *testing.T, i gcImage) {
	paths := map[string]digest.Digest{"manifests/" + i.tag: i.manifest, "manifests/" + i.manifest.String(): i.manifest}
	for _, d := range i.blobs {
		paths["blobs/"+d.String()] = d
	}
	for path, d := range paths {
		a, err := u.any().try("GET", "/v2/"+i.repo+"/"+path, nil)
		if err != nil || a.status != 200 || digest.FromBytes(a.body) != d {
			t.Errorf("%s lost %s: %v, %d", i.tag, path, err, a.status)
		}
	}
}
