package oci

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/cache/mount"
	"github.com/teu-dev/teu/runner/launch"
)

// TestLabelOfFilesystems holds that what is mounted for a container has the label of its files, in the form that each way
// of mounting wants. Whether the kernel takes it is seen where there is SELinux (TestLabels of runner).
func TestLabelOfFilesystems(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	for _, old := range []bool{false, true} {
		c := &compiler{Assembler: launch.NewAssembler(launch.Options{Slots: 3}), opts: Options{oldKernel: old},
			spec: &specs.Spec{Linux: &specs.Linux{MountLabel: label}}, process: &specs.Process{SelinuxLabel: "u:r:p_t:s0:c1,c2"}}
		if _, err := c.overlay(mount.Overlay{Lowers: []string{"/a", "/b"}, Upper: "/c", Work: "/d"}); err != nil {
			t.Fatal(err)
		}
		c.tmpfs("mode=0755")
		c.labelRoot(c.filesystem("mqueue", "mqueue", 0))
		c.proc = c.filesystem("proc", "proc", 0)
		c.labelKeys()
		p, err := c.Program()
		if err != nil {
			t.Fatal(err)
		}
		text := p.String()
		want := []string{`"context", "` + label + `"`, `, "security.selinux", "` + label + `"`, "thread-self/attr/keycreate"}
		if old {
			want = append(want, `metacopy=off,context=\"system_u:`) // the rest is not shown
		}
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("old kernel %v: no %s in\n%s", old, w, text)
			}
		}
	}
	options := []string{"mode=0755", "size=1"}[:1]
	c := &compiler{spec: &specs.Spec{Linux: &specs.Linux{MountLabel: label}}}
	if got := c.labelled(options); !slices.Equal(got, []string{"mode=0755", "context=" + label}) || options[:2][1] != "size=1" {
		t.Errorf("%v of %v", got, options[:2])
	}
}
