package runner

import (
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
)

// A container that has a volume makes links in it; a part of the volume that is mounted elsewhere lies in it all the same.
func TestSubpathStaysInTheVolume(t *testing.T) {
	outside, volume := t.TempDir(), t.TempDir()
	if err := errors.Join(os.MkdirAll(outside+"/dir", 0o755), os.MkdirAll(volume+"/dir/below", 0o755),
		os.Symlink(outside+"/dir", volume+"/absolute"), os.Symlink("../..", volume+"/dir/up"),
		os.Symlink("/proc/self/root", volume+"/magic"), os.Symlink("dir/below", volume+"/inside")); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{
		"dir": true, "inside": true, "dir/../dir/below": true,
		"absolute": false, "dir/up": false, "dir/up/etc": false, "..": false, "dir/../..": false, "magic": false, "magic/etc": false, "missing": false,
	} {
		f, err := (&MountPoint{Type: "volume", Source: volume, MountDetails: MountDetails{Subpath: name}}).openSubpath()
		if (err == nil) != want || err != nil && name != "missing" && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
		f.Close()
	}
}
