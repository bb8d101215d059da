package build

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/build/export"
	"github.com/teu-dev/teu/build/provenance"
	"github.com/teu-dev/teu/cache/content"
)

// A stated is what these tests look at in a statement about how something was built.
type stated struct {
	Type      string           `json:"_type"`
	Kind      string           `json:"predicateType"`
	Subject   []export.Subject `json:"subject"`
	Predicate struct {
		BuildDefinition struct {
			ResolvedDependencies []struct{ URI string }
			ExternalParameters   struct {
				Request struct {
					Frontend string
					Args     map[string]string
					Secrets  []struct{ ID string }
				}
			}
			InternalParameters struct {
				BuildConfig *struct{ LLBDefinition []struct{ ID string } }
			}
		}
		RunDetails struct {
			Builder  struct{ ID string }
			Metadata struct {
				StartedOn string
				BuildKit  struct {
					Source *struct{ Infos []struct{ Data []byte } }
					Layers map[string][][]ocispec.Descriptor
				} `json:"buildkit_metadata"`
			}
		}
	}
}

// statement returns the image and the one statement of the index target.
func (b *bench) statement(target ocispec.Descriptor) (image ocispec.Descriptor, raw []byte, st stated) {
	b.t.Helper()
	image, m := b.statements(target)
	if len(m.Layers) != 1 {
		b.t.Fatalf("there are %d statements", len(m.Layers))
	}
	raw, err := content.ReadAll(b.t.Context(), b.Store.Content, m.Layers[0])
	if err != nil || json.Unmarshal(raw, &st) != nil {
		b.t.Fatalf("%s: %v", raw, err)
	}
	if st.Kind != m.Layers[0].Annotations["in-toto.io/predicate-type"] {
		b.t.Errorf("the statement is %s, its layer %v", st.Kind, m.Layers[0].Annotations)
	}
	return image, raw, st
}

// statements returns the image and the manifest of statements of the index target.
func (b *bench) statements(target ocispec.Descriptor) (image ocispec.Descriptor, m ocispec.Manifest) {
	b.t.Helper()
	read := func(d ocispec.Descriptor, into any) {
		raw, err := content.ReadAll(b.t.Context(), b.Store.Content, d)
		if err != nil {
			b.t.Fatal(err)
		}
		if err := json.Unmarshal(raw, into); err != nil {
			b.t.Fatal(err)
		}
	}
	var index ocispec.Index
	read(target, &index)
	if len(index.Manifests) != 2 || !content.IsAttestation(index.Manifests[1]) {
		b.t.Fatalf("the index has %v", index.Manifests)
	}
	image = index.Manifests[0]
	if got := index.Manifests[1].Annotations["vnd.docker.reference.digest"]; got != image.Digest.String() {
		b.t.Errorf("the statements are about %s, the image is %s", got, image.Digest)
	}
	read(index.Manifests[1], &m)
	if len(m.Layers) == 0 || m.Subject == nil || m.Subject.Digest != image.Digest || m.Layers[0].MediaType != "application/vnd.in-toto+json" {
		b.t.Errorf("the manifest of statements is %+v", m)
	}
	return image, m
}

var statedLines = []string{"FROM busybox", "ARG WORD", "COPY f /f", "RUN --mount=type=secret,id=key echo $WORD >/word"}

