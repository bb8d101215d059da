package contenthash

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// whole returns the digest of everything at p.
func (t *Tree) whole(ctx context.Context, p string, followLast bool) (digest.Digest, error) {
	n, real, err := t.resolve(keyPath(p), followLast)
	if err != nil {
		return "", err
	}
	if n == nil {
		return "", fmt.Errorf("%q: %w", p, errdefs.ErrNotFound)
	}
	return t.wholeNode(ctx, n, real)
}

func (t *Tree) wholeNode(ctx context.Context, n *node, p string) (digest.Digest, error) {
	if n.isDir() {
		if n.whole != "" {
			return n.whole, nil
		}
		if err := t.loadAll(ctx, n, p); err != nil {
			return "", err
		}
	}
	if err := t.hashAll(ctx, collect(nil, n, p)); err != nil {
		return "", err
	}
	return n.sum(), nil
}

// collect lists n and what is below it.
func collect(files []todo, n *node, p string) []todo {
	files = append(files, todo{node: n, path: p})
	for _, k := range n.kids {
		files = collect(files, k, p+"/"+k.name)
	}
	return files
}

// sum returns the digest of n with everything in it, of which each own digest is known: that of
// the names and digests of what a directory has, its header with the empty name first.
func (n *node) sum() digest.Digest {
	if !n.isDir() {
		return n.own
	}
	if n.whole == "" {
		h := sha256.New()
		h.Write([]byte("\x00" + n.own))
		for _, k := range n.kids {
			h.Write([]byte("\x00" + k.name + string(k.sum())))
		}
		n.whole = digest.NewDigest(digest.SHA256, h)
	}
	return n.whole
}

// selected returns the digest of what sel selects at p.
func (t *Tree) selected(ctx context.Context, p string, sel Selection) (digest.Digest, error) {
	prefix, chosen, err := t.choose(ctx, p, sel)
	if err != nil {
		return "", err
	}
	if len(chosen) == 0 {
		return digest.FromBytes(nil), nil
	}
	files := make([]todo, 0, len(chosen))
	for _, c := range chosen {
		files = append(files, todo{node: c.node, path: c.real})
	}
	if err := t.hashAll(ctx, files); err != nil {
		return "", err
	}
	for _, c := range chosen {
		c.digest = c.node.own
		if c.follow && c.node.isLink() {
			if c.digest, err = t.whole(ctx, c.path, true); err != nil {
				return "", err
			}
		}
	}
	if len(chosen) == 1 && path.Base(path.Join("/", p)) == path.Base(chosen[0].path) {
		return chosen[0].digest, nil
	}
	h := sha256.New()
	for _, c := range chosen {
		key := strings.ReplaceAll(strings.TrimPrefix(c.path, prefix), "/", "\x00")
		if key == "" {
			key = "\x00"
		}
		h.Write([]byte(key + string(c.digest)))
	}
	return digest.NewDigest(digest.SHA256, h), nil
}
