package oci

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/teu-dev/teu/runner/spec"
)

// What is in the place of a device stays as it is: the start fails, unless it is that device.
func TestDevicesInThePlaceOfFiles(t *testing.T) {
	b := newBundle(t)
	start := func(d specs.LinuxDevice) result {
		t.Helper()
		s := b.spec("stat -c %F:%t:%T:%a "+d.Path, nil)
		s.Linux.Devices = append(s.Linux.Devices, d)
		return b.run(s)
	}
	b.symlink("passwd", "etc/link")
	for _, path := range []string{"/etc/passwd", "/etc/link", "/etc/../etc/passwd", "/bin"} {
		if r := start(specs.LinuxDevice{Path: path, Type: "c", Major: 1, Minor: 5}); !errors.Is(r.err, unix.EEXIST) {
			t.Errorf("%s: %v", path, r.err)
		}
	}
	if text, err := os.ReadFile(b.root + "/etc/passwd"); err != nil || len(text) == 0 {
		t.Errorf("/etc/passwd: %q, %v", text, err)
	}
	mode := new(os.FileMode)
	*mode = 0o640
	zero := specs.LinuxDevice{Path: "/etc/zero", Type: "c", Major: 1, Minor: 5, FileMode: mode}
	for range 2 { // the second time it is there
		if r := start(zero); r.err != nil || r.out != "character special file:1:5:640\n" {
			t.Errorf("%+v", r)
		}
	}
	for _, d := range []specs.LinuxDevice{
		{Path: zero.Path, Type: "c", Major: 1, Minor: 7}, {Path: zero.Path, Type: "b", Major: 1, Minor: 5}, {Path: zero.Path, Type: "p"},
	} {
		if r := start(d); !errors.Is(r.err, unix.EEXIST) {
			t.Errorf("%+v: %v", d, r.err)
		}
	}
}

// Without a terminal /dev/console is a device as any other.
func TestConsoleDevice(t *testing.T) {
	b := newBundle(t)
	s := b.spec("stat -c %t:%T /dev/console", nil)
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/console", Type: "c", Major: 5, Minor: 1})
	if r := b.run(s); r.err != nil || r.out != "5:1\n" {
		t.Errorf("%+v", r)
	}
	s = b.spec("stat -c %t:%T /dev/console", func(o *spec.Options) { o.TTY = true })
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/console", Type: "c", Major: 5, Minor: 1})
	if r := b.run(s); r.err != nil || r.out != "88:0\n" {
		t.Errorf("with a terminal: %+v", r)
	}
}

// With a terminal /dev/console is that, whoever made /dev; config-linux.md, "Default Devices".
func TestConsoleInForeignDev(t *testing.T) {
	for name, change := range map[string]func(b *bundle, s *specs.Spec){
		"image": func(*bundle, *specs.Spec) {},
		"bind": func(b *bundle, s *specs.Spec) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/pts", 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/console", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			s.Mounts = slices.Insert(s.Mounts, 0, specs.Mount{Destination: "/dev", Type: "bind", Source: dir, Options: []string{"rbind"}})
		},
	} {
		b := newBundle(t)
		s := b.spec("stat -c %t:%T /dev/console", func(o *spec.Options) { o.TTY = true })
		s.Mounts = slices.DeleteFunc(s.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev" })
		change(b, s)
		if r := b.run(s); r.err != nil || r.out != "88:0\n" {
			t.Errorf("%s: %+v", name, r)
		}
	}
}
