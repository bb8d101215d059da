package cache

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/teu-dev/teu/cache/content"
)

// mark returns everything that can be reached from roots. It knows nothing of what the nodes are. It calls
// refs for many at once, for they are read from files.
func mark[N comparable](roots []N, refs func(N) ([]N, error)) (map[N]bool, error) {
	live := map[N]bool{}
	for level := admit(live, roots); len(level) > 0; {
		found := make([][]N, len(level))
		var next atomic.Int64
		var workers errgroup.Group
		for range min(runtime.GOMAXPROCS(0), len(level)) {
			workers.Go(func() error {
				for {
					i := int(next.Add(1)) - 1
					if i >= len(level) {
						return nil
					}
					var err error
					if found[i], err = refs(level[i]); err != nil {
						return err
					}
				}
			})
		}
		if err := workers.Wait(); err != nil {
			return nil, err
		}
		level = nil
		for _, nodes := range found {
			level = append(level, admit(live, nodes)...)
		}
	}
	return live, nil
}

// admit adds nodes to live, and returns those that were not there.
func admit[N comparable](live map[N]bool, nodes []N) (fresh []N) {
	for _, n := range nodes {
		if !live[n] {
			live[n] = true
			fresh = append(fresh, n)
		}
	}
	return fresh
}

// A node is an object of the store.
type node struct {
	kind Kind
	id   string
}

func blobNode(d digest.Digest) node { return node{KindBlob, string(d)} }

// A graph knows which objects of the store refer to which, as they were when it was made. It does not change
// any more when refs is called, which may be from several goroutines.
type graph struct {
	s          *Store
	ctx        context.Context // of the one call the graph lives in
	layers     map[digest.Digest][]string
	diffIDs    map[string]digest.Digest
	snapshots  map[string][]string
	compressed compressedIndex
	unpacked   map[digest.Digest]bool // blobs that layers were made from or compressed to, which refer to nothing
}

// refs returns what n refers to. What is missing or damaged refers to nothing: that an image is
// broken is no reason to keep the rest of it, nor to stop collecting. Any other failure is one.
func (g *graph) refs(n node) ([]node, error) {
	switch n.kind {
	case KindSnapshot:
		return layerNodes(g.snapshots[n.id]), nil
	case KindLayer:
		var out []node
		for _, d := range g.compressed.blobs[g.diffIDs[n.id]] {
			out = append(out, blobNode(d))
		}
		return out, nil
	case KindBlob:
		return g.blobRefs(digest.Digest(n.id))
	}
	return nil, nil
}

func layerNodes(ids []string) []node {
	out := make([]node, len(ids))
	for i, id := range ids {
		out[i] = node{KindLayer, id}
	}
	return out
}

// blobRefs returns the children of a manifest or index, and the layers of a config.
func (g *graph) blobRefs(dgst digest.Digest) ([]node, error) {
	if g.unpacked[dgst] {
		return nil, nil
	}
	data, err := g.document(dgst)
	if data == nil || err != nil {
		return nil, err
	}
	blobs, diffIDs := content.References(data)
	out := make([]node, 0, len(blobs)+len(diffIDs))
	for _, d := range diffIDs {
		out = append(out, layerNodes(g.layers[d])...)
	}
	for _, d := range blobs {
		out = append(out, blobNode(d))
	}
	return out, nil
}

// document returns the bytes of a blob that may be a manifest, an index or a config, or nil. That is
// asked of the bytes: a lease or a build result tells no media type, and a wrong one must not cost blobs.
func (g *graph) document(dgst digest.Digest) ([]byte, error) {
	info, err := g.s.Content.Stat(g.ctx, dgst)
	if gone(err) || err == nil && info.Size > content.MaxConfig {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	r, err := g.s.Content.Fetch(g.ctx, ocispec.Descriptor{Digest: dgst, Size: info.Size})
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	br := bufio.NewReader(r)
	head, err := br.Peek(1)
	// The first byte of a JSON object: RFC 8259, section 2. Layers are not read any further.
	if err == nil && !strings.Contains("{ \t\r\n", string(head)) || err == io.EOF || gone(err) {
		return nil, nil
	}
	data, err := io.ReadAll(br)
	if gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", dgst, err)
	}
	return data, nil
}

// gone says whether err means that there is no such blob, or not in a state anybody could use.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) || errdefs.IsInvalidArgument(err)
}
