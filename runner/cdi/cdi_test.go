package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/teu-dev/teu/runner/spec"
)

const vendorYAML = `
cdiVersion: "0.6.0"
kind: vendor.com/device
containerEdits:
  env: [VENDOR=1]
devices:
- name: zero
  containerEdits:
    env: [ZERO=yes]
    deviceNodes:
    - {path: /dev/vendor0, hostPath: /dev/zero, permissions: rw, fileMode: 438, uid: 5, gid: 6}
    mounts:
    - {hostPath: /etc, containerPath: /vendor/etc, options: [ro, nosuid, rbind, rprivate]}
    additionalGids: [7]
    hooks: [{hookName: createContainer, path: /bin/true, args: [true, x], env: [A=B], timeout: 3}]
- name: plain
  containerEdits: {deviceNodes: [{path: /dev/null}, {path: /dev/none, type: b, major: 7, minor: 8}, {path: /dev/zero, type: c}]}
`

// dirs writes files, named DIRECTORY/FILE, and returns the directories in order.
func dirs(t *testing.T, names []string, files map[string]string) (list []string) {
	t.Helper()
	top := t.TempDir()
	for _, name := range names {
		list = append(list, filepath.Join(top, name))
	}
	for name, text := range files {
		path := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// of returns the edits of devices that the files of dirs define.
func of(dirs []string, names ...string) (Edits, error) {
	r, err := Load(dirs)
	if err != nil {
		return Edits{}, err
	}
	return r.Edits(names)
}

func TestEdits(t *testing.T) {
	in := dirs(t, []string{"etc", "run", "missing"}, map[string]string{"etc/vendor.yaml": vendorYAML, "etc/readme.txt": "no", "etc/bad.json": "{"})
	names := []string{"vendor.com/device=zero", "vendor.com/device=plain"}
	o, err := of(in, names...)
	if err != nil {
		t.Fatal(err)
	}
	mode, uid, gid, timeout := uint32(0o666), uint32(5), uint32(6), 3
	want := Edits{
		Env: []string{"VENDOR=1", "ZERO=yes"},
		Devices: []spec.Device{
			{Source: "/dev/zero", Target: "/dev/vendor0", Access: "rw", Mode: &mode, UID: &uid, GID: &gid},
			{Source: "/dev/null", Target: "/dev/null", Access: "rwm"},
			{Source: "/dev/none", Target: "/dev/none", Access: "rwm", Type: "b", Major: 7, Minor: 8},
			{Source: "/dev/zero", Target: "/dev/zero", Access: "rwm"},
		},
		Mounts: []spec.Mount{{
			Type: "bind", Source: "/etc", Target: "/vendor/etc", ReadOnly: true, Propagation: "rprivate", Options: []string{"nosuid"},
		}},
		Groups: []string{"7"},
		Hooks:  &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/bin/true", Args: []string{"true", "x"}, Env: []string{"A=B"}, Timeout: &timeout}}},
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

func TestEditsRefuses(t *testing.T) {
	in := dirs(t, []string{"etc", "run"}, map[string]string{
		"etc/a.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"twice","containerEdits":{}},{"name":"hooked","containerEdits":{"hooks":[{"hookName":"sometime","path":"/bin/true"}]}},{"name":"over","containerEdits":{"env":["X=1"]}}]}`,
		"etc/b.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"twice","containerEdits":{}}]}`,
		"etc/bad.yaml": "cdiVersion: 9\nkind: q\n",
		"run/c.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"over","containerEdits":{"env":["X=2"]}},{"name":"mounts","containerEdits":{"mounts":[{"hostPath":"/etc","containerPath":"/x","options":["suid"]}]}},{"name":"rel","containerEdits":{"deviceNodes":[{"path":"dev/x"}]}},{"name":"env","containerEdits":{"env":["=1"]}},{"name":"kind","containerEdits":{"deviceNodes":[{"path":"/dev/x","type":"d"}]}}]}`,
	})
	for name, words := range map[string]string{
		"a.b/c=twice":  "defined twice",
		"a.b/c=hooked": `hook "sometime"`,
		"a.b/c=none":   "unresolvable CDI devices a.b/c=none",
		"a.b/c=mounts": `option "suid"`,
		"a.b/c=rel":    "device node",
		"a.b/c=env":    "NAME=VALUE",
		"a.b/c=kind":   `type "d"`,
	} {
		_, err := of(in, name)
		if err == nil || !strings.Contains(err.Error(), words) || !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := of(in, "q/r=s"); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("a damaged file is not told: %v", err)
	}
	if o, err := of(in, "a.b/c=over"); err != nil || !reflect.DeepEqual(o.Env, []string{"X=2"}) {
		t.Errorf("of the later directory: %v, %v", o.Env, err)
	}
}

func TestDevices(t *testing.T) {
	in := dirs(t, []string{"etc", "run"}, map[string]string{
		"etc/a.yaml": "cdiVersion: 0.6.0\nkind: a.b/c\nannotations: {x: file, n: 1}\ndevices: [{name: two, annotations: {x: own, y: true}}, {name: one}, {name: twice}]\n",
		"etc/b.yaml": "cdiVersion: 0.6.0\nkind: a.b/c\ndevices: [{name: twice}]\n",
		"run/c.yaml": "cdiVersion: 0.6.0\nkind: a.b/c\ndevices: [{name: one}]\n",
	})
	r, err := Load(in)
	if err != nil {
		t.Fatal(err)
	}
	want := []Device{
		{"a.b/c=one", map[string]string{}},
		{"a.b/c=two", map[string]string{"x": "own", "y": "true", "n": "1"}},
	}
	if got := r.Devices(); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// isName says whether s is VENDOR/CLASS=NAME.
func isName(s string) bool {
	kind, name, ok := strings.Cut(s, "=")
	return ok && isKind(kind) && isWord(name, "_-.:")
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"vendor.com/class=name": true, "v/c=0": true, "v/c=a:b.c-d_e": true, "nvidia.com/gpu=all": true, "v-1.x/c_2=n": true,
		"/dev/x": false, "v/c": false, "v=c": false, "v/c=": false, "/c=n": false, "v/=n": false, "1v/c=n": false, "v/1c=n": false, "v./c=n": false, "v/c.d=n": false, "v/c=-n": false,
	} {
		if isName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(vendorYAML))
	f.Add([]byte(`{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[]}`))
	f.Add([]byte("a: &a [*a, *a]\ncdiVersion: 1\nkind: a/b"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := parse(data)
		if err != nil {
			return
		}
		here := map[string]*found{}
		d.list(here)
		for name, one := range here {
			if !isName(name) {
				t.Errorf("%q is no name", name)
			}
			_ = one.edits.apply(&Edits{}) // it does not panic
		}
	})
}
