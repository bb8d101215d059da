package export

import (
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/cache/rootfs"
)

// Limits of what a scanner writes: the statements of one image.
const (
	maxStatement  = 80 << 20 // as BuildKit's
	maxStatements = 100
)

// ReadStatements reads the statements in the directory dir of root, which a scanner wrote: each regular file is
// one. kind is what each has to be, "" for anything. The one called core, up to a dot, comes first.
func ReadStatements(root *rootfs.Dir, dir, kind, core string) ([]Statement, error) {
	f, err := root.OpenFile(path.Join("/", dir), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	if len(names) > maxStatements {
		return nil, fmt.Errorf("%d statements, at most %d are read: %w", len(names), maxStatements, errdefs.ErrResourceExhausted)
	}
	slices.Sort(names)
	var first, list []Statement
	for _, name := range names {
		st, err := readStatement(root, path.Join("/", dir, name), kind)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		st.Name = name
		if n, _, _ := strings.Cut(name, "."); core != "" && n == core {
			first = append(first, st)
		} else {
			list = append(list, st)
		}
	}
	return append(first, list...), nil
}

func readStatement(root *rootfs.Dir, p, kind string) (Statement, error) {
	data, err := readLimited(root, p)
	if err != nil {
		return Statement{}, err
	}
	return parseStatement(data, kind)
}

func readLimited(root *rootfs.Dir, p string) ([]byte, error) {
	f, err := root.OpenRegular(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxStatement+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxStatement {
		return nil, fmt.Errorf("more than %d bytes: %w", maxStatement, errdefs.ErrResourceExhausted)
	}
	return data, nil
}

// ReadPredicate reads a statement of which the file p of root is the predicate, of that kind.
func ReadPredicate(root *rootfs.Dir, p, kind string) (Statement, error) {
	data, err := readLimited(root, path.Join("/", p))
	if err != nil {
		return Statement{}, err
	}
	st := Statement{Kind: kind, Predicate: data, Name: path.Base(p)}
	switch {
	case len(data) == 0:
		st.Predicate = json.RawMessage("null")
	case !json.Valid(data):
		return st, fmt.Errorf("it is no JSON: %w", errdefs.ErrInvalidArgument)
	}
	return st, nil
}

// parseStatement reads a statement that somebody else made.
func parseStatement(data []byte, kind string) (Statement, error) {
	var doc struct {
		Kind      string          `json:"predicateType"`
		Subjects  []Subject       `json:"subject"`
		Predicate json.RawMessage `json:"predicate"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return Statement{}, fmt.Errorf("it is no statement of in-toto: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	switch {
	case doc.Kind == "", len(doc.Predicate) == 0:
		return Statement{}, fmt.Errorf("it is no statement of in-toto: it has no predicate: %w", errdefs.ErrInvalidArgument)
	case kind != "" && doc.Kind != kind:
		return Statement{}, fmt.Errorf("it states %s, not %s: %w", doc.Kind, kind, errdefs.ErrInvalidArgument)
	case strings.HasPrefix(doc.Kind, "https://slsa.dev/provenance/"):
		return Statement{}, fmt.Errorf("how an image was built is not for a scanner to say: %w", errdefs.ErrInvalidArgument)
	}
	return Statement{Kind: doc.Kind, Predicate: doc.Predicate, Subjects: doc.Subjects, About: len(doc.Subjects) > 0}, nil
}