func TestProvenance(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "file\n", "key": "not to be told"})
	o := Options{
		Tags: []string{"app:1"}, Args: map[string]string{"WORD": "argument-1"}, Provenance: &provenance.Options{BuilderID: "https://ci.example/1"},
		Secrets: map[string]Secret{"key": {File: filepath.Join(b.dir, "key")}},
	}
	res, _ := b.must(o, statedLines...)
	image, raw, st := b.statement(res.Target)
	if bytes.Contains(raw, []byte("not to be told")) {
		t.Errorf("a secret is told: %s", raw)
	}
	want := []export.Subject{export.NewSubject("pkg:docker/app@1?platform=linux%2F"+content.Host().Architecture, image.Digest)}
	if diff := cmp.Diff(want, st.Subject); diff != "" {
		t.Errorf("subject (-want +got):\n%s", diff)
	}
	def, run := st.Predicate.BuildDefinition, st.Predicate.RunDetails
	request := def.ExternalParameters.Request
	if st.Kind != "https://slsa.dev/provenance/v1" || request.Frontend != "dockerfile.v0" || request.Args["build-arg:WORD"] != "argument-1" ||
		len(request.Secrets) != 1 || run.Builder.ID != "https://ci.example/1" || run.Metadata.StartedOn == "" {
		t.Errorf("the statement is %s", raw)
	}
	if len(def.ResolvedDependencies) != 1 || !strings.HasPrefix(def.ResolvedDependencies[0].URI, "pkg:docker/busybox@latest?platform=") {
		t.Errorf("materials: %v", def.ResolvedDependencies)
	}
	kit := run.Metadata.BuildKit
	if def.InternalParameters.BuildConfig == nil || kit.Source == nil || !bytes.HasPrefix(kit.Source.Infos[0].Data, []byte("FROM busybox\n")) {
		t.Errorf("no steps or no Dockerfile: %s", raw)
	}
	var m ocispec.Manifest
	if data, err := content.ReadAll(t.Context(), b.Store.Content, image); err != nil || json.Unmarshal(data, &m) != nil {
		t.Fatalf("manifest: %v", err)
	}
	whole := [][]ocispec.Descriptor{m.Layers}
	found := false
	for _, chains := range kit.Layers {
		found = found || cmp.Equal(whole, chains)
	}
	if !found {
		t.Errorf("no step has the layers of the image %v: %v", whole, kit.Layers)
	}
	// The layers are blobs: the digests that are stated are those that a registry will see.
	if made, err := b.Store.Portable(t.Context(), res.Target, ocispec.MediaTypeImageLayerGzip); err != nil || made.Digest != res.Target.Digest {
		t.Errorf("what can travel is %s, not %s: %v", made.Digest, res.Target.Digest, err)
	}
	if img := b.image(res); img.Descriptor.Digest != image.Digest {
		t.Errorf("the image of this machine is %s, want %s", img.Descriptor.Digest, image.Digest)
	}

	o.Provenance = &provenance.Options{Min: true, Version: "v0.2"}
	res, _ = b.must(o)
	_, raw, st = b.statement(res.Target)
	if st.Kind != "https://slsa.dev/provenance/v0.2" || bytes.Contains(raw, []byte("argument-1")) || bytes.Contains(raw, []byte("WORD")) || bytes.Contains(raw, []byte("llbDefinition")) {
		t.Errorf("mode=min says %s", raw)
	}
}

// TestProvenanceOfAnother: an image that had to be made again, as its blobs are gone, is not the one that the
// statement is about.
func TestProvenanceOfAnother(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "file\n"})
	res, _ := b.must(Options{Provenance: &provenance.Options{}, Form: Form{Compression: "zstd"}}, "FROM scratch", "COPY f /f")
	layer := b.manifest(res).Layers[0]
	if err := os.Remove(filepath.Join(b.Store.Root(), "content/blobs/sha256", layer.Digest.Encoded())); err != nil {
		t.Fatal(err)
	}
	made, err := b.Store.Complete(t.Context(), res.Target, ocispec.MediaTypeImageLayerGzip)
	if err != nil {
		t.Fatal(err)
	}
	data, err := content.ReadAll(t.Context(), b.Store.Content, made)
	var index ocispec.Index
	if err != nil || json.Unmarshal(data, &index) != nil {
		t.Fatal(err)
	}
	if len(index.Manifests) != 1 || content.IsAttestation(index.Manifests[0]) {
		t.Errorf("the index has %v", index.Manifests)
	}
}

// TestProvenanceReproducible: with an epoch nothing in the index tells when it was made.
func TestProvenanceReproducible(t *testing.T) {
	var digests []digest.Digest
	for range 2 {
		b := newBench(t)
		b.write(map[string]string{"f": "file\n"})
		res, _ := b.must(Options{Args: map[string]string{"SOURCE_DATE_EPOCH": "1000"}, Provenance: &provenance.Options{}}, "FROM busybox", "COPY f /f", "RUN echo >/x")
		digests = append(digests, res.Target.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("two builds gave %v", digests)
	}
}

// TestProvenanceOfOutputs: what is for registries only is in no archive, nor in a directory.
func TestProvenanceOfOutputs(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "file\n"})
	dir := t.TempDir()
	for _, inline := range []bool{false, true} {
		var archive, files bytes.Buffer
		local := filepath.Join(dir, "local", map[bool]string{true: "inline", false: "all"}[inline])
		if err := os.MkdirAll(local, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc/hostname", filepath.Join(local, "provenance.json")); err != nil {
			t.Fatal(err)
		}
		o := Options{Tags: []string{"app"}, Provenance: &provenance.Options{InlineOnly: inline}, Outputs: []Output{
			{Type: "oci", Writer: &archive}, {Type: "tar", Writer: &files, StatementPrefix: "of-"}, {Type: "local", Dest: local}, {Type: "image"},
		}}
		res, _ := b.must(o, "FROM scratch", "COPY f /dir/f")
		b.statement(res.Target)
		if got := strings.Contains(strings.Join(names(t, &archive), " "), res.Target.Digest.Encoded()); got == inline {
			t.Errorf("inline-only=%t: the archive has the index with statements: %t", inline, got)
		}
		want := []string{"dir/", "dir/f", "of-provenance.json"}
		if inline {
			want = want[:2]
		}
		if diff := cmp.Diff(want, names(t, &files)); diff != "" {
			t.Errorf("inline-only=%t: tar (-want +got):\n%s", inline, diff)
		}
		data, err := os.ReadFile(filepath.Join(local, "provenance.json"))
		if inline {
			continue
		}
		var st stated
		if err != nil || json.Unmarshal(data, &st) != nil {
			t.Fatalf("provenance.json: %v, %s", err, data)
		}
		if diff := cmp.Diff([]export.Subject{export.NewSubject("dir/f", digest.FromString("file\n"))}, st.Subject); diff != "" {
			t.Errorf("subject of files (-want +got):\n%s", diff)
		}
		if fi, err := os.Lstat(filepath.Join(local, "provenance.json")); err != nil || fi.Mode() != 0o600 {
			t.Errorf("provenance.json is %v, %v", fi.Mode(), err)
		}
	}
	_, _, err := b.build(Options{Tags: []string{"app"}, Form: Form{DockerTypes: true}, Provenance: &provenance.Options{}}, "FROM scratch", "COPY f /")
	if err == nil || !strings.Contains(err.Error(), "OCI's media types") {
		t.Errorf("docker's media types: %v", err)
	}
	_, _, err = b.build(Options{Provenance: &provenance.Options{Complete: true}}, "FROM scratch", "COPY f /")
	if err == nil || !strings.Contains(err.Error(), "files of this machine") {
		t.Errorf("complete-materials: %v", err)
	}
}

