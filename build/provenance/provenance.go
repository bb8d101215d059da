// Package provenance states how an image was built: from what, by which steps, when. The statement is a
// predicate of SLSA's provenance with the fields that BuildKit gives it (BuildKit docs,
// attestations/slsa-definitions.md), whose own types make it, so that what reads BuildKit's reads teu's.
//
// Secrets are never in it: of a secret or an agent it has the name, and that only with the arguments. What is
// in a URL before the host is masked.
package provenance

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/version"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver/compat"
	bkprovenance "github.com/moby/buildkit/solver/llbsolver/provenance"
	"github.com/moby/buildkit/solver/llbsolver/provenance/types"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A Record notes what a build looks at. It is safe for concurrent use. nil notes nothing.
type Record struct {
	began time.Time
	id    string

	mu     sync.Mutex
	pins   map[digest.Digest]string // what sources stood for, by the digest of their operation
	images []types.ImageSource      // that were asked for by name
	read   []*pb.Definition         // that were solved to be read: the Dockerfile
}

// NewRecord returns the one of a build that begins.
func NewRecord() *Record {
	return &Record{began: time.Now().UTC(), id: strings.ToLower(rand.Text()), pins: map[digest.Digest]string{}}
}

// Pin notes what a source stood for: the digest of an image or a download, or a commit. The digest source is
// that of the operation.
func (r *Record) Pin(source digest.Digest, pin string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pins[source] = pin
}

// Image notes that an image was asked for; local says that it is in an OCI layout.
func (r *Record) Image(ref string, p *ocispec.Platform, d digest.Digest, local bool) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.images = append(r.images, types.ImageSource{Ref: ref, Platform: p, Digest: d, Local: local})
}

// Read notes a definition whose files the build looked into.
func (r *Record) Read(def *pb.Definition) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read = append(r.read, def)
}

// A Build is what a statement is about, beside what was noted.
type Build struct {
	Frontend   string            // "dockerfile.v0"; "" for a definition of the client
	Args       map[string]string // of the frontend
	Definition *pb.Definition    // of the image
	Platform   ocispec.Platform  // of the image
	All        []ocispec.Platform
	// Layers returns the layers behind an output of an operation, nil if they are no blobs.
	Layers func(op digest.Digest, output int) []ocispec.Descriptor
	// Timeless leaves out what is different each time: when it was, and its random ID.
	Timeless bool
}

// Predicate returns what is stated of b and what it is called: a URI.
func (r *Record) Predicate(b Build, o Options) (kind string, predicate []byte, err error) {
	c, err := r.capture(b)
	if err != nil {
		return "", nil, err
	}
	p, err := bkprovenance.NewPredicate(c)
	if err != nil {
		return "", nil, err
	}
	meta := p.RunDetails.Metadata
	if o.Complete && !meta.Completeness.ResolvedDependencies {
		return "", nil, fmt.Errorf("complete-materials: files of this machine are among the materials of the provenance: %w", errdefs.ErrFailedPrecondition)
	}
	meta.Reproducible = o.Reproducible
	p.RunDetails.Builder.ID = o.BuilderID
	if !b.Timeless {
		ended := time.Now().UTC()
		meta.StartedOn, meta.FinishedOn, meta.InvocationID = &r.began, &ended, r.id
	}
	request := &p.BuildDefinition.ExternalParameters.Request
	request.CompatibilityVersion = compat.CompatibilityVersionCurrent
	if b.Frontend == "dockerfile.v0" {
		p.BuildDefinition.InternalParameters.DockerfileVersion = strings.TrimSuffix(version.Version(), "-dev")
	}
	if o.Min {
		if forget(request) {
			meta.Completeness.Request = false
		}
	} else if err := addSteps(p, c, b); err != nil {
		return "", nil, err
	}
	if o.Version == string(types.ProvenanceSLSA02) {
		predicate, err = json.Marshal(p.ConvertToSLSA02())
		return "https://slsa.dev/provenance/v0.2", predicate, err
	}
	predicate, err = json.Marshal(p)
	return "https://slsa.dev/provenance/v1", predicate, err
}

