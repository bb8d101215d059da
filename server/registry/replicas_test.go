package registry

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/opencontainers/go-digest"
)

// replicas are servers of one bucket, of which one is killed now and then.
type replicas struct {
	url string
	mu  sync.Mutex
	all []*process
}

func startReplicas(t *testing.T, n int) *replicas {
	r := &replicas{url: startS3(t)}
	for range n {
		r.all = append(r.all, startProcess(t, r.url))
	}
	return r
}

func (r *replicas) any() *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.all[rand.IntN(len(r.all))]
}

// killOne kills a replica and puts another in its place.
func (r *replicas) killOne(t *testing.T) {
	i := rand.IntN(len(r.all))
	r.all[i].kill()
	p := startProcess(t, r.url)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all[i] = p
}

// tagOp is one request for a tag, and tagResult what it was answered.
type tagOp struct {
	tag   string
	write bool
	value digest.Digest // "" deletes
}

// tagModel is a tag as a register: a read returns what was written last.
func tagModel() porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			byTag := map[string][]porcupine.Operation{}
			for _, op := range history {
				tag := op.Input.(tagOp).tag
				byTag[tag] = append(byTag[tag], op)
			}
			var parts [][]porcupine.Operation
			for _, part := range byTag {
				parts = append(parts, part)
			}
			return parts
		},
		Init: func() any { return digest.Digest("") },
		Step: func(state, input, output any) (bool, any) {
			op := input.(tagOp)
			if op.write {
				return true, op.value
			}
			return output.(digest.Digest) == state.(digest.Digest), state
		},
	}
}

// history collects operations.
type history struct {
	mu    sync.Mutex
	ops   []porcupine.Operation
	start time.Time
}

func (h *history) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ops)
}

// run does op by a replica that may be dead, and remembers it. What was not answered and
// would have changed something may have been done at any time since.
func (h *history) run(t *testing.T, client int, p *process, op tagOp, bodies map[digest.Digest][]byte) {
	method, body := http.MethodGet, []byte(nil)
	if op.write && op.value == "" {
		method = http.MethodDelete
	} else if op.write {
		method, body = http.MethodPut, bodies[op.value]
	}
	call := time.Since(h.start)
	a, err := p.try(method, "/v2/r/manifests/"+op.tag, bytes.NewReader(body), "Content-Type", "application/vnd.oci.image.manifest.v1+json")
	end := time.Since(h.start)
	var output digest.Digest
	busy := err == nil && a.status == http.StatusServiceUnavailable // as good as no answer
	switch {
	case (err != nil || busy) && !op.write:
		return
	case err != nil || busy:
		end = time.Hour
	case op.write && a.status == 404 && op.value == "":
		op = tagOp{tag: op.tag} // it was not there, which is an answer like that of a read
	case op.write && a.status/100 == 2, a.status == 404:
	case a.status == 200:
		output = digest.Digest(a.header.Get("Docker-Content-Digest"))
	default:
		t.Errorf("%s %s: got %d %s", method, op.tag, a.status, a.body)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: op, Call: int64(call), Output: output, Return: int64(end)})
}

// TestBucketReplicas: three replicas of a bucket take changes of the same tags while one
// after another is killed. The tags behave as if there were one, what was pushed through one
// is had from the others, and an upload that one began is ended by another.
func TestBucketReplicas(t *testing.T) {
	r := startReplicas(t, 3)
	seconds := 4
	if os.Getenv("TEU_SOAK") != "" {
		seconds = 300
	}
	bodies := map[digest.Digest][]byte{}
	var values []digest.Digest
	for i := range 200 {
		m := r.all[0].image("r", "config", "layer")
		m.Annotations = map[string]string{"n": fmt.Sprint(i)}
		b := encode(t, m)
		bodies[digest.FromBytes(b)] = b
		values = append(values, digest.FromBytes(b))
	}
	h := &history{start: time.Now()}
	all := &acknowledged{}
	begun := time.Now()
	goesOn := func() bool { // longer where little can be done in the time
		took := time.Since(begun)
		return took < time.Duration(seconds)*time.Second || took < time.Minute && (h.len() < 50 || all.len() == 0)
	}
	var work sync.WaitGroup
	for c := range 6 {
		work.Go(func() {
			for n := 0; goesOn(); n++ {
				op := tagOp{tag: fmt.Sprintf("t%d", rand.IntN(4)), write: rand.IntN(2) == 0}
				if op.write && rand.IntN(5) > 0 {
					op.value = values[rand.IntN(len(values))]
				}
				h.run(t, c, r.any(), op, bodies)
			}
		})
	}
	work.Go(func() {
		for n := 0; goesOn(); n++ {
			r.upload(t, all, n)
		}
	})
	for goesOn() {
		time.Sleep(time.Duration(300+rand.IntN(500)) * time.Millisecond)
		r.killOne(t)
	}
	work.Wait()
	if len(h.ops) < 50 || len(all.paths) == 0 {
		t.Errorf("%d operations and %d uploads: nothing was tested", len(h.ops), len(all.paths))
	}
	if result := porcupine.CheckOperationsTimeout(tagModel(), h.ops, time.Minute); result != porcupine.Ok {
		t.Errorf("the history of the tags is %s", result)
	}
	for path, want := range all.paths {
		a := r.any().want(r.any().do("GET", path, nil), 200, "")
		if digest.FromBytes(a.body) != want {
			t.Errorf("%s came back different", path)
		}
	}
	t.Logf("%d operations on tags, %d uploads", len(h.ops), len(all.paths))
}

// upload sends a blob by chunks, each through any replica, and goes on where a status says
// when one was killed.
func (r *replicas) upload(t *testing.T, all *acknowledged, n int) {
	b := bytes.Repeat(fmt.Appendf(nil, "upload %d ", n), 60_000)
	d := digest.FromBytes(b)
	a, err := r.any().try("POST", "/v2/r/blobs/uploads/", nil)
	if err != nil || a.status == 503 {
		return
	}
	location := a.header.Get("Location")
	for at := 0; at < len(b); {
		to := min(at+len(b)/3+1, len(b))
		a, err := r.any().try("PATCH", location, bytes.NewReader(b[at:to]), "Content-Range", fmt.Sprintf("%d-%d", at, to-1))
		if err == nil && a.status == 202 {
			at = to
			continue
		}
		if err == nil && a.status != 416 && a.status != 503 {
			t.Errorf("PATCH: got %d %s", a.status, a.body)
			return
		}
		if at, err = r.offset(location); err != nil {
			t.Error(err)
			return
		}
	}
	path := "/v2/r/blobs/" + d.String()
	a, err = r.any().try("PUT", location+"?digest="+d.String(), nil)
	if err != nil || a.status == 503 {
		return
	}
	if a.status != 201 {
		t.Errorf("PUT: got %d %s", a.status, a.body)
		return
	}
	all.add(path, d)
}

func (r *replicas) offset(location string) (int, error) {
	for range 100 {
		a, err := r.any().try("GET", location, nil)
		if err != nil {
			continue
		}
		if a.status == 503 {
			continue
		}
		if a.status != 204 {
			return 0, fmt.Errorf("GET of an upload: got %d %s", a.status, a.body)
		}
		var end int
		if _, err := fmt.Sscanf(a.header.Get("Range"), "0-%d", &end); err != nil {
			return 0, err
		}
		if end == 0 { // nothing arrived
			return 0, nil
		}
		return end + 1, nil
	}
	return 0, fmt.Errorf("no replica answers")
}
