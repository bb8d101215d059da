package op

import (
	"errors"
	"testing"

	"github.com/teu-dev/teu/cache/rootfs"
)

// TestAppArmor holds that commands ask for the profile of containers, unless they are insecure.
func TestAppArmor(t *testing.T) {
	root, err := rootfs.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	cannot := errors.New("the profile cannot be loaded")
	x := &Containers{AppArmor: func() (string, error) { return "", cannot }}
	for _, insecure := range []bool{false, true} {
		_, err := x.spec(Process{Args: []string{"true"}, Cwd: "/", Files: root, Insecure: insecure}, "host")
		if insecure && err != nil || !insecure && !errors.Is(err, cannot) {
			t.Errorf("insecure %v: %v", insecure, err)
		}
	}
}
