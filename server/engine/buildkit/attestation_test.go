package buildkit

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/op"
	"github.com/teu-dev/teu/registry"
	"github.com/teu-dev/teu/runner/network"
	registryserver "github.com/teu-dev/teu/server/registry"
)

// TestClientAttestations: a client states of its result what it likes, without asking for a scan.
func TestClientAttestations(t *testing.T) {
	f := newFixture(t)
	says := func(change func(*gateway.Attestation)) func(context.Context, gateway.Client) (*gateway.Result, error) {
		return func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			res := gateway.NewResult()
			res.SetRef(solved(ctx, t, g, llb.Scratch().File(llb.Mkfile("/file", 0o644, []byte("x")))))
			ref := solved(ctx, t, g, llb.Scratch().File(llb.Mkfile("/a.json", 0o644, []byte(`{"ok":true}`)).Mkfile("/b.json", 0o644, nil).Mkfile("/bad", 0o644, []byte("{"))))
			first := gateway.Attestation{Kind: gwpb.AttestationKind_InToto, Ref: ref, Path: "/a.json"}
			first.InToto.PredicateType = "https://example.com/a"
			first.InToto.Subjects = []result.InTotoSubject{{Kind: gwpb.InTotoSubjectKind_Self, Name: "alias"}}
			second := gateway.Attestation{Kind: gwpb.AttestationKind_InToto, Ref: ref, Path: "/b.json", Metadata: map[string][]byte{result.AttestationInlineOnlyKey: []byte("true")}}
			second.InToto.PredicateType = "https://example.com/b"
			second.InToto.Subjects = []result.InTotoSubject{{Kind: gwpb.InTotoSubjectKind_Raw, Name: "thing", Digest: []digest.Digest{digest.FromString("thing")}}}
			if change != nil {
				change(&first)
			}
			res.AddAttestation("linux/amd64", first)
			res.AddAttestation("linux/amd64", second)
			res.AddMeta("refs.platforms", []byte(`{"Platforms":[{"ID":"linux/amd64","Platform":{"os":"linux","architecture":"amd64"}}]}`))
			return res, nil
		}
	}
	type statement struct {
		Type    string `json:"_type"`
		Kind    string `json:"predicateType"`
		Subject []struct {
			Name   string
			Digest map[string]string
		}
		Predicate any
	}
	read := func(data []byte) (st statement) {
		t.Helper()
		if err := json.Unmarshal(data, &st); err != nil {
			t.Fatal(err)
		}
		return st
	}

	dir := t.TempDir()
	if _, err := f.client(t).Build(t.Context(), client.SolveOpt{Exports: []client.ExportEntry{{Type: "local", OutputDir: dir}}}, "", says(nil), nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "a.json"))
	if err != nil {
		t.Fatal(err)
	}
	st, of := read(data), digest.FromString("x").Encoded()
	if st.Type != "https://in-toto.io/Statement/v1" || st.Kind != "https://example.com/a" || len(st.Subject) != 2 ||
		st.Subject[0].Name != "file" || st.Subject[1].Name != "alias" || st.Subject[1].Digest["sha256"] != of {
		t.Errorf("of files: %s", data)
	}
	if _, err := os.Stat(filepath.Join(dir, "b.json")); err == nil {
		t.Error("what is for images only is beside files")
	}

	res, err := f.client(t).Build(t.Context(), client.SolveOpt{Exports: []client.ExportEntry{{Type: "image", Attrs: map[string]string{"name": "stated:1"}}}}, "", says(nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	var manifest ocispec.Manifest
	get := func(d digest.Digest, to any) []byte {
		t.Helper()
		b, err := os.ReadFile(f.store.Content.Path(d))
		if err == nil && to != nil {
			err = json.Unmarshal(b, to)
		}
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	var target ocispec.Descriptor
	names, _ := filepath.Glob(f.store.Root() + "/content/blobs/sha256/*")
	for _, name := range names {
		b, err := os.ReadFile(name)
		var ix ocispec.Index
		if err == nil && json.Unmarshal(b, &ix) == nil && ix.MediaType == ocispec.MediaTypeImageIndex {
			index, target.Digest = ix, digest.FromBytes(b)
		}
	}
	if target.Digest == "" || len(index.Manifests) != 2 {
		t.Fatalf("no index of two: %v, %v", res.ExporterResponse, names)
	}
	get(index.Manifests[1].Digest, &manifest)
	if len(manifest.Layers) != 2 {
		t.Fatalf("statements: %v", manifest)
	}
	if st := read(get(manifest.Layers[0].Digest, nil)); st.Kind != "https://example.com/a" || len(st.Subject) != 2 || st.Subject[0].Digest["sha256"] != index.Manifests[0].Digest.Encoded() {
		t.Errorf("of the image: %v", st)
	}
	if st := read(get(manifest.Layers[1].Digest, nil)); len(st.Subject) != 1 || st.Subject[0].Name != "thing" || st.Predicate != nil {
		t.Errorf("of a thing: %v", st)
	}

	for name, c := range map[string]struct {
		change func(*gateway.Attestation)
		want   string
	}{
		"no JSON":     {func(a *gateway.Attestation) { a.Path = "/bad" }, "no JSON"},
		"no file":     {func(a *gateway.Attestation) { a.Path = "/none" }, "no such file"},
		"no type":     {func(a *gateway.Attestation) { a.InToto.PredicateType = "" }, "makes no sense"},
		"a directory": {func(a *gateway.Attestation) { a.Path = "/" }, "not a regular file"},
	} {
		_, err := f.client(t).Build(t.Context(), client.SolveOpt{Exports: []client.ExportEntry{{Type: "local", OutputDir: t.TempDir()}}}, "", says(c.change), nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestClientScan: a client that has no Dockerfile asks for what is in its result, and a scanner says it unless the client does.
func TestClientScan(t *testing.T) {
	f := newExecFixture(t)
	f.executor = &op.Containers{Keeper: sealed, Network: network.New(f.store.RunRoot()), Warn: func(s string) { t.Log(s) }}
	c := f.client(t)
	const scan = `echo "{\"predicateType\":\"https://spdx.dev/Document\",\"predicate\":{\"files\":\"$(cd $BUILDKIT_SCAN_SOURCE; echo *) $BUILDKIT_SCAN_WORD\"}}" >$BUILDKIT_SCAN_DESTINATION/found.spdx.json`
	config, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{Architecture: "amd64", OS: "linux"}, Config: ocispec.ImageConfig{Entrypoint: sh(scan)},
	})
	if err != nil {
		t.Fatal(err)
	}
	box, err := boxes(t).Marshal(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	scanner := client.ExportEntry{Type: "image", Attrs: map[string]string{"name": "scanner:1", "containerimage.config": string(config)}}
	if _, err := c.Solve(t.Context(), box, client.SolveOpt{Exports: []client.ExportEntry{scanner}}, nil); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := client.SolveOpt{
		FrontendAttrs: map[string]string{"attest:sbom": "generator=scanner:1,WORD=told"},
		Exports:       []client.ExportEntry{{Type: "local", OutputDir: dir}},
	}
	found := func(name string) (files string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name))
		var st struct{ Predicate struct{ Files string } }
		if err == nil {
			err = json.Unmarshal(b, &st)
		}
		if err != nil {
			t.Fatal(err)
		}
		return st.Predicate.Files
	}
	if _, err := c.Solve(t.Context(), oneFile(t, []byte("x")), o, nil); err != nil {
		t.Fatal(err)
	}
	if got := found("found.spdx.json"); got != "file told" {
		t.Errorf("of a definition: %q", got)
	}

	dir = t.TempDir()
	o.Exports[0].OutputDir = dir
	says := func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
		res := gateway.NewResult()
		res.SetRef(solved(ctx, t, g, llb.Scratch().File(llb.Mkfile("/file", 0o644, nil))))
		res.AddMeta("refs.platforms", []byte(`{"Platforms":[{"ID":"linux/amd64","Platform":{"os":"linux","architecture":"amd64"}}]}`))
		own := gateway.Attestation{
			Kind: gwpb.AttestationKind_InToto, Path: "/own.json",
			Ref: solved(ctx, t, g, llb.Scratch().File(llb.Mkfile("/own.json", 0o644, []byte(`{"files":"mine"}`)))),
		}
		own.InToto.PredicateType = "https://spdx.dev/Document"
		res.AddAttestation("linux/amd64", own)
		return res, nil
	}
	if _, err := c.Build(t.Context(), o, "", says, nil); err != nil {
		t.Fatal(err)
	}
	if got := found("own.json"); got != "mine" {
		t.Errorf("of a client's own: %q", got)
	}
	if _, err := os.Stat(filepath.Join(dir, "found.spdx.json")); err == nil {
		t.Error("what the client has said was looked for by a scanner")
	}
}

// TestAttestationChain: a client learns what is stated of an image, and who signed that.
func TestAttestationChain(t *testing.T) {
	served, err := registryserver.New(registryserver.Options{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	web := httptest.NewServer(served)
	defer web.Close()
	name := strings.TrimPrefix(web.URL, "http://") + "/stated"
	f := newFixture(t)
	c := f.client(t)
	image := client.ExportEntry{Type: "image", Attrs: map[string]string{"name": name + ":1", "push": "true"}}
	o := client.SolveOpt{FrontendAttrs: map[string]string{"attest:provenance": "mode=max"}, Exports: []client.ExportEntry{image}}
	if _, err := c.Solve(t.Context(), oneFile(t, []byte("x")), o, nil); err != nil {
		t.Fatal(err)
	}

	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		t.Fatal(err)
	}
	repo, err := registry.New(registry.Options{}).Repository(named)
	if err != nil {
		t.Fatal(err)
	}
	root, data, err := repo.Manifest(t.Context(), "1")
	var index ocispec.Index
	if err == nil {
		err = json.Unmarshal(data, &index)
	}
	if err != nil || len(index.Manifests) != 2 {
		t.Fatalf("%s, %v", data, err)
	}
	push := func(mediaType string, data []byte) ocispec.Descriptor {
		t.Helper()
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		if err := repo.Push(t.Context(), d, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	const bundle = "application/vnd.dev.sigstore.bundle.v0.3+json"
	signed := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundle,
		Config: push(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{push(bundle, []byte(`{"signed":true}`))}, Subject: &index.Manifests[1],
	}
	data, err = json.Marshal(signed)
	if err != nil {
		t.Fatal(err)
	}
	signature := push(ocispec.MediaTypeImageManifest, data)

	ask := func(image sourceresolver.ResolveImageOpt) (res *sourceresolver.ResolveImageResponse) {
		t.Helper()
		_, err := c.Build(t.Context(), client.SolveOpt{}, "", func(ctx context.Context, g gateway.Client) (*gateway.Result, error) {
			md, err := g.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: "docker-image://" + name + ":1"}, sourceresolver.Opt{ImageOpt: &image})
			if err != nil {
				return nil, err
			}
			res = md.Image
			return gateway.NewResult(), nil
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	got := ask(sourceresolver.ResolveImageOpt{NoConfig: true, AttestationChain: true})
	chain := got.AttestationChain
	if got.Config != nil || chain == nil || chain.Root != root.Digest || chain.ImageManifest != index.Manifests[0].Digest || chain.AttestationManifest != index.Manifests[1].Digest ||
		!slices.Equal(chain.SignatureManifests, []digest.Digest{signature.Digest}) || len(chain.Blobs) != 4 {
		t.Fatalf("the chain is %+v", chain)
	}
	if b := chain.Blobs[signed.Layers[0].Digest]; string(b.Data) != `{"signed":true}` || b.Descriptor.MediaType != bundle {
		t.Errorf("the signature is %+v", b)
	}
	got = ask(sourceresolver.ResolveImageOpt{ResolveAttestations: []string{"https://slsa.dev/provenance/v1"}})
	chain = got.AttestationChain
	if len(got.Config) == 0 || chain == nil || len(chain.Blobs) != 5 {
		t.Fatalf("the chain with provenance is %+v", chain)
	}
	if got := ask(sourceresolver.ResolveImageOpt{}); got.AttestationChain != nil {
		t.Errorf("nobody asked for %+v", got.AttestationChain)
	}
}
