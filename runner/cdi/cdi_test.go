package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/teu-dev/teu/runner"
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
- name: plain
  containerEdits: {deviceNodes: [{path: /dev/null}]}
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

func TestInject(t *testing.T) {
	in := dirs(t, []string{"etc", "run", "missing"}, map[string]string{"etc/vendor.yaml": vendorYAML, "etc/readme.txt": "no", "etc/bad.json": "{"})
	o := runner.Options{Env: []string{"A=1"}}
	names := []string{"vendor.com/device=zero", "vendor.com/device=plain"}
	if err := Inject(&o, in, names); err != nil {
		t.Fatal(err)
	}
	mode, uid, gid := uint32(0o666), uint32(5), uint32(6)
	want := runner.Options{
		Env: []string{"A=1", "VENDOR=1", "ZERO=yes"},
		Devices: []spec.Device{
			{Source: "/dev/zero", Target: "/dev/vendor0", Access: "rw", Mode: &mode, UID: &uid, GID: &gid},
			{Source: "/dev/null", Target: "/dev/null", Access: "rwm"},
		},
		Mounts: []runner.MountRequest{{
			Type: "bind", Source: "/etc", Target: "/vendor/etc", ReadOnly: true, Propagation: "rprivate", Options: []string{"nosuid"}, Long: true,
		}},
		Groups: []string{"7"}, CDIDevices: names,
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("got  %+v\nwant %+v", o, want)
	}
}

func TestInjectRefuses(t *testing.T) {
	in := dirs(t, []string{"etc", "run"}, map[string]string{
		"etc/a.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"twice","containerEdits":{}},{"name":"hooked","containerEdits":{"hooks":[{"hookName":"createContainer","path":"/bin/true"}]}},{"name":"over","containerEdits":{"env":["X=1"]}}]}`,
		"etc/b.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"twice","containerEdits":{}}]}`,
		"etc/bad.yaml": "cdiVersion: 9\nkind: q\n",
		"run/c.json":   `{"cdiVersion":"1.0.0","kind":"a.b/c","devices":[{"name":"over","containerEdits":{"env":["X=2"]}},{"name":"mounts","containerEdits":{"mounts":[{"hostPath":"/etc","containerPath":"/x","options":["suid"]}]}},{"name":"rel","containerEdits":{"deviceNodes":[{"path":"dev/x"}]}},{"name":"env","containerEdits":{"env":["=1"]}}]}`,
	})
	for name, words := range map[string]string{
		"a.b/c=twice":  "defined twice",
		"a.b/c=hooked": "need hooks",
		"a.b/c=none":   "unresolvable CDI devices a.b/c=none",
		"a.b/c=mounts": `option "suid"`,
		"a.b/c=rel":    "device node",
		"a.b/c=env":    "NAME=VALUE",
	} {
		err := Inject(&runner.Options{}, in, []string{name})
		if err == nil || !strings.Contains(err.Error(), words) || !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Inject(&runner.Options{}, in, []string{"q/r=s"}); err == nil || !strings.Contains(err.Error(), "bad.yaml") {
		t.Errorf("a damaged file is not told: %v", err)
	}
	var o runner.Options
	if err := Inject(&o, in, []string{"a.b/c=over"}); err != nil || !reflect.DeepEqual(o.Env, []string{"X=2"}) {
		t.Errorf("of the later directory: %v, %v", o.Env, err)
	}
}

func TestIsName(t *testing.T) {
	for name, want := range map[string]bool{
		"vendor.com/class=name": true, "v/c=0": true, "v/c=a:b.c-d_e": true, "nvidia.com/gpu=all": true, "v-1.x/c_2=n": true,
		"/dev/x": false, "v/c": false, "v=c": false, "v/c=": false, "/c=n": false, "v/=n": false, "1v/c=n": false, "v/1c=n": false, "v./c=n": false, "v/c.d=n": false, "v/c=-n": false,
	} {
		if IsName(name) != want {
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
			if !IsName(name) {
				t.Errorf("%q is no name", name)
			}
			_ = one.edits.apply(&runner.Options{}) // it does not panic
		}
	})
}
