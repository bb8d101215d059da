package layer

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/teu-dev/teu/cache/statefile"
)

// A record is layer.json, and what lies beside it.
type record struct {
	DiffID     digest.Digest `json:"diffID,omitempty"`
	Size       int64         `json:"size,omitempty"`
	TarSize    int64         `json:"tarSize,omitempty"`    // set by Seal
	Sealed     bool          `json:"sealed,omitempty"`     // Diff made the tar with this DiffID
	Epoch      *time.Time    `json:"epoch,omitempty"`      // that it was sealed with
	OpaqueRoot bool          `json:"opaqueRoot,omitempty"` // hides all layers below
	Needs      bool          `json:"needs,omitempty"`      // there is a file "needs"
	UserXattr  bool          `json:"userXattr,omitempty"`  // overlay attributes are user.overlay.*
	BootID     string        `json:"bootID"`               // of the boot that made it

	id     string
	needs  needs
	synced bool
	stale  bool // not synced before the machine went down
}

// needs is what a layer has to take from those below it.
type needs struct {
	implicit []string
	links    []Link
}

func (r *record) layer() Layer {
	return Layer{ID: r.id, DiffID: r.DiffID, Size: r.Size, TarSize: r.TarSize, Implicit: r.needs.implicit}
}

// read reads the record and the needs of a layer. A record that cannot be read is what a power
// loss leaves on some filesystems, so such a layer does not exist either.
func (s *Store) read(id string) (*record, error) {
	r, err := s.readRecord(id)
	if errors.Is(err, errdefs.ErrDataLoss) {
		return nil, fmt.Errorf("layer %s: %w: %w", id, err, errdefs.ErrNotFound)
	}
	if err != nil || !r.Needs || r.stale {
		return r, err
	}
	data, err := os.ReadFile(filepath.Join(s.dir, id, "needs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("layer %s: %w: %w", id, err, errdefs.ErrNotFound) // removed meanwhile
	}
	if err != nil {
		return nil, err
	}
	if r.needs, err = decodeNeeds(data); err != nil {
		return nil, fmt.Errorf("layer %s: %w", id, err)
	}
	return r, nil
}

func (s *Store) readRecord(id string) (*record, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	r := &record{id: id}
	if err := statefile.Read(s.record(id), r); err != nil {
		if errors.Is(err, errdefs.ErrNotFound) {
			return nil, fmt.Errorf("layer %s: %w", id, err)
		}
		return nil, err
	}
	if _, err := os.Lstat(s.marker(id)); err == nil {
		r.synced = true
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r.stale = !r.synced && r.BootID != s.bootID
	return r, nil
}

// marker is the file that says that the layer was synced.
func (s *Store) marker(id string) string { return filepath.Join(s.dir, id, "synced") }

// The needs of a layer are fields that end in a zero byte, since names need not be UTF-8 and
// there may be very many: "d" PATH for an implicit directory, "l" PATH "\0" TARGET for a link.
func (n needs) encode() []byte {
	var b bytes.Buffer
	for _, p := range n.implicit {
		b.WriteString("d" + p + "\x00")
	}
	for _, l := range n.links {
		b.WriteString("l" + l.Path + "\x00" + l.Target + "\x00")
	}
	return b.Bytes()
}

func decodeNeeds(data []byte) (n needs, err error) {
	rest := string(data)
	field := func() (f string) {
		var ok bool
		if f, rest, ok = strings.Cut(rest, "\x00"); !ok {
			err = fmt.Errorf("its needs are cut off: %w", errdefs.ErrNotFound)
		}
		return f
	}
	for rest != "" && err == nil {
		switch f := field(); {
		case strings.HasPrefix(f, "d"):
			n.implicit = append(n.implicit, f[1:])
		case strings.HasPrefix(f, "l"):
			n.links = append(n.links, Link{Path: f[1:], Target: field()})
		default:
			return n, fmt.Errorf("its needs are damaged: %w", errdefs.ErrNotFound)
		}
	}
	return n, err
}
