package runner

import (
	"iter"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/statefile"
)

// known are documents of containers a process that lists them again and again has decoded,
// by their path. They hold no truth: one is used as long as its file is the same one.
// Nobody may change what it has pointers to. The zero value is ready.
type known struct {
	mu   sync.Mutex
	docs map[string]knownDocument
}

type knownDocument struct {
	stamp stamp
	value any
}

// stamp tells a file from those that had its path before: documents are replaced, never
// changed (statefile.Write).
type stamp struct {
	inode   uint64
	changed unix.Timespec
	size    int64
}

// settled is the age from which a file's stamp is trusted: the kernel's clock for them ticks
// every 4 ms, and an inode may be used again within a tick.
const settled = 100 * time.Millisecond

// readKnown is statefile.Read for a document that k may know. Without k it is just that.
func readKnown[T any](k *known, path string, v *T) error {
	if k == nil {
		return statefile.Read(path, v)
	}
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return statefile.Read(path, v) // which says why
	}
	now := stamp{st.Ino, st.Ctim, st.Size}
	k.mu.Lock()
	doc := k.docs[path]
	k.mu.Unlock()
	if value, ok := doc.value.(T); ok && doc.stamp == now {
		*v = value
		return nil
	}
	if err := statefile.Read(path, v); err != nil {
		return err
	}
	if time.Since(time.Unix(st.Ctim.Unix())) > settled {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.docs == nil {
			k.docs = map[string]knownDocument{}
		}
		k.docs[path] = knownDocument{now, *v}
	}
	return nil
}

// Remember makes listings faster for a process that stays: documents of containers that have
// not been replaced since the last one are not decoded again. It comes before all else.
func (e *Engine) Remember() { e.known = &known{} }

// keep forgets all documents but those at paths, if there are many more.
func (k *known) keep(paths iter.Seq[string], n int) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.docs) <= 2*n+64 {
		return
	}
	some := make(map[string]knownDocument, n)
	for path := range paths {
		if doc, ok := k.docs[path]; ok {
			some[path] = doc
		}
	}
	k.docs = some
}