// TestSBOM: a scanner looks at the result and at the stages that it is told to, and says what is there.
func TestSBOM(t *testing.T) {
	b := newBench(t)
	b.write(map[string]string{"f": "file\n", "scan": `#!/bin/sh
set -e
touch "$BUILDKIT_SCAN_SOURCE/x" 2>/dev/null && exit 3
say() { echo "{\"predicateType\":\"https://spdx.dev/Document\",\"predicate\":{\"files\":\"$(cd $1; echo *) $BUILDKIT_SCAN_WORD\"}}"; }
say $BUILDKIT_SCAN_SOURCE >$BUILDKIT_SCAN_DESTINATION/sbom.spdx.json
for extra in $BUILDKIT_SCAN_SOURCE_EXTRAS/*; do say $extra >$BUILDKIT_SCAN_DESTINATION/$(echo $extra | cut -d/ -f5).spdx.json; done
`})
	if err := os.Chmod(filepath.Join(b.dir, "scan"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.must(Options{Tags: []string{"scanner"}}, "FROM busybox", "COPY scan /scan", `ENTRYPOINT ["/scan"]`)
	settings := "type=sbom,generator=scanner,WORD=told"
	lines := []string{"FROM busybox AS made", "ARG BUILDKIT_SBOM_SCAN_STAGE=true", "RUN touch /made", "FROM scratch", "COPY --from=made /made /", "COPY f /dir/f"}
	var files bytes.Buffer
	o := Options{SBOM: &settings, Provenance: &provenance.Options{Min: true}, Outputs: []Output{{Type: "tar", Writer: &files}, {Type: "image"}}}
	res, _ := b.must(o, lines...)
	if diff := cmp.Diff([]string{"dir/", "dir/f", "made", "sbom.spdx.json", "sbom-made.spdx.json", "provenance.json"}, names(t, &files)); diff != "" {
		t.Errorf("tar (-want +got):\n%s", diff)
	}
	_, manifest := b.statements(res.Target)
	var got []string
	for _, l := range manifest.Layers {
		data, err := content.ReadAll(t.Context(), b.Store.Content, l)
		if err != nil {
			t.Fatal(err)
		}
		var doc struct {
			Kind      string `json:"predicateType"`
			Predicate struct{ Files string }
		}
		if err := json.Unmarshal(data, &doc); err != nil {
			t.Fatal(err)
		}
		got = append(got, doc.Kind+" "+doc.Predicate.Files)
	}
	want := []string{"https://spdx.dev/Document dir made told", "https://spdx.dev/Document bin dev etc made proc root sys tmp usr told", "https://slsa.dev/provenance/v1 "}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statements (-want +got):\n%s", diff)
	}
	for generator, want := range map[string]string{"nosuch.invalid/scanner": "nosuch.invalid", "failing": "exit code: 3"} {
		b.must(Options{Tags: []string{"failing"}}, "FROM busybox", `CMD ["sh", "-c", "exit 3"]`)
		settings := "generator=" + generator
		if _, _, err := b.build(Options{SBOM: &settings}, lines...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("generator=%s: %v", generator, err)
		}
	}
}

// names lists an archive.
func names(t *testing.T, r io.Reader) (list []string) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return list
		}
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, h.Name)
	}
}
