package oci

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options that a new filesystem would have mean nothing to a bind mount; bundles have them all the
// same, those of runtime-tools among them.
func TestOptionsOfAnotherFilesystem(t *testing.T) {
	b := newBundle(t)
	s := b.spec("true", nil)
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: b.host, Destination: "/m",
		Options: []string{"rbind", "mode=755", "size=1m", "defaults", "sync", "dirsync", "lazytime", "async", "silent", ""}})
	if r := b.run(s); r.err != nil || r.exit.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// A list of processors for commands to come is looked at when the container is made.
func TestBadAffinityOfCommands(t *testing.T) {
	b := newBundle(t)
	for _, a := range []specs.CPUAffinity{{Initial: "x"}, {Final: "1-0"}, {Initial: "0-"}, {Final: "5000"}} {
		s := b.spec("true", nil)
		s.Process.ExecCPUAffinity = &a
		if _, err := Compile(s, Rootfs{Path: b.root}, Options{}); !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("%+v: %v", a, err)
		}
	}
}
