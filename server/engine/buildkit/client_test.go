package buildkit

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/google/go-cmp/cmp"
	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/client/buildid"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	sessioncontent "github.com/moby/buildkit/session/content"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/teu-dev/teu/build"
	"github.com/teu-dev/teu/build/graph"
	"github.com/teu-dev/teu/build/solver"
	"github.com/teu-dev/teu/cache/content"
	"github.com/teu-dev/teu/dockerfile"
)

// clientLayout makes an OCI layout with an image that has no layers, and returns it as a client offers it.
func clientLayout(t *testing.T) (containerd.Store, digest.Digest) {
	t.Helper()
	dir := t.TempDir()
	s, err := content.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, v any) ocispec.Descriptor {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if err := s.Push(t.Context(), d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	config := put(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: content.Host(), Config: ocispec.ImageConfig{Env: []string{"FROM=layout"}}, RootFS: ocispec.RootFS{Type: "layers"},
	})
	manifest := put(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{},
	})
	store, err := local.NewStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store, manifest.Digest
}

// TestSourceMeta: a client that is its own frontend asks what sources are.
func TestSourceMeta(t *testing.T) {
	f := newFixture(t)
	cc := f.connect(t)
	control, bridge := controlapi.NewControlClient(cc), gwpb.NewLLBBridgeClient(cc)
	layout, image := clientLayout(t)
	id, detach := f.attach(t, sessioncontent.NewAttachable(map[string]containerd.Store{"oci:lay": layout}))
	defer detach()
	modified := time.Unix(1_600_000_000, 0).UTC()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "file", modified, bytes.NewReader([]byte("hello")))
	}))
	defer web.Close()

	solved := make(chan error, 1)
	go func() {
		_, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "meta", Session: id, FrontendInputs: map[string]*pb.Definition{"mine": {Def: [][]byte{{1}}}}})
		solved <- err
	}()
	ctx := buildid.AppendToOutgoingContext(t.Context(), "meta")
	inLayout := &pb.SourceOp{Identifier: "oci-layout://any/name@" + image.String(), Attrs: map[string]string{pb.AttrOCILayoutStoreID: "lay"}}

	got, err := bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: inLayout})
	if err != nil {
		t.Fatal(err)
	}
	if got.Source.Identifier != inLayout.Identifier || got.Image.GetDigest() != image.String() || !bytes.Contains(got.Image.GetConfig(), []byte("FROM=layout")) {
		t.Errorf("an image of a layout: %v", got)
	}
	config, err := bridge.ResolveImageConfig(ctx, &gwpb.ResolveImageConfigRequest{Ref: "any/name@" + image.String(), StoreID: "lay"})
	if err != nil || config.Digest != image.String() {
		t.Errorf("its config: %v, %v", config, err)
	}
	got, err = bridge.ResolveSourceMeta(ctx, &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: web.URL + "/file"}})
	if err != nil {
		t.Fatal(err)
	}
	if h := got.HTTP; h.GetChecksum() != digest.FromString("hello").String() || h.GetFilename() != "file" || !h.GetLastModified().AsTime().Equal(modified) || got.Git != nil || got.Image != nil {
		t.Errorf("a download: %v", got)
	}

	inputs, err := bridge.Inputs(ctx, &gwpb.InputsRequest{})
	if err != nil || len(inputs.Definitions) != 1 || len(inputs.Definitions["mine"].GetDef()) != 1 {
		t.Errorf("inputs: %v, %v", inputs, err)
	}

	elsewhere := &pb.SourceOp{Identifier: inLayout.Identifier, Attrs: map[string]string{pb.AttrOCILayoutStoreID: "other"}}
	for _, c := range []struct {
		name string
		req  *gwpb.ResolveSourceMetaRequest
		code codes.Code
	}{
		{"no source", &gwpb.ResolveSourceMetaRequest{}, codes.InvalidArgument},
		{"no layout", &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: inLayout.Identifier}}, codes.InvalidArgument},
		{"other layout", &gwpb.ResolveSourceMetaRequest{Source: elsewhere}, codes.NotFound},
		{"no digest", &gwpb.ResolveSourceMetaRequest{Source: &pb.SourceOp{Identifier: "oci-layout://any/name", Attrs: inLayout.Attrs}}, codes.InvalidArgument},
		{"attestations", &gwpb.ResolveSourceMetaRequest{Source: inLayout, Image: &gwpb.ResolveSourceImageRequest{AttestationChain: true}}, codes.Unimplemented},
		{"a sum of more", &gwpb.ResolveSourceMetaRequest{Source: inLayout, HTTP: &gwpb.ResolveSourceHTTPRequest{ChecksumRequest: &gwpb.ChecksumRequest{}}}, codes.Unimplemented},
	} {
		if got, err := bridge.ResolveSourceMeta(ctx, c.req); status.Code(err) != c.code {
			t.Errorf("%s: got %v, %v", c.name, got, err)
		}
	}
	if _, err := bridge.Return(ctx, &gwpb.ReturnRequest{Result: &gwpb.Result{}}); err != nil {
		t.Error(err)
	}
	if err := <-solved; err != nil {
		t.Error(err)
	}

	// A definition may name an image of a layout that nobody has asked about.
	def, err := llb.OCILayout("any/name@"+image.String(), llb.OCIStore(id, "lay")).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := control.Solve(t.Context(), &controlapi.SolveRequest{Ref: "plain", Session: id, Definition: def.ToPB()}); err != nil {
		t.Error(err)
	}
}

