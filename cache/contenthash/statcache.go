package contenthash

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// A statCache remembers digests of files by what stat(2) says of them. Whatever changes a file
// changes its ctime, so a hit is right unless the change came within the same tick of the clock as
// the reading; such young files are not remembered.
//
// The file is a magic, then the entries sorted by path, and the sha256 of all that. An entry is
//
//	uvarint  bytes of the path that are those of the path before
//	uvarint  bytes of the path that follow; the bytes
//	uvarint  size, inode
//	varint   mtime, ctime in nanoseconds
//	32 bytes digest
type statCache struct {
	entries map[string]statEntry
	changed bool
}

type statEntry struct {
	size, ino    uint64
	mtime, ctime int64
	digest       [sha256.Size]byte
	used         bool // seen by this Tree
}

const (
	magicOwner   = "teu contenthash 1 owner\n"
	magicNoOwner = "teu contenthash 1 reset\n"
	maxCacheFile = 512 << 20

	// racy is how much older than its reading a file must be: filesystems keep times in steps of
	// up to two seconds.
	racy = 2 * time.Second
	// maxForgotten is how many entries of files that were not seen are kept for other selections.
	maxForgotten = 200000
)

func magic(resetOwner bool) string {
	if resetOwner {
		return magicNoOwner
	}
	return magicOwner
}

// loadCache reads the cache file. One that is missing or damaged is empty.
func loadCache(path string, resetOwner bool) *statCache {
	c := &statCache{entries: map[string]statEntry{}}
	if path == "" {
		return c
	}
	f, err := os.Open(path)
	if err != nil {
		return c
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCacheFile))
	if err != nil {
		return c
	}
	if entries, err := decodeCache(data, magic(resetOwner)); err == nil {
		c.entries = entries
	}
	return c
}

func decodeCache(data []byte, magic string) (map[string]statEntry, error) {
	damaged := errors.New("not a cache of this kind")
	if len(data) < len(magic)+sha256.Size || string(data[:len(magic)]) != magic {
		return nil, damaged
	}
	body, sum := data[:len(data)-sha256.Size], data[len(data)-sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(got[:], sum) {
		return nil, damaged
	}
	r := bytes.NewReader(body[len(magic):])
	entries := make(map[string]statEntry, r.Len()/96)
	var path []byte
	for r.Len() > 0 {
		var e statEntry
		var err error
		if path, err = decodePath(r, path); err != nil {
			return nil, err
		}
		if err := e.decode(r); err != nil {
			return nil, err
		}
		entries[string(path)] = e
	}
	return entries, nil
}

func decodePath(r *bytes.Reader, before []byte) ([]byte, error) {
	same, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if same > uint64(len(before)) || n > uint64(r.Len()) {
		return nil, io.ErrUnexpectedEOF
	}
	path := append(before[:same], make([]byte, n)...)
	_, err = io.ReadFull(r, path[same:])
	return path, err
}

func (e *statEntry) decode(r *bytes.Reader) (err error) {
	for _, v := range []*uint64{&e.size, &e.ino} {
		if *v, err = binary.ReadUvarint(r); err != nil {
			return err
		}
	}
	for _, v := range []*int64{&e.mtime, &e.ctime} {
		if *v, err = binary.ReadVarint(r); err != nil {
			return err
		}
	}
	_, err = io.ReadFull(r, e.digest[:])
	return err
}

// get returns the digest of n, at path, or "".
func (c *statCache) get(path string, n *node) digest.Digest {
	e, ok := c.entries[path]
	if !ok || e.size != uint64(n.size) || e.ino != n.ino || e.mtime != n.mtime || e.ctime != n.ctime {
		return ""
	}
	if !e.used {
		e.used = true
		c.entries[path] = e
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(e.digest[:]))
}

// put remembers the digest of n, at path, which was read at the time read.
func (c *statCache) put(path string, n *node, read time.Time) {
	if limit := read.Add(-racy).UnixNano(); n.mtime >= limit || n.ctime >= limit {
		if _, ok := c.entries[path]; ok {
			delete(c.entries, path)
			c.changed = true
		}
		return
	}
	e := statEntry{size: uint64(n.size), ino: n.ino, mtime: n.mtime, ctime: n.ctime, used: true}
	if k, err := hex.Decode(e.digest[:], []byte(n.own.Encoded())); err != nil || k != sha256.Size {
		return
	}
	c.entries[path] = e
	c.changed = true
}

// save writes the cache file in one step, if it is worth it. Two processes that write it at once
// both leave a good one.
func (c *statCache) save(path string, resetOwner bool) (err error) {
	if path == "" || !c.changed {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // the prefix that statefile.Sweep removes
	if err != nil {
		return fmt.Errorf("writing the digests of files: %w", err)
	}
	_, err = f.Write(c.encode(magic(resetOwner)))
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("writing the digests of files: %w", err), os.Remove(f.Name()))
	}
	return nil
}

func (c *statCache) encode(magic string) []byte {
	unseen := 0
	for _, e := range c.entries {
		if !e.used {
			unseen++
		}
	}
	b := append(make([]byte, 0, 128*len(c.entries)), magic...)
	before := ""
	for _, path := range slices.Sorted(maps.Keys(c.entries)) {
		e := c.entries[path]
		if !e.used && unseen > maxForgotten {
			continue
		}
		same := 0
		for same < min(len(before), len(path)) && before[same] == path[same] {
			same++
		}
		b = binary.AppendUvarint(b, uint64(same))
		b = binary.AppendUvarint(b, uint64(len(path)-same))
		b = append(b, path[same:]...)
		b = binary.AppendUvarint(b, e.size)
		b = binary.AppendUvarint(b, e.ino)
		b = binary.AppendVarint(b, e.mtime)
		b = binary.AppendVarint(b, e.ctime)
		b = append(b, e.digest[:]...)
		before = path
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}
