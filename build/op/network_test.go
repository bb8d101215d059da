package op

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/solver/pb"

	"github.com/teu-dev/teu/runner/network"
)

// alone runs the test in a process with a network namespace of its own, so that nothing reaches the host's,
// and says whether it has.
func alone(t *testing.T) bool {
	t.Helper()
	if os.Getenv("TEU_OP_NETNS") != "" {
		return false
	}
	newEnv(t) // skips without root
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "TEU_OP_NETNS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return true
}

func TestNetworks(t *testing.T) {
	if alone(t) {
		return
	}
	e, base := execEnv(t)
	e.Executor.(*Containers).Network = network.New(e.Store.RunRoot())
	e.Entitlements = []string{"network.host"}
	for _, c := range []struct {
		mode pb.NetMode
		want string
	}{{pb.NetMode_UNSET, "eth0 lo"}, {pb.NetMode_NONE, "lo"}, {pb.NetMode_HOST, "host"}} {
		mode, want := c.mode, c.want
		o := command("ls /sys/class/net; busybox cat /etc/resolv.conf >/resolv")
		o.Network = mode
		_, said, err := run(t.Context(), t, e, o, base)
		if err != nil {
			t.Fatalf("%s: %v: %s", mode, err, said)
		}
		got := strings.Join(strings.Fields(said), " ")
		if want == "host" {
			if !strings.Contains(got, "teu") { // the bridge is only there
				t.Errorf("%s: sees %q, want the host's bridge", mode, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%s: sees %q, want %q", mode, got, want)
		}
	}
	if err := e.Executor.(*Containers).Network.Reset(t.Context()); err != nil {
		t.Errorf("something is still attached: %v", err)
	}
}
