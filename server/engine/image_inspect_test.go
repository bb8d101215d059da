package engine

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/teu-dev/teu/cache/library"
)

// TestImageInspection: each version has the fields it has had in docker.
func TestImageInspection(t *testing.T) {
	const config = `{"Cmd":["sh"],"User":"","Env":null,"Volumes":{},"Healthcheck":{"Test":["NONE"]}}`
	d := library.Description{ID: "sha256:x", Size: 5, Config: json.RawMessage(config), Descriptor: &ocispec.Descriptor{}}
	const plain = "Architecture Config Id Metadata Os RepoDigests RepoTags RootFS Size"
	for v, want := range map[version]string{
		56: plain + " Descriptor",
		51: plain + " Author Comment Descriptor DockerVersion GraphDriver Parent",
		47: plain + " Author Comment DockerVersion GraphDriver Parent",
		44: plain + " Author Comment Container ContainerConfig DockerVersion GraphDriver Parent",
		43: plain + " Author Comment Container ContainerConfig Created DockerVersion GraphDriver Parent VirtualSize",
	} {
		out, err := imageInspectionOf(d, v)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(strings.FieldsSeq(want))
		if got := fieldsOf(t, out); !slices.Equal(got, names) {
			t.Errorf("1.%d: %v\nwant %v", v, got, names)
		}
	}
	const kept = "Cmd Entrypoint Env Healthcheck Labels OnBuild User Volumes WorkingDir"
	for v, want := range map[version]string{
		56: "Cmd Healthcheck", 51: kept,
		49: kept + " AttachStderr AttachStdin AttachStdout Domainname Hostname Image OpenStdin StdinOnce Tty",
	} {
		out, err := imageConfig(json.RawMessage(config), v)
		if err != nil {
			t.Fatal(err)
		}
		names := slices.Sorted(strings.FieldsSeq(want))
		if got := fieldsOf(t, out); !slices.Equal(got, names) {
			t.Errorf("config in 1.%d: %v\nwant %v", v, got, names)
		}
	}
}

func fieldsOf(t *testing.T, v any) []string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	return slices.Sorted(maps.Keys(fields))
}
