package oci

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Options that nothing would come of are refused.
func TestOptionsOfAnotherFilesystem(t *testing.T) {
	b := newBundle(t)
	for _, opt := range []string{"mode=755", "size=1m", "bogus"} {
		s := b.spec("true", nil)
		s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: b.host, Destination: "/m", Options: []string{"rbind", opt}})
		if r := b.run(s); !errors.Is(r.err, errdefs.ErrInvalidArgument) {
			t.Errorf("%s: %v", opt, r.err)
		}
	}
	s := b.spec("true", nil)
	s.Mounts = append(s.Mounts, specs.Mount{Type: "bind", Source: b.host, Destination: "/m",
		Options: []string{"rbind", "defaults", "sync", "dirsync", "lazytime", "async", "silent", ""}})
	if r := b.run(s); r.err != nil || r.exit.Code != 0 {
		t.Errorf("flags of mount(2): %+v", r)
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