// forget takes out of a request what people may not want to tell, and says whether arguments were among it.
func forget(request *types.Parameters) (incomplete bool) {
	request.Secrets, request.SSH = nil, nil
	for name := range request.Args {
		if strings.HasPrefix(name, "build-arg:") || strings.HasPrefix(name, "label:") {
			delete(request.Args, name)
			incomplete = true
		}
	}
	return incomplete
}

// addSteps adds the operations, where they stand in the Dockerfile, and their layers.
func addSteps(p *types.ProvenancePredicateSLSA1, c *bkprovenance.Capture, b Build) error {
	def := b.Definition
	if len(def.GetDef()) == 0 {
		def = &pb.Definition{} // FROM scratch alone
	}
	stable, digests, err := stabilise(def)
	if err != nil {
		return err
	}
	steps, err := bkprovenance.AddBuildConfig(context.Background(), p, c, definition{def: stable}, false)
	if err != nil {
		return err
	}
	outputs := map[digest.Digest]int{}
	for _, raw := range stable.Def {
		var op pb.Op
		if err := op.Unmarshal(raw); err != nil {
			return err
		}
		for _, in := range op.Inputs {
			d := digest.Digest(in.Digest)
			outputs[d] = max(outputs[d], int(in.Index)+1)
		}
	}
	layers := map[string][][]ocispec.Descriptor{}
	for was, is := range digests {
		step, ok := steps[is]
		if !ok {
			continue
		}
		for i := range outputs[is] {
			if list := b.Layers(was, i); len(list) > 0 {
				layers[fmt.Sprintf("step%d:%d", step, i)] = [][]ocispec.Descriptor{list}
			}
		}
	}
	if len(layers) > 0 {
		p.RunDetails.Metadata.BuildKitMetadata.Layers = layers
	}
	return nil
}

// A definition is as much of a result of BuildKit's solver as its package looks at.
type definition struct {
	solver.ResultProxy
	def *pb.Definition
}

func (d definition) Definition() *pb.Definition { return d.def }

// capture turns what was noted into BuildKit's form.
func (r *Record) capture(b Build) (*bkprovenance.Capture, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := &bkprovenance.Capture{}
	for _, def := range append([]*pb.Definition{b.Definition}, r.read...) {
		if err := r.sources(c, def); err != nil {
			return nil, err
		}
	}
	for _, img := range b.images(r.images) {
		c.AddImage(img)
	}
	if err := c.OptimizeImageSources(); err != nil {
		return nil, err
	}
	c.Sort()
	slices.SortStableFunc(c.Sources.Images, func(a, b types.ImageSource) int {
		return strings.Compare(a.Ref+platformName(a.Platform), b.Ref+platformName(b.Platform))
	})
	c.TargetPlatform = platforms.FormatAll(b.Platform)
	c.Request.Frontend = b.Frontend
	c.Request.Args = maskArgs(b.Args)
	return c, nil
}

func platformName(p *ocispec.Platform) string {
	if p == nil {
		return ""
	}
	return platforms.FormatAll(*p)
}

// images leaves out of a list the images for other platforms, where the same image was asked for for each.
func (b Build) images(all []types.ImageSource) []types.ImageSource {
	same := func(a, b ocispec.Platform) bool { return platforms.FormatAll(a) == platforms.FormatAll(b) }
	has := func(ref string, p ocispec.Platform) bool {
		return slices.ContainsFunc(all, func(i types.ImageSource) bool {
			return i.Ref == ref && i.Platform != nil && same(*i.Platform, p)
		})
	}
	var list []types.ImageSource
	for _, img := range all {
		everywhere := len(b.All) > 1 && !slices.ContainsFunc(b.All, func(p ocispec.Platform) bool { return !has(img.Ref, p) })
		if everywhere && img.Platform != nil && !same(*img.Platform, b.Platform) {
			continue
		}
		list = append(list, img)
	}
	return list
}
