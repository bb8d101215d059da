package build

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const vendorYAML = `
cdiVersion: "0.6.0"
kind: vendor.com/gpu
annotations: {org.mobyproject.buildkit.device.class: any-gpu}
containerEdits: {env: [VENDOR=here]}
devices:
- name: one
  containerEdits:
    env: [GPU=one]
    deviceNodes: [{path: /dev/gpu1, hostPath: /dev/zero}]
    mounts: [{hostPath: LIB, containerPath: /opt/vendor/lib, options: [ro, rbind]}]
    additionalGids: [77]
- {name: two, containerEdits: {env: [GPU=two]}}
`

const freeYAML = `
cdiVersion: "0.6.0"
kind: vendor.com/free
devices: [{name: x, annotations: {org.mobyproject.buildkit.device.autoallow: true}, containerEdits: {env: [FREE=x]}}]
`

// withDevices is a bench on a machine with three devices.
func withDevices(t *testing.T) *bench {
	t.Helper()
	b := newBench(t)
	dir := t.TempDir()
	lib := filepath.Join(dir, "lib")
	vendor := strings.ReplaceAll(vendorYAML, "LIB", lib)
	for name, text := range map[string]string{"lib": "library", "vendor.yaml": vendor, "free.yaml": freeYAML} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b.CDIDirs = []string{dir}
	return b
}

func TestDevice(t *testing.T) {
	b := withDevices(t)
	const script = ` echo $GPU $VENDOR $FREE; head -c 3 /dev/gpu1 | wc -c; cat /opt/vendor/lib; id -G`
	res, l := b.must(Options{Entitlements: []string{"device=vendor.com/gpu=one"}}, "FROM busybox", "RUN --device=vendor.com/gpu=one,required"+script)
	if got := l.output.String(); got != "one here\n3\nlibrary0 77\n" {
		t.Errorf("the step said %q", got)
	}
	if files := b.files(res); len(files) > 0 {
		t.Errorf("the mount of the device is in the image: %q", files)
	}
	if _, l := b.must(Options{Entitlements: []string{"device=vendor.com/gpu=*"}}); len(l.ran) > 0 {
		t.Errorf("ran %q, the device is the same", l.ran)
	}
	for name, want := range map[string]string{
		"vendor.com/gpu":          "one",
		"vendor.com/gpu=two":      "two",
		"vendor.com/gpu=*":        "two", // of both, the later
		"any-gpu":                 "two",
		"mine":                    "two",
		"vendor.com/gpu=nine":     "", // may be missing
		"name=vendor.com/gpu=two": "two",
	} {
		for _, allow := range [][]string{{"device"}, {"device=any-gpu", "device=vendor.com/gpu=two,alias=mine"}} {
			if name == "mine" && len(allow) == 1 {
				continue
			}
			_, l, err := b.build(Options{NoCache: true, Entitlements: allow}, "FROM busybox", "RUN --device="+name+" echo got $GPU")
			if got := strings.TrimPrefix(strings.TrimSpace(l.output.String()), "got"); err != nil || strings.TrimSpace(got) != want {
				t.Errorf("%s with %q: %v, said %q, want %q", name, allow, err, got, want)
			}
		}
	}
}

func TestDeviceRefused(t *testing.T) {
	b := withDevices(t)
	for _, c := range []struct {
		device string
		allow  []string
		want   string
		class  error
	}{
		{"vendor.com/gpu=one", nil, "device vendor.com/gpu=one is requested by the build but not allowed", errdefs.ErrPermissionDenied},
		{"vendor.com/gpu=*", []string{"device=vendor.com/gpu=two"}, "device vendor.com/gpu=one is requested by the build but not allowed", errdefs.ErrPermissionDenied},
		{"any-gpu", []string{"network.host"}, "devices vendor.com/gpu=one, vendor.com/gpu=two are requested by the build but not allowed", errdefs.ErrPermissionDenied},
		{"vendor.com/gpu=nine,required", nil, `required device "vendor.com/gpu=nine" is not registered`, errdefs.ErrNotFound},
		{"other,required", []string{"device"}, `required device "other" is not registered`, errdefs.ErrNotFound},
		{"x", []string{"devices"}, "unknown entitlement devices", errdefs.ErrInvalidArgument},
		{"x", []string{"device=a,name=b"}, `"name=b" is not alias=NAME`, errdefs.ErrInvalidArgument},
		{"x", []string{"device="}, "names no device", errdefs.ErrInvalidArgument},
	} {
		_, _, err := b.build(Options{Entitlements: c.allow}, "FROM busybox", "RUN --device="+c.device+" true")
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.class) {
			t.Errorf("%s with %q: %v, want %q", c.device, c.allow, err, c.want)
		}
	}
}

// TestDeviceKey holds that a step reruns when it gets other devices, and not for one that is missing.
func TestDeviceKey(t *testing.T) {
	b := withDevices(t)
	step := func(device string) []string {
		return []string{"FROM busybox", "RUN --device=" + device + " echo $FREE >/f"}
	}
	b.must(Options{}, step("vendor.com/free=x")...)
	if _, l := b.must(Options{}, step("vendor.com/free")...); len(l.ran) > 0 {
		t.Errorf("ran %q for another name of the device", l.ran)
	}
	if _, l := b.must(Options{}, step("vendor.com/free=y")...); len(l.ran) != 1 {
		t.Errorf("ran %q without the device", l.ran)
	}
	if _, l := b.must(Options{}, step("vendor.com/none")...); len(l.ran) > 0 {
		t.Errorf("ran %q without another device", l.ran)
	}
	res, l := b.must(Options{}, "FROM busybox", "RUN echo $FREE >/f")
	if len(l.ran) > 0 || !slices.Equal(b.files(res), []string{"f 644 0:0"}) {
		t.Errorf("ran %q, want the step without the device", l.ran)
	}
}