// TestGitMeta: the commit behind a tag that is an object is told, and the objects only to who wants them.
func TestGitMeta(t *testing.T) {
	info := dockerfile.SourceInfo{Ref: "refs/tags/v1", Commit: "tag", Tagged: "commit", Object: []byte("c"), Tag: []byte("t")}
	for whole, want := range map[bool]*gwpb.ResolveSourceGitResponse{
		false: {Ref: "refs/tags/v1", Checksum: "tag", CommitChecksum: "commit"},
		true:  {Ref: "refs/tags/v1", Checksum: "tag", CommitChecksum: "commit", CommitObject: []byte("c"), TagObject: []byte("t")},
	} {
		if got := gitMeta(info, whole); got.String() != want.String() {
			t.Errorf("whole=%t: got %v, want %v", whole, got, want)
		}
	}
	if got := gitMeta(dockerfile.SourceInfo{Digest: "sha256:0"}, true); got != nil {
		t.Errorf("a download: %v", got)
	}
}

// TestWishes: what requests say about names and caches.
func TestWishes(t *testing.T) {
	w := &wish{c: &caller{}}
	if err := w.output(0, "oci", map[string]string{"name": "org/repo:tag1,r.example/repo"}); err != nil {
		t.Fatal(err)
	}
	if want := []string{"docker.io/org/repo:tag1", "r.example/repo:latest"}; !slices.Equal(w.names, want) || !slices.Equal(w.o.Outputs[0].Names, want) {
		t.Errorf("names of an archive: %q, %q", w.names, w.o.Outputs[0].Names)
	}
	if err := w.output(1, "oci", map[string]string{"name": "Not A Name"}); err == nil {
		t.Error("a name that is none is taken")
	}
	w = &wish{c: &caller{}}
	err := w.read(&controlapi.SolveRequest{
		FrontendAttrs: map[string]string{"cache-from": "r.example/a,r.example/b:c", "platform": "linux/amd64,linux/arm/v7"},
		Cache:         &controlapi.CacheOptions{Imports: []*controlapi.CacheOptionsEntry{{Type: "local", Attrs: map[string]string{"src": "x"}}}},
	})
	want := []build.CacheRef{
		{Type: "local", Args: map[string]string{"src": "x"}},
		{Type: "registry", Args: map[string]string{"ref": "r.example/a"}}, {Type: "registry", Args: map[string]string{"ref": "r.example/b:c"}},
	}
	if d := cmp.Diff(want, w.o.CacheFrom); err != nil || d != "" {
		t.Errorf("caches: %v, %s", err, d)
	}
	// In an image of several platforms each has the cache of its own steps.
	if d := cmp.Diff([]ocispec.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v7"}}, w.o.Platforms); d != "" {
		t.Errorf("platforms: %s", d)
	}
	if err := new(wish).read(&controlapi.SolveRequest{FrontendAttrs: map[string]string{"platform": "no such//thing"}}); err == nil {
		t.Error("a platform that is none is taken")
	}
}

