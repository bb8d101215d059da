package build

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/export"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/build/provenance"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/rootfs"
	"github.com/teu-dev/teu/dockerfile"
)

// stated says whether something is stated of what an output gets: an image in a registry or the store, or, with
// file, anything else.
func (r *run) stated(file bool) bool {
	p := r.o.Provenance
	return r.o.SBOM != nil || p != nil && (!file || !p.InlineOnly) || r.claims[file]
}

// claimed says whether who made the results states something of what an output gets.
func claimed(images []dockerfile.Image, file bool) bool {
	return slices.ContainsFunc(images, func(img dockerfile.Image) bool {
		return slices.ContainsFunc(img.Attestations, func(a dockerfile.Attestation) bool { return a.Stated && !(file && a.InlineOnly) })
	})
}

// A pinnedOp is a source of which it is noted what it stands for.
type pinnedOp struct {
	solver.Op[op.Result]
	id     digest.Digest
	record *provenance.Record
}

// Key implements solver.Op.
func (o pinnedOp) Key(ctx context.Context) (solver.Key, error) {
	key, err := o.Op.Key(ctx)
	if err == nil {
		o.record.Pin(o.id, op.Pin(o.Op))
	}
	return key, err
}

// steps are the operations of the images, by their digest.
type steps struct {
	mu   sync.Mutex
	made map[digest.Digest]*solver.Vertex[op.Result]
}

// noteSteps notes operations of which something will be stated.
func (r *run) noteSteps(made map[*graph.Vertex]*solver.Vertex[op.Result]) {
	if r.record == nil {
		return
	}
	r.steps.mu.Lock()
	defer r.steps.mu.Unlock()
	if r.steps.made == nil {
		r.steps.made = map[digest.Digest]*solver.Vertex[op.Result]{}
	}
	for v, sv := range made {
		r.steps.made[v.Digest] = sv
	}
}

// statements returns what is stated of the image i, which has these layers; nil for files.
func (r *run) statements(ctx context.Context, c *solver.Console, s solved, i int, layers []ocispec.Descriptor) ([]export.Statement, error) {
	img := s.Images[i]
	list, err := r.attested(ctx, c, img, layers == nil)
	if err != nil || r.o.Provenance == nil || r.o.Provenance.InlineOnly && layers == nil {
		return list, err
	}
	b := provenance.Build{
		Frontend: s.Frontend, Args: s.Attrs, Definition: img.Definition, Platform: img.Platform,
		Timeless: img.Epoch != nil,
		Layers: func(id digest.Digest, output int) []ocispec.Descriptor {
			return r.layersOf(id, output, s.states[i], layers)
		},
	}
	for _, other := range s.Images {
		b.All = append(b.All, other.Platform)
	}
	kind, predicate, err := r.record.Predicate(b, *r.o.Provenance)
	if err != nil {
		return nil, err
	}
	return append(list, export.Statement{Kind: kind, Predicate: predicate, Name: cmp.Or(r.o.Provenance.Filename, "provenance.json")}), nil
}

// attested returns what scanners and who made the result state of an image, or of files.
func (r *run) attested(ctx context.Context, c *solver.Console, img dockerfile.Image, file bool) (list []export.Statement, err error) {
	for _, a := range img.Attestations {
		if a.Stated && file && a.InlineOnly || !a.Stated && r.o.SBOM == nil {
			continue
		}
		found, err := r.readAttestation(ctx, c, a)
		if err != nil {
			return nil, err
		}
		list = append(list, found...)
	}
	return list, nil
}

func (r *run) readAttestation(ctx context.Context, c *solver.Console, a dockerfile.Attestation) (list []export.Statement, err error) {
	res, err := r.solve(ctx, a.Definition, sealing{})
	if err != nil {
		return nil, err
	}
	view, err := r.env.View(ctx, c, res)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, view.Close()) }()
	if a.File == "" {
		if list, err = export.ReadStatements(view.Dir, a.Dir, a.Kind, a.Core); err != nil {
			return nil, fmt.Errorf("what the scanner wrote: %w", err)
		}
		return list, nil
	}
	st, err := export.ReadPredicate(view.Dir, a.File, a.Kind)
	if err != nil {
		return nil, fmt.Errorf("the attestation %s: %w", a.File, err)
	}
	st.About = len(a.Subjects) > 0
	for _, s := range a.Subjects {
		if s.Self {
			st.About = false
			if s.Name != "" {
				st.Aliases = append(st.Aliases, s.Name)
			}
			continue
		}
		about := export.Subject{Name: cmp.Or(s.Name, "_"), Digest: map[string]string{}}
		for _, d := range s.Digests {
			about.Digest[d.Algorithm().String()] = d.Encoded()
		}
		st.Subjects = append(st.Subjects, about)
	}
	return []export.Statement{st}, nil
}

// layersOf returns the blobs behind an output of an operation: layers that state, which has these, has too, or
// that came as blobs.
func (r *run) layersOf(id digest.Digest, output int, state op.Result, layers []ocispec.Descriptor) []ocispec.Descriptor {
	r.steps.mu.Lock()
	v := r.steps.made[id]
	r.steps.mu.Unlock()
	if v == nil {
		return nil
	}
	res, ok := r.solver.Known(solver.Edge[op.Result]{Vertex: v, Index: output})
	if !ok || res.Local != nil {
		return nil
	}
	of := map[string]ocispec.Descriptor{}
	for i, d := range layers {
		of[layerKey(state.Layers[i])] = d
	}
	var list []ocispec.Descriptor
	for _, l := range res.Layers {
		d, ok := of[layerKey(l)]
		switch {
		case ok:
			list = append(list, d)
		case l.Blob != nil:
			list = append(list, *l.Blob)
		default:
			return nil
		}
	}
	return list
}

func layerKey(l op.Layer) string { return l.ID + " " + l.DiffID.String() }

// subjects are what statements call an image, by all names that it gets.
func (r *run) subjects(p ocispec.Platform) ([]string, error) {
	var list []string
	names := slices.Concat(r.names.outputs...)
	for _, p := range r.names.push {
		names = append(names, p.name)
	}
	for _, n := range names {
		name, err := provenance.PackageURL(reference.FamiliarString(n), p)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	return list, nil
}

// fileStatements makes the files of out for what is stated of the image i, whose files are those of root.
func (r *run) fileStatements(ctx context.Context, c *solver.Console, out Output, s solved, i int, root *rootfs.Dir, o export.TreeOptions) ([]export.StatementFile, error) {
	list, err := r.statements(ctx, c, s, i, nil)
	if err != nil {
		return nil, err
	}
	subjects, err := export.Files(ctx, root)
	if err != nil {
		return nil, err
	}
	files := make([]export.StatementFile, len(list))
	for n, st := range list {
		st.Name = out.StatementPrefix + st.Name
		if s.Index && o.Prefix == "" { // all platforms have one directory
			ext := path.Ext(st.Name)
			st.Name = strings.TrimSuffix(st.Name, ext) + "." + platformDir(s.Images[i].Platform) + ext
		}
		if files[n], err = export.NewStatementFile(st, subjects, o); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// platformDir is what the directory of one of several platforms is called.
func platformDir(p ocispec.Platform) string {
	return strings.NewReplacer("/", "_", `\`, "_", ":", "_").Replace(platformName(p))
}
