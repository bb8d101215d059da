package main

import (
	"testing"

	"github.com/teu-dev/teu/server/engine"
)

// The front tells what the API tells, which it does not link.
func TestDockerVersion(t *testing.T) {
	if dockerVersion != engine.DockerVersion {
		t.Errorf("teu version says %q, the API %q", dockerVersion, engine.DockerVersion)
	}
}
