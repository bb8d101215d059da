package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	v1Mounts = `32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:1 - cgroup cgroup rw,cpu,cpuacct
34 31 0:31 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset,clone_children
35 31 0:32 / /mnt/my\040cgroup/memory rw - cgroup cgroup rw,memory
36 31 0:32 /a/b /other/memory rw - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
`
	v2Mount = "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"
)

func TestParseMountinfo(t *testing.T) {
	v1 := []Hierarchy{
		{"cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct", []string{"cpu", "cpuacct"}},
		{"cpuset", "/sys/fs/cgroup/cpuset", []string{"cpuset"}},
		{"memory", "/mnt/my cgroup/memory", []string{"memory"}},
		{"systemd", "/sys/fs/cgroup/systemd", []string{"name=systemd"}},
	}
	for _, tt := range []struct {
		name, text string
		mode       Mode
		want       []Hierarchy
	}{
		{"none", "27 1 254:0 / / rw - ext4 /dev/vda rw\nnonsense\n", None, nil},
		{"v1", v1Mounts, V1, v1},
		{"hybrid", v2Mount + v1Mounts, V1, v1},
		{"v2", v2Mount, V2, []Hierarchy{{"", "/sys/fs/cgroup/unified", nil}}},
		{"v2 with a named v1", v2Mount + "40 31 0:37 / /s rw - cgroup cgroup rw,name=systemd\n", V2, []Hierarchy{{"", "/sys/fs/cgroup/unified", nil}}},
		{"namespace of a container", "41 31 0:38 /../../.. /sys/fs/cgroup rw - cgroup2 c rw\n", V2, []Hierarchy{{"", "/sys/fs/cgroup", nil}}},
	} {
		h, err := parseMountinfo(strings.NewReader(tt.text))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(tt.want, h.Hierarchies()); diff != "" || h.Mode() != tt.mode {
			t.Errorf("%s: mode %v, %s", tt.name, h.Mode(), diff)
		}
	}
	if got := (Hierarchy{Controllers: []string{"name=systemd"}}).Options(); !cmp.Equal(got, []string{"none", "name=systemd"}) {
		t.Errorf("options of a named hierarchy: %q", got)
	}
}

// A group of a container that was made before groups were made in the hierarchy of systemd
// can still be joined.
func TestJoinsWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	h := &Host{mode: V1, hierarchies: []Hierarchy{
		{"memory", filepath.Join(dir, "memory"), []string{"memory"}},
		{"systemd", filepath.Join(dir, "systemd"), []string{"name=systemd"}},
	}}
	g := h.Open("/one")
	want := []string{filepath.Join(dir, "memory/one/tasks")}
	if diff := cmp.Diff(want, g.Joins()); diff != "" {
		t.Error("without a group of systemd's:", diff)
	}
	if err := os.MkdirAll(filepath.Join(dir, "systemd/one"), 0o755); err != nil {
		t.Fatal(err)
	}
	want = append(want, filepath.Join(dir, "systemd/one/tasks"))
	if diff := cmp.Diff(want, g.Joins()); diff != "" {
		t.Error("with one:", diff)
	}
}

func FuzzParseMountinfo(f *testing.F) {
	f.Add(v1Mounts + v2Mount)
	f.Fuzz(func(t *testing.T, text string) {
		h, err := parseMountinfo(strings.NewReader(text))
		if err == nil && (h.Mode() == None) != (len(h.Hierarchies()) == 0) {
			t.Errorf("mode %v with %v", h.Mode(), h.Hierarchies())
		}
	})
}
