package differential

import (
	"encoding/json"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// readProvenance reads the statement in a manifest of statements, without what differs between any two builds:
// times, and digests, but those of materials.
func readProvenance(files map[string][]byte, d ocispec.Descriptor) (map[string]any, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(blob(files, d), &m); err != nil {
		return nil, fmt.Errorf("manifest of statements: %w", err)
	}
	if len(m.Layers) != 1 || m.Subject == nil {
		return nil, fmt.Errorf("manifest of statements: %s", blob(files, d))
	}
	var st map[string]any
	if err := json.Unmarshal(blob(files, m.Layers[0]), &st); err != nil {
		return nil, fmt.Errorf("statement: %w", err)
	}
	walk := func(names ...string) map[string]any {
		at := st
		for _, name := range names {
			at, _ = at[name].(map[string]any)
		}
		return at
	}
	// What the client asked for is written once more by BuildKit where a frontend was asked in its place.
	delete(walk("predicate", "buildDefinition", "externalParameters", "request"), "root")
	meta := walk("predicate", "runDetails", "metadata")
	for _, name := range []string{"invocationId", "startedOn", "finishedOn"} {
		delete(meta, name)
	}
	internal := walk("predicate", "buildDefinition", "internalParameters")
	if v, ok := internal["dockerfileVersion"].(string); ok {
		internal["dockerfileVersion"] = strings.TrimSuffix(v, "-dev") // the BuildKit here was built without its version
	}
	forgetDigests(st)
	for step, chains := range walk("predicate", "runDetails", "metadata", "buildkit_metadata", "layers") {
		for _, chain := range chains.([]any) {
			walk("predicate", "runDetails", "metadata", "buildkit_metadata", "layers")[step] = fmt.Sprint(len(chain.([]any)), " layers")
		}
	}
	return st, nil
}

// forgetDigests replaces the digests of operations, which have something random in BuildKit's.
func forgetDigests(v any) {
	switch v := v.(type) {
	case map[string]any:
		if digests, ok := v["digestMapping"].(map[string]any); ok {
			v["digestMapping"] = len(digests)
		}
		for _, inner := range v {
			forgetDigests(inner)
		}
	case []any:
		for _, inner := range v {
			forgetDigests(inner)
		}
	}
}