// TestPlaces: an error tells its lines one by one, and how its file is got again.
func TestPlaces(t *testing.T) {
	lines := func(err error) (list []int32) {
		for _, s := range bkerrdefs.Sources(err) {
			for _, r := range s.Ranges {
				for line := r.Start.Line; line <= r.End.Line; line++ {
					list = append(list, line)
				}
			}
		}
		return list
	}
	def := &pb.Definition{}
	in := func(file string, start, end int) graph.Location {
		return graph.Location{File: file, Text: []byte("text"), Start: start, End: end, Definition: def}
	}
	err := outward(&build.Error{Err: errors.New("broken"), Where: []graph.Location{in("Dockerfile", 2, 2), in("Dockerfile", 3, 4), in("other", 7, 7)}})
	if got := lines(err); !slices.Equal(got, []int32{2, 3, 4, 7}) {
		t.Errorf("lines of a step: %v", got)
	}
	if s := bkerrdefs.Sources(err); len(s) != 2 || s[1].Info.Filename != "other" || len(s[0].Ranges) != 3 || s[0].Info.Definition == nil {
		t.Errorf("its places: %v", s)
	}
	err = outward(&dockerfile.Error{Err: errors.New("wrong"), Where: dockerfile.Location{File: "Dockerfile", Start: 5, End: 6}})
	if got := lines(err); !slices.Equal(got, []int32{5, 6}) {
		t.Errorf("lines of a mistake: %v", got)
	}
	if got := ranges(1, 1<<31-1); len(got) != 1 {
		t.Errorf("%d ranges of a place without end", len(got))
	}
}

// TestEarlyWarning: a frontend warns of what it has not solved yet.
func TestEarlyWarning(t *testing.T) {
	var f feed
	f.init()
	a, b := digest.FromString("a").String(), digest.FromString("b").String()
	f.warn(dockerfile.Warning{Text: "of b", Vertex: b})
	f.warn(dockerfile.Warning{Text: "of none", Vertex: "unknown"})
	f.event(solver.Event{Kind: solver.Started, Vertex: digest.Digest(a)})
	f.event(solver.Event{Kind: solver.Started, Vertex: digest.Digest(b)})
	f.close()
	taker, _ := f.join()
	batch, _ := f.take(taker)
	if w := batch.Warnings; len(w) != 2 || w[0].Vertex != b || w[1].Vertex != a {
		t.Errorf("got %v", w)
	}
}

// TestStatusNames: clients tell by the name what a status is of.
func TestStatusNames(t *testing.T) {
	var f feed
	f.init()
	early, _ := f.join()
	f.event(solver.Event{Kind: solver.Started, Vertex: digest.FromString("v"), Name: "load"})
	f.event(solver.Event{Kind: solver.Progress, Vertex: digest.FromString("v"), Status: solver.Status{ID: "transferring context:", Current: 7}})
	late, _ := f.join()
	for _, taker := range []*taker{early, late} {
		batch, _ := f.take(taker)
		if len(batch.Statuses) != 1 || batch.Statuses[0].Name != "transferring" || batch.Statuses[0].Current != 7 {
			t.Errorf("got %v", batch.Statuses)
		}
	}
}
